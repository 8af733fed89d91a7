"""The page in Gradio: which doors it has, what its inputs are called, and that errors are words at both doors.

`tests/extra/check_app.py` uses it in a browser.
"""

from types import SimpleNamespace

import pytest

from support.evaluation_models import make_model
from support.tiny_models import save_clip
from support.videos import write_video
from transformers_ila import IlaVideoProcessor
from transformers_ila.app.models import ModelCache
from transformers_ila.app.options import AppOptions
from transformers_ila.app.uploads import Inputs
from transformers_ila.evaluation.options import IndexOptions
from transformers_ila.search.indexing import index_videos, load_for_index


gr = pytest.importorskip("gradio", reason="the page needs the extra `app`: Gradio")
from transformers_ila.app.page import NO_INDEX, NO_MODEL, Page, build_page, words_of  # noqa: E402


ASKING = SimpleNamespace(session_hash="a user")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, a CLIP, an index of it and a video."""
    folder = tmp_path_factory.mktemp("page")
    model = make_model(classification_head="linear")
    model.save_pretrained(folder / "model")
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder / "model")
    save_clip(folder / "clip")
    video = write_video(folder / "clip.mp4", 20)
    clip, processor = load_for_index(folder / "clip")
    index_videos(
        clip, processor, [("a.mp4", str(video))], folder / "index", IndexOptions(), source=str(folder / "clip")
    )
    return folder


def page_of(options, tmp_path):
    return Page(options, ModelCache(options), Inputs(options, tmp_path))


def labelled(block):
    return getattr(block, "label", None)


def test_doors_names_and_look(folder, tmp_path):
    options = AppOptions(models=[str(folder / "model")], folders=[str(folder)], index=str(folder / "index"))
    page = build_page(options, ModelCache(options), Inputs(options, tmp_path))
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert public == {"label", "look", "timeline", "search"}
    assert not [fn for fn in page.fns.values() if fn.api_visibility == "undocumented"]
    inputs = [block for block in page.blocks.values() if isinstance(block, gr.components.FormComponent | gr.Video)]
    assert len(inputs) > 8 and all(labelled(block) for block in inputs)
    ids = [block.elem_id for block in page.blocks.values() if block.elem_id]
    assert len(ids) == len(set(ids)) > 20 and all(name.startswith("ila-") for name in ids)
    assert ".ila-status" in page.look["css"] and "http" not in page.look["css"]
    assert not page.look["theme"]._font_css, "fonts of other servers"
    info = page.get_api_info()["named_endpoints"]
    assert [given["parameter_name"] for given in info["/label"]["parameters"]] == ["video", "path", "model", "words"]
    assert all(given["parameter_has_default"] for door in info.values() for given in door["parameters"])


def test_without_a_model_or_an_index_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = AppOptions()
    page = page_of(options, tmp_path)
    built = page.build()
    shown = " ".join(str(block.value) for block in built.blocks.values() if isinstance(block, gr.HTML))
    assert "ila demo" in shown and "ila index" in shown
    assert "ila demo" in page._describe("")[0] and "ila demo" in page._label(None, "", "", "", ASKING)[0]
    assert NO_INDEX.split(".")[0] in page._search_words("a dog", None, "", 5, ASKING)[0]
    assert NO_MODEL


def test_answers_and_errors_at_the_page(folder, tmp_path):
    options = AppOptions(models=[str(folder / "model")], folders=[str(folder)], index=str(folder / "index"))
    page = page_of(options, tmp_path)
    model = str(folder / "model")
    facts, words, pictures, layer = page._describe(model)
    assert "IlaForVideoClassification" in facts and (words["interactive"], words["value"]) == (False, "")
    assert len(pictures["choices"]) == 2 and (layer["maximum"], layer["value"]) == (1, 1)
    facts, words, pictures, _ = page._describe(str(folder / "clip"))
    assert words["interactive"] and "value" not in words and pictures["value"] == "features"
    assert "Not done" in page._describe("nobody/../etc")[0]
    status, bars = page._label(None, "clip.mp4", model, "", ASKING)
    assert "Most likely" in status and bars.count("<tr>") == 6
    status, bars = page._label(None, "clip.mp4", model, "a dog, <b>", ASKING)
    assert "Not done" in status and "no text tower" in status and not bars
    status, overlay, told = page._look(None, "clip.mp4", model, "masks", 1, ASKING, progress=lambda *_, **__: None)
    assert overlay.startswith(str(tmp_path)) and "<li>" in told
    status, times, files = page._timeline(None, "clip.mp4", model, "", 10, ASKING, progress=lambda *_, **__: None)
    assert "data-end" in times and len(files["value"]) == 4 and files["visible"]
    status, found, hits, _ = page._search_words("a dog", None, "", 5, ASKING)
    assert "Found 1 video" in status and "data-hit" in found and [hit.video for hit in hits] == ["a.mp4"]
    status, shown = page._show_hit(hits, ASKING, SimpleNamespace(hit=0))
    assert "in the player" in status and shown["value"].endswith(".mp4")
    for forged in (1, -1, "0", None):
        assert "Not done" in page._show_hit(hits, ASKING, SimpleNamespace(hit=forged))[0]
    assert "nothing to stop" in page._stop(ASKING)


def test_results_of_one_session_are_few_and_its_own(folder, tmp_path):
    options = AppOptions(models=[str(folder / "model")], folders=[str(folder)])
    page = page_of(options, tmp_path)
    for _ in range(6):
        page._new("one", "overlay").with_suffix(".mp4").touch()
    other = page._new("other", "overlay")
    assert len(list(page.inputs.folder("one").glob("overlay_*"))) == 4
    assert page.inputs.folder("one") not in other.parents


def test_what_nobody_foresaw_says_nothing_of_the_server():
    assert "secret" not in words_of(RuntimeError("/secret/path"))
    assert words_of(ValueError("in words")) == "in words"

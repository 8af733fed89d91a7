"""`ila show`: what it takes, draws and writes, and how it ends."""

import pytest
import torch

from support.timelines import make_timeline
from support.tiny_models import save_clip, tiny_config
from support.videos import write_video
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import show
from transformers_ila.cli.main import read_verb, run_verb
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.timeline.formats import write_timeline
from transformers_ila.visualization.files import read_about


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, a CLIP, a video, one that is none, a timeline, and a JSON file that is something else."""
    root = tmp_path_factory.mktemp("show")
    for name, fields in (("ila", {}), ("divided", {"temporal_module": "divided"})):
        torch.manual_seed(0)
        config = tiny_config(classification_head="linear", **label_fields(["a", "b"]), **fields)
        IlaForVideoClassification(config).save_pretrained(root / name)
        IlaVideoProcessor.for_model(config).save_pretrained(root / name)
    write_video(root / "video.mp4", 20)
    (root / "none.mp4").write_text("no video")
    (root / "folder.png").mkdir()
    write_timeline(make_timeline(), root / "timeline.json")
    (root / "other.json").write_text("{}")
    return root


def run(place, *words):
    return run_verb(show, [str(word).format(place=place) for word in words])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing to draw"),
        (["{place}/nowhere.mp4", "--output", "a.png"], "there is no '.*nowhere.mp4'"),
        (["{place}/video.mp4"], "name the file to write by --output"),
        (["{place}/video.mp4", "--output", "a.png"], "name a model by --model"),
        (["{place}/video.mp4", "--output", "a.png", "--picture", "faces"], "--picture must be one of .*; got 'faces'"),
        (["{place}/video.mp4", "--output", "a.jpg", "--model", "{place}/ila"], "must end in .png"),
        (["{place}/video.mp4", "--output", "{place}/folder.png", "--model", "{place}/ila"], "is a folder"),
        (["{place}/video.mp4", "--output", "{place}/video.mp4", "--model", "{place}/ila"], "would overwrite"),
        (["{place}/video.mp4", "--output", "{place}/none.mp4/a.png", "--model", "{place}/ila"], "cannot be made"),
        (["{place}/video.mp4", "--output", "a.png", "--model", "{place}/nowhere"], "There is no folder"),
        (["{place}/video.mp4", "--output", "a.png", "--model", "{place}/ila", "--layers", "x"], "got \\['x'\\]"),
        (
            ["{place}/video.mp4", "--output", "a.png", "--model", "{place}/ila", "--reduce", "norm"],
            "reduce would have",
        ),
        (["{place}/video.mp4", "--output", "a.png", "--picture", "calibration"], "is of a report"),
        (["{place}/timeline.json", "--output", "a.png"], "--picture masks is of a video"),
        (["{place}/timeline.json", "--output", "a.gif", "--picture", "timeline"], "must end in .png, .svg, .pdf"),
        (
            ["{place}/timeline.json", "--output", "a.png", "--picture", "timeline", "--layers", "0"],
            "layers would have no effect on 'timeline'",
        ),
        (
            ["{place}/timeline.json", "--output", "a.png", "--picture", "timeline", "--model", "{place}/ila"],
            "--model would have no effect",
        ),
        (["{place}/video.mp4", "--output", "a.png", "--model", "{place}/ila", "--labels", "a,,b"], "empty word"),
    ],
)
def test_bad_words(place, words, complaint):
    with pytest.raises((ValueError, OSError), match=complaint):
        read_verb(show, [word.format(place=place) for word in words])


def test_a_picture_of_a_video(place, capsys):
    words = ["{place}/video.mp4", "--model", "{place}/ila", "--layers", "-1", "--output", "{place}/out/masks.svg"]
    assert run(place, *words, "--device", "cpu") == 0
    assert capsys.readouterr().out == f"masks: {place}/out/masks.svg\n"
    about = read_about(place / "out" / "masks.svg")
    assert (about["picture"], about["layers"], about["model"], about["video"]) == ("masks", [1], "ila", "video.mp4")


def test_an_animation_has_a_progress_bar(place, capsys):
    words = ["{place}/video.mp4", "--model", "{place}/ila", "--picture", "points", "--size", "0.5"]
    assert run(place, *words, "--output", "{place}/points.mp4") == 0
    assert "100%" in capsys.readouterr().err
    assert read_about(place / "points.mp4")["size"] == 0.5


@pytest.mark.slow
def test_models_side_by_side(place):
    words = ["{place}/video.mp4", "--model", "{place}/divided", "--model", "{place}/ila", "--picture", "features"]
    assert run(place, *words, "--output", "{place}/features.svg", "--reduce", "norm", "--seed", "3") == 0
    models = read_about(place / "features.svg")["models"]
    assert [one["model"] for one in models] == ["divided", "ila"]
    assert all((one["reduce"], one["seed"]) == ("norm", 3) for one in models)


def test_a_timeline_is_drawn_from_its_file(place):
    words = ["{place}/timeline.json", "--picture", "timeline"]
    assert run(place, *words, "--output", "{place}/timeline.svg") == 0
    assert read_about(place / "timeline.svg")["video"] == "clip.mp4"


@pytest.mark.slow
def test_a_timeline_is_computed_from_a_video(place):
    words = ["{place}/video.mp4", "--model", "{place}/ila", "--picture", "timeline"]
    assert run(place, *words, "--output", "{place}/computed.pdf") == 0
    assert read_about(place / "computed.pdf")["video"] == "video.mp4"


@pytest.mark.slow
def test_own_words_of_a_clip(place):
    save_clip(place / "clip")
    words = ["{place}/video.mp4", "--model", "{place}/clip", "--picture", "features"]
    assert run(place, *words, "--output", "{place}/plain.svg") == 0
    assert run(place, *words, "--output", "{place}/words.svg", "--labels", "waving, juggling") == 0
    assert {name for name, _ in read_about(place / "words.svg")["labels"]} == {"waving", "juggling"}
    assert read_about(place / "plain.svg")["labels"] == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["{place}/none.mp4", "--model", "{place}/ila"], "Cannot read the video"),
        (["{place}/video.mp4", "--model", "{place}/divided"], "aligns nothing"),
        (["{place}/video.mp4", "--model", "{place}/ila", "--layers", "7"], "7"),
        (["{place}/other.json", "--picture", "calibration"], "other.json"),
        (["{place}/other.json", "--picture", "timeline"], "is no timeline"),
    ],
)
def test_what_cannot_be_drawn_ends_with_2_and_writes_nothing(place, words, complaint, capsys):
    assert run(place, *words, "--output", "{place}/failed.png") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ila show: error: ") and complaint in error
    assert not (place / "failed.png").exists()


def test_interrupted(place, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "visualize", interrupted)
    assert run(place, "{place}/video.mp4", "--model", "{place}/ila", "--output", "{place}/failed.png") == 130
    assert "interrupted" in capsys.readouterr().err

"""`ila timeline`: what it takes, prints and writes, and how it ends."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support.tiny_models import save_clip, tiny_config
from support.videos import write_video
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import timeline
from transformers_ila.cli.main import read_verb, run_verb
from transformers_ila.cli.timeline import Source, list_sources
from transformers_ila.data.annotations import read_annotations
from transformers_ila.evaluation.inference import load_trained, probabilities
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.model.video_reading_ila import read_video
from transformers_ila.timeline import TimelineInterrupted, read_timeline
from transformers_ila.timeline.calibration import GRIDS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, a CLIP, two videos, one that is none, and a folder of pictures."""
    root = tmp_path_factory.mktemp("timeline")
    torch.manual_seed(0)
    for name, causal in (("stream", True), ("windows", False)):
        config = tiny_config(classification_head="linear", alignment_causal=causal, **label_fields(["a", "b"]))
        IlaForVideoClassification(config).save_pretrained(root / name)
        IlaVideoProcessor.for_model(config).save_pretrained(root / name)
    save_clip(root / "clip")
    (root / "videos").mkdir()
    write_video(root / "videos/one.mp4", 26)
    write_video(root / "videos/two.mp4", 5)
    (root / "videos/none.mp4").write_text("no video")
    (root / "pictures").mkdir()
    for index in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * index, np.uint8)).save(root / f"pictures/{index}.png")
    return root


def run(place, *words, model="stream"):
    return run_verb(timeline, [*map(str, words), "--model", str(place / model), "--device", "cpu"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing to read"),
        (["-", "-"], "standard input .* named several times"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["{videos}", "--output", "a.json"], "3 videos need a folder as --output, got the file 'a.json'"),
        (["{videos}/one.mp4", "--output", "a.xyz"], "names no format; allowed are .json"),
        (["{videos}", "--output", "out", "--format", "xyz"], "names no format"),
        (["{videos}/one.mp4", "--format", "srt"], "--format srt is for a folder"),
        (["{videos}/one.mp4", "--output", "a.srt", "--every", "2"], "--every would have no effect"),
        (["{videos}/one.mp4", "--output", "a.json", "--embed"], "--embed would have no effect"),
        (
            ["https://host/a.mp4?key=secret", "--output", "a.html", "--embed"],
            "needs a video's file, got https[^ ]*[*]",
        ),
        (["-", "--output", "a.html", "--embed"], "needs a video's file, got standard input"),
        (["{videos}/one.mp4", "--every", "0"], "every must be"),
        (["{videos}/one.mp4", "--output", "a.json", "--every", "-1"], "every must be"),
        (["{videos}/one.mp4", "--output", "a.json", "--every", "nan"], "every must be"),
        (["{videos}/one.mp4", "--output", ""], "names neither a file nor a folder"),
        (["-", "--output", "out", "--format", "fiftyone"], "fiftyone needs a video's file, got standard input"),
        (
            ["https://host/a.mp4?key=secret", "--output", "out", "--format", "fiftyone"],
            "needs a video's file, got https[^ ]*[*]",
        ),
        (["-", "--output", "out", "--format", "label-studio"], "needs a video's file or address"),
        (["{videos}/one.mp4", "--output", "out", "--document_root", "/"], "--document_root would have no effect"),
        (
            ["{videos}/one.mp4", "--output", "out", "--format", "label-studio", "--document_root", "/usr"],
            "does not lie below '/usr/', from where Label Studio serves files",
        ),
        (["{videos}/one.mp4", "--output", "a.json", "--format", "fiftyone"], "is for a folder"),
        (["{videos}/one.mp4", "--rate", "-1"], "rate must be frames a second"),
        (["{videos}/one.mp4", "--stride", "0"], "stride must be a number of seconds"),
        (["{videos}/one.mp4", "--labels", "a,,b"], "empty word"),
    ],
)
def test_bad_words(place, words, complaint):
    words = [word.format(videos=place / "videos") for word in words]
    with pytest.raises((ValueError, OSError), match=complaint):
        read_verb(timeline, [*words, "--model", str(place / "stream")])


def test_what_contradicts_the_model_is_an_error(place, capsys):
    one = place / "videos/one.mp4"
    assert run(place, one, "--mode", "stream", model="windows") == 2
    assert "no stream, as" in capsys.readouterr().err
    assert run(place, one, "--rate", 5, "--stride", 0.1) == 2
    assert "stride must be 0.2 s or more" in capsys.readouterr().err
    truth = ["--truth", place / "truth.csv"]
    (place / "truth.csv").write_text("label,start,end\na,0,0.5\n")
    for words in (
        ["--output", place / "a.scores.csv"],
        ["--output", place / "out", "--format", "SCORES.csv"],
        ["--output", place / "a.json", "--every", 1],
        [*truth, "--calibrate", place / "rules.json"],
    ):
        assert run(place, one, "--rate", 5, "--no_keep_scores", *words) == 2
        assert "--no_keep_scores leaves out the scores that --" in capsys.readouterr().err
    studio = ["--output", place / "out", "--format", "label-studio"]
    assert run(place, one, "--labels", "a, $b", *studio, model="clip") == 2  # before hours of reading
    assert "cannot have the labels" in capsys.readouterr().err
    assert run(place, one, model="clip") == 2
    assert "say by --labels" in capsys.readouterr().err
    assert run(place, one, "--rate", 5, "--background", "c") == 2
    assert "'c'" in capsys.readouterr().err
    assert run(place, place / "pictures") == 1
    assert "set a rate" in capsys.readouterr().out


def test_windows_score_as_predict_does(place, tmp_path, capsys):
    """A clip of all frames at the windows' times, by the processor and the model alone."""
    output = tmp_path / "one.json"
    assert run(place, place / "videos/one.mp4", "--rate", 5, "--output", output, model="windows") == 0
    found = read_timeline(output)
    assert found.complete and found.settings["mode"] == "windows" and len(found.times) == 6
    model, processor = load_trained(place / "windows")
    frames = read_video(str(place / "videos/one.mp4"), lambda total: [10, 15, 20, 25])[0]
    with torch.no_grad():
        logits = model(processor([frames], return_tensors="pt")["pixel_values"]).logits
    expected = probabilities(logits, multi_label=False)[0]
    np.testing.assert_allclose(found.scores[-1], expected, atol=1e-4)  # files have four digits
    assert capsys.readouterr().out.startswith("Read as windows of 4 frames, as alignment_fusion")


def test_several_videos_go_to_a_folder_and_one_failure_ends_one_alone(place, tmp_path, capsys):
    output, formats = tmp_path / "out", ("--format", "json", "--format", "srt", "--format", "html")
    assert run(place, place / "videos", "--rate", 5, "--output", output, *formats) == 1
    names = sorted(path.name for path in output.iterdir())
    assert names == [f"{name}.mp4.{form}" for name in ("one", "two") for form in ("html", "json", "srt")]
    out = capsys.readouterr().out
    assert "none.mp4\n   unreadable: " in out and "2 videos were read to their ends, 1 were not." in out
    assert read_timeline(output / "one.mp4.json").settings["mode"] == "stream"


def test_labelling_tools_get_one_file_of_all_videos(place, tmp_path, capsys):
    words = ["--output", tmp_path, "--format", "fiftyone", "--format", "label-studio", "--rate", 5, "--threshold", 0]
    assert run(place, place / "videos", *words) == 1  # one cannot be read
    printed = capsys.readouterr().out
    assert "samples.json: 2 videos, and 1 unreadable with" in printed and "tasks.json: 2 videos" in printed
    samples = read_annotations(tmp_path, label_field="segments").samples
    tasks = read_annotations(tmp_path / "tasks.json", label_field="predictions").samples
    assert samples == tasks and {Path(s.video).name for s in samples} == {"one.mp4"}
    assert json.loads((tmp_path / "samples.json").read_text())["samples"][1]["metadata"]["total_frame_count"] == 26
    assert all(sample.end > sample.start for sample in samples)


def test_words_of_your_own_and_true_segments(place, tmp_path, capsys):
    truth = tmp_path / "truth.json"
    annotations = [{"label": "wave", "segment": [0, 1]}]
    truth.write_text(json.dumps({"database": {"x": {"duration": 1.04, "annotations": annotations}}}))
    words = ("--labels", "wave, jump", "--threshold", 0, "--rate", 5, "--truth", truth)
    assert run(place, place / "videos/one.mp4", *words, model="clip") == 0
    out = capsys.readouterr().out
    assert "AP@0.5" in out and "time labelled rightly" in out and " - 0:00:01.0" in out


def test_rules_are_chosen_on_true_segments_and_used_by_others(place, tmp_path, capsys):
    truth = tmp_path / "truth.csv"
    truth.write_text("label,start,end\na,0,0.5\nb,0.5,1\n")
    rules, given = tmp_path / "rules.json", ["--min_length", "0", "--smoothing", "0", "--rate", "8"]
    video = place / "videos/one.mp4"
    assert run(place, video, "--truth", truth, "--calibrate", rules, *given) == 0
    printed = capsys.readouterr().out
    assert "chosen: threshold" in printed and "smoothing" not in printed.partition("chosen: ")[2]
    chosen = json.loads(rules.read_text())["rules"]
    assert (chosen["min_length"], chosen["smoothing"]) == (0.0, 0.0)
    output = tmp_path / "one.json"
    assert run(place, video, "--calibration", rules, "--max_gap", "0.125", "--rate", "8", "--output", output) == 0
    used = read_timeline(output).settings["segments"]
    assert used == {**chosen, "max_gap": 0.125, "lag": 0.0, "clip_lag": 0.5}  # of a stream, whose clips are behind
    everything = [word for name in GRIDS for word in (f"--{name}", "0")]
    for words, complaint in (
        (["--calibrate", rules], "--calibrate needs the true segments"),
        (["--calibrate", tmp_path, "--truth", truth], "--calibrate needs the name of a file"),
        (["--calibrate", "", "--truth", truth], "--calibrate needs the name of a file, got ''"),
        (["--calibrate", rules, "--truth", truth, *everything], "--calibrate has nothing to choose"),
    ):
        capsys.readouterr()
        assert run(place, video, *words) == 2
        assert complaint in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_there(place, tmp_path, monkeypatch, capsys):
    one, output = place / "videos/one.mp4", tmp_path / "one.json"
    assert run(place, one, "--rate", 5, "--output", output) == 0
    part = read_timeline(output)

    def interrupted(*args, **kwargs):
        raise TimelineInterrupted(type(part)(**{**vars(part), "stopped": "interrupted"}))
        yield

    monkeypatch.setattr(timeline, "timelines", interrupted)
    assert run(place, one, "--rate", 5, "--output", output) == 130
    assert json.loads(output.read_text())["complete"] is False
    assert "Interrupted at 0:00:01.0" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_loses_no_timeline(place, tmp_path, monkeypatch, capsys):
    """Nor do the other files and videos."""
    write = timeline.write_timeline

    def full(result, path, **options):
        if path.suffix == ".json" and "one" in path.name:
            raise OSError(28, "No space left on device")
        write(result, path, **options)

    monkeypatch.setattr(timeline, "write_timeline", full)
    videos, output = [place / "videos/one.mp4", place / "videos/two.mp4"], tmp_path / "out"
    assert run(place, *videos, "--rate", 5, "--output", output, "--format", "json", "--format", "srt") == 1
    assert sorted(path.name for path in output.iterdir()) == ["one.mp4.srt", "two.mp4.json", "two.mp4.srt"]
    assert "one.mp4.json cannot be written: No space left on device" in capsys.readouterr().out
    assert run(place, videos[0], "--rate", 5, "--threshold", 0, "--output", output / "one.json") == 1
    assert "0:00:00.0 - 0:00:01.0" in capsys.readouterr().out


def test_no_two_videos_share_a_file():
    found = list_sources(["https://a/x.mp4", "https://b/x.mp4", "https://c/x.mp4-2", "https://d/x.mp4"], None)
    assert [source.file_name for source in found] == ["x.mp4", "x.mp4-3", "x.mp4-2", "x.mp4-4"]


def test_sources_and_their_files(place, tmp_path):
    copies = [tmp_path / folder / "one.mp4" for folder in ("x", "y")]
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(place / "videos/one.mp4", copy)
    urls = ["https://user:secret@host/a b/film.mp4?key=1", "https://other/film.mp4"]
    found = list_sources([*urls, str(place / "pictures"), "-", *map(str, copies)], None)
    assert [source.file_name for source in found] == [
        "film.mp4", "film.mp4-2", "pictures", "stdin", "x/one.mp4", "y/one.mp4",
    ]  # fmt: skip
    assert "secret" not in found[0].name and found[0].place == urls[0]
    assert found[3] == Source("standard input", "-", "stdin")

"""Words of your own: predict and evaluate with a CLIP, a SigLIP and an ILA model with a text head."""

import csv
import json
import shutil
from functools import cache

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer, SiglipModel

from support.evaluation_models import views_of
from support.tiny_models import byte_tokenizer, save_clip, save_siglip, tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.backbones.zero_shot import load_zero_shot
from transformers_ila.cli import evaluate, predict
from transformers_ila.cli.main import run_verb
from transformers_ila.cli.shared.words import read_words
from transformers_ila.data.annotations import read_annotations
from transformers_ila.evaluation import evaluate as evaluate_samples
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.hub.reports import measured_results
from transformers_ila.model.class_features_ila import ACTION_TEMPLATES
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.motionbench.tasks import write_folder


TOLERANCE = 1e-5
NAMES = ["moving_down", "moving_left", "moving_right", "moving_up"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A CLIP, a SigLIP, ILA models with every kind of head, and eight videos in four folders with underscores."""
    root = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    save_clip(root / "clip")
    save_siglip(root / "siglip")
    text = {"vocab_size": 192, "bos_token_id": 188, "eos_token_id": 189, "max_position_embeddings": 32}
    text = {**tiny_config().text_config.to_dict(), **text}
    config = tiny_config(text_config=text, alignment_fusion="residual")
    model = IlaForVideoClassification(config).eval()
    model.set_labels(["moving down", "turning_left"], byte_tokenizer(root / "ila"))
    model.save_pretrained(root / "ila")
    model.merge_text_tower().save_pretrained(root / "merged")
    IlaForVideoClassification(tiny_config(classification_head="linear", **label_fields(["a", "b"]))).save_pretrained(
        root / "linear"
    )
    for name in ("ila", "merged", "linear"):
        IlaVideoProcessor.for_model(config).save_pretrained(root / name)
    for path in write_folder(root / "all", 16, seed=0, num_frames=6):
        folder = root / "videos" / path.parent.name.replace(" ", "_")
        if folder.name in NAMES:
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(folder / path.name)
    shutil.rmtree(root / "all")
    return root


def paths_of(place):
    return sorted((place / "videos").rglob("*.mp4"))


def rows_of(printed: str) -> list[tuple[str, float]]:
    """Label and probability of each line that `predict` prints of a video."""
    rows = [line.split("%", 1) for line in printed.splitlines() if line.startswith("   ") and "%" in line]
    return [(label.strip(), float(score)) for score, label in rows]


@cache
def clip_parts(folder):
    processor = IlaVideoProcessor.for_images(folder, num_frames=8)
    return CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder), processor


def clip_chances(place, path, texts, several=1):
    """What transformers' own CLIP says of the mean of the frames' unit features; texts: all words in each template."""
    clip, tokenizer, processor = clip_parts(place / "clip")
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        frames = clip.get_image_features(views_of(processor, path)[0]).pooler_output
        words = clip.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
        words = unit(unit(words, dim=-1).unflatten(0, (several, -1)).mean(0), dim=-1)
        video = unit(unit(frames, dim=-1).mean(0), dim=-1)
        return (clip.logit_scale.exp() * words @ video).softmax(-1)


# -- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ([], ["a video of {}."]),
        (["--template", "{}"], ["{}"]),
        (["--template", "a {}", "--template", "see {} here"], ["a {}", "see {} here"]),
        (["--template", "actions"], ACTION_TEMPLATES),
    ],
)
def test_clip_says_what_transformers_clip_says(place, tmp_path, template, read):
    videos, out = paths_of(place)[:2], tmp_path / "out"
    words = ["--model", str(place / "clip"), "--labels", "juggling, brush_hair ,waving", *template]
    assert run_verb(predict, [*words, *map(str, videos), "--output", str(out)]) == 0
    for row, path in zip(read_results(out), videos):
        texts = [text.format(word) for text in read for word in ("juggling", "brush hair", "waving")]
        chances = dict(zip(("juggling", "brush_hair", "waving"), clip_chances(place, path, texts, len(read)).tolist()))
        assert row["labels"] == sorted(chances, key=lambda word: -chances[word])
        assert row["scores"] == pytest.approx([chances[word] for word in row["labels"]], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("words.txt", "juggling\n\nwaving, with both hands\n", ["juggling", "waving, with both hands"]),
        ("k.csv", 'id,name\n1,"b, c"\n0,a\n', ["a", "b, c"]),
        ("classInd.txt", "1 walk\n2 run\n", ["walk", "run"]),
        ("labels.json", '["walk", "run"]', ["walk", "run"]),
        ("juggling, waving", "walk\nrun\n", ["walk", "run"]),  # an existing file is a file
    ],
)
def test_files_of_words(tmp_path, monkeypatch, name, text, words):
    (tmp_path / name).write_text(text)
    assert read_words(str(tmp_path / name)) == words
    monkeypatch.chdir(tmp_path)
    assert read_words(name) == words


def test_words_and_data_sets():
    assert read_words("juggling, waving,a b") == ["juggling", "waving", "a b"]
    assert len(read_words("kinetics400")) == 400


CLIP, VIDEO = ["--model", "clip"], "video.mp4"
REFUSED = {
    "clip without words": ([*CLIP, VIDEO], "say by --labels which words it chooses among"),
    "one word": ([*CLIP, "--labels", "walk", VIDEO], "of a single class the softmax is always 1"),
    "no quotes": ([*CLIP, "--labels", "walk,", "run", VIDEO], "has an empty word. Several words stand in quotes"),
    "no file": ([*CLIP, "--labels", "words.txt", VIDEO], "there is no file 'words.txt'"),
    "twice": ([*CLIP, "--labels", "walk, walk", VIDEO], "these repeat: ['walk']"),
    "alike": ([*CLIP, "--labels", "walk, Walk", VIDEO], "reads 'walk' and 'Walk' alike"),
    "no place": ([*CLIP, "--labels", "a, b", "--template", "a video", VIDEO], "'a video'"),
    "two places": ([*CLIP, "--labels", "a, b", "--template", "{} {}", VIDEO], "'{} {}'"),
    "linear": (["--model", "linear", "--labels", "a, c", VIDEO], "Without --labels and --template it gives its own"),
    "merged": (["--model", "merged", "--labels", "a, c", VIDEO], "merge_text_tower"),
    "softmax": ([*CLIP, "--labels", "a, b", "--none_of_these", VIDEO], "the model's scores are a softmax"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(place, tmp_path, monkeypatch, capsys, name):
    words, message = REFUSED[name]
    shutil.copy(paths_of(place)[0], tmp_path / VIDEO)
    for model in ("clip", "linear", "merged"):
        (tmp_path / model).symlink_to(place / model)
    monkeypatch.chdir(tmp_path)
    assert run_verb(predict, words) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ila predict: error:")]
    assert message in error


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_clip_that_was_saved_without_words_knows_no_classes(place, tmp_path, capsys, kind):
    for part in load_zero_shot(place / kind):
        part.save_pretrained(tmp_path)
    assert run_verb(predict, ["--model", str(tmp_path), str(paths_of(place)[0])]) == 2
    assert "say by --labels which words it chooses among" in capsys.readouterr().err
    assert run_verb(predict, ["--model", str(tmp_path), "--labels", "a, b", str(paths_of(place)[0])]) == 0
    assert [row["name"] for row in report_of(place, tmp_path / "out", model=tmp_path)["per_class"]] == NAMES


def test_other_words_or_templates_are_other_results(place, tmp_path, capsys):
    start = ["--model", str(place / "clip"), str(place / "videos"), "--output", str(tmp_path)]
    assert run_verb(predict, [*start, "--labels", "juggling, waving"]) == 0
    assert run_verb(predict, [*start, "--labels", "juggling, waving"]) == 0
    assert "8 done before" in capsys.readouterr().out
    for more, message in (
        (["--labels", "juggling, walking"], "labels 'waving', now 'walking'"),
        (["--labels", "juggling, waving", "--template", "{}"], "templates 'a video of {}.', now '{}'"),
    ):
        assert run_verb(predict, [*start, *more]) == 2
        assert message in capsys.readouterr().err
    settings = json.loads((tmp_path / "_settings.json").read_text())
    del settings["labels"]  # as earlier versions wrote it
    (tmp_path / "_settings.json").write_text(json.dumps(settings))
    assert run_verb(predict, [*start, "--labels", "juggling, waving"]) == 0


def test_none_of_these_has_a_score_beside_sigmoids(place, tmp_path):
    path = paths_of(place)[0]
    start = ["--model", str(place / "siglip"), "--labels", "juggling, waving", "--none_of_these", str(path)]
    assert run_verb(predict, [*start, "--output", str(tmp_path / "all")]) == 0
    (row,) = read_results(tmp_path / "all")
    chances = dict(zip(row["labels"], row["scores"]))
    assert chances.pop("none of these") == pytest.approx(
        (1 - chances["juggling"]) * (1 - chances["waving"]), abs=TOLERANCE
    )
    assert row["scores"] == sorted(row["scores"], reverse=True)
    siglip = SiglipModel.from_pretrained(place / "siglip").eval()
    model, processor = load_zero_shot(place / "siglip", ["juggling", "waving"])
    with torch.no_grad():
        frames = siglip.get_image_features(views_of(processor, path)[0]).pooler_output
        video = torch.nn.functional.normalize(torch.nn.functional.normalize(frames, dim=-1).mean(0), dim=-1)
        logits = siglip.logit_scale.exp() * model.encode_texts(["juggling", "waving"]) @ video + siglip.logit_bias
    assert [chances["juggling"], chances["waving"]] == pytest.approx(logits.sigmoid().tolist(), abs=TOLERANCE)
    assert run_verb(predict, [*start, "--top_k", "1", "--output", str(tmp_path / "one")]) == 0
    assert next(read_results(tmp_path / "one"))["labels"] == row["labels"][:1]


def test_an_ila_keeps_its_own_tower_and_its_own_words(place, tmp_path, capsys):
    path = paths_of(place)[0]
    assert run_verb(predict, ["--model", str(place / "ila"), "--labels", "turning_left, a b", str(path)]) == 0
    printed = rows_of(capsys.readouterr().out)
    model = IlaForVideoClassification.from_pretrained(place / "ila", labels=["turning_left", "a b"]).eval()
    with torch.no_grad():
        chances = model(views_of(IlaVideoProcessor.from_pretrained(place / "ila"), path)).logits.softmax(-1)[0]
    assert dict(printed) == pytest.approx(dict(zip(("turning_left", "a b"), (100 * chances).tolist())), abs=0.006)
    assert run_verb(predict, ["--model", str(place / "ila"), str(path)]) == 0
    assert {label for label, _ in rows_of(capsys.readouterr().out)} == {"moving down", "turning_left"}


# -- evaluate --------------------------------------------------------------------------------------------------------


def report_of(place, tmp_path, *words, model="clip", videos=None):
    start = ["--model", str(place / model), "--videos", str(videos or place / "videos")]
    assert run_verb(evaluate, [*start, "--output", str(tmp_path / "report.json"), *words]) == 0
    return json.loads((tmp_path / "report.json").read_text())


def test_folders_are_their_own_words(place, tmp_path, capsys):
    """Names stay as they are, and are read with blanks; the report says how, and a card can be made of it."""
    report = report_of(place, tmp_path)
    assert [row["name"] for row in report["per_class"]] == NAMES
    texts = [f"a video of {name.replace('_', ' ')}." for name in NAMES]
    right = [NAMES[clip_chances(place, path, texts).argmax()] == path.parent.name for path in paths_of(place)]
    assert report["metrics"]["top1"] == sum(right) / len(right)
    said = {"zero_shot": True, "templates": ["a video of {}."], "tower": "clip, frames averaged"}
    assert {name: report["model"][name] for name in said} == said
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "report.md").read_text().replace("\\", "")):
        assert "trained on none of the classes; clip, frames averaged" in text and "a video of {}." in text
    assert measured_results(report)[0].metric == "top1"


def test_folders_that_are_numbers_are_said_to_be_read_as_words(place, tmp_path, caplog):
    for name, path in enumerate(paths_of(place)[::4]):
        (tmp_path / str(name)).mkdir()
        shutil.copy(path, tmp_path / str(name))
    report_of(place, tmp_path / "out", videos=tmp_path)
    assert "are called 0, 1, and read as these words" in caplog.text


@pytest.mark.parametrize("labels", ["file", "words"])
def test_lists_with_numbers_take_their_words_from_labels(place, tmp_path, capsys, labels):
    """Kinetics-style: `id,name` beside a list of indices, of which some classes have no video."""
    words = ["moving down", "moving left", "standing still"]
    index = {name.replace(" ", "_"): number for number, name in enumerate(words)}
    lines = [f"{path.relative_to(place)} {index[path.parent.name]}\n" for path in paths_of(place)[:4]]
    (tmp_path / "list.txt").write_text("".join(lines))
    given = ["--list", str(tmp_path / "list.txt")]
    start = ["--model", str(place / "clip"), "--videos", str(place), "--output", str(tmp_path / "report.json")]
    assert run_verb(evaluate, [*start, *given]) == 2
    assert "numbers, which are no words: say by --labels what they are" in capsys.readouterr().err
    (tmp_path / "names.csv").write_text("id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(words)))
    chosen = str(tmp_path / "names.csv") if labels == "file" else ", ".join(words)
    report = report_of(place, tmp_path, *given, "--labels", chosen, "--temporal_reliance", videos=place)
    assert [row["videos"] for row in report["per_class"]] == [2, 2, 0]
    with open(tmp_path / "report_videos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labels"] for row in rows] == ["0", "0", "1", "1"]
    # a mean over the frames knows no order
    assert report["temporal_reliance"]["orders"]["shuffled"]["prediction_changed"] == 0


def test_a_video_with_one_label_is_counted_by_the_highest_sigmoid(place, tmp_path):
    """And several labels by average precision; in Python, too."""
    report = report_of(place, tmp_path, model="siglip")
    assert "mean_average_precision" not in report["metrics"] and report["model"]["zero_shot"]
    model, processor = load_zero_shot(place / "siglip", [name.replace("_", " ") for name in NAMES])
    with torch.no_grad():
        logits = torch.cat([model(views_of(processor, path)).logits for path in paths_of(place)])
    labels = torch.tensor([NAMES.index(path.parent.name) for path in paths_of(place)])
    assert report["metrics"]["top1"] == float((logits.argmax(-1) == labels).double().mean())
    confidences = logits.double().sigmoid().amax(-1)
    bins = report["calibration"]["bins"]
    mean = sum(row["confidence"] * row["statements"] for row in bins if row["statements"]) / 8
    assert mean == pytest.approx(float(confidences.mean()), abs=TOLERANCE)
    assert (tmp_path / "report_confusion.csv").is_file()
    found = evaluate_samples(model, processor, read_annotations(place / "videos"))
    assert found.metrics == report["metrics"] and found.report()["model"]["zero_shot"] is None  # nobody said so
    pairs = [(path, [label]) for path, label in zip(paths_of(place), labels.tolist())]
    assert evaluate_samples(model, processor, pairs).metrics == report["metrics"]
    pairs[0] = (pairs[0][0], [0, 1])
    assert evaluate_samples(model, processor, pairs).metrics["mean_average_precision"] is not None


@pytest.mark.parametrize(("names", "zero_shot"), [(NAMES, False), (NAMES[1:], True)])
def test_an_ila_is_zero_shot_on_words_that_it_was_not_trained_on(place, tmp_path, names, zero_shot):
    """ "moving down" was a class of its training."""
    path = paths_of(place)[-1]
    (tmp_path / "list.txt").write_text(f"{path.relative_to(place)} {path.parent.name.replace('_', ' ')}\n")
    words = ["--list", str(tmp_path / "list.txt"), "--labels", ", ".join(name.replace("_", " ") for name in names)]
    report = report_of(place, tmp_path, *words, model="ila", videos=place)
    assert (report["model"]["zero_shot"], report["model"]["tower"]) == (zero_shot, "ila, temporal module ila")

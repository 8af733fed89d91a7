"""Model cards: valid, complete, and without a number that nobody published or measured."""

import ast
import copy
import dataclasses
import json
import re

import pytest
import torch
from huggingface_hub import ModelCard

from support.evaluation_models import LABELS, make_model
from support.paths import ROOT
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import card as make_model_cards
from transformers_ila.cli.main import run_verb
from transformers_ila.conversion.published import PUBLISHED, released_processor
from transformers_ila.conversion.released_cards import published_card, published_facts
from transformers_ila.cost import count
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.class_names import DATA_SETS
from transformers_ila.evaluation.evaluator import evaluate
from transformers_ila.evaluation.options import EvaluationOptions
from transformers_ila.evaluation.report_files import markdown
from transformers_ila.hub import checking
from transformers_ila.hub.cards import (
    BATCH_STATISTICS,
    CITATION,
    CLIP_ORIGIN,
    NO_BATCH_STATISTICS,
    RELEASED_ORIGIN,
    UNUSED_OUTPUTS,
    model_card,
)
from transformers_ila.hub.exporting import export
from transformers_ila.hub.facts import METRICS, OFFICIAL_RELEASE, OPENAI_CLIP, ModelFacts, read_facts
from transformers_ila.hub.reports import card_of_folder, measured_results
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.version import __version__


CARDS = ROOT / "model_cards"
SECTIONS = [
    "Use it",
    "Results",
    "The network",
    "Data, decoder and preprocessing",
    "Intended use",
    "Limits",
    "Licence",
    "Citation",
]
PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?) ?%")
NOBODY = "Nobody has measured an accuracy of this model with this package, or published one."
each_published = pytest.mark.parametrize("checkpoint", PUBLISHED, ids=lambda checkpoint: checkpoint.name)


@pytest.fixture(scope="module")
def published():
    return {checkpoint.name: published_card(checkpoint) for checkpoint in PUBLISHED}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)


@pytest.fixture(scope="module")
def reports(tmp_path_factory, model, processor):
    """Of sixteen videos and one that cannot be read: as a model is evaluated, and with the release's fault."""
    root = tmp_path_factory.mktemp("videos")
    write_folder(root, 16, seed=0, num_frames=9)
    samples = read_annotations(root, labels=LABELS).pairs()
    (root / "text.mp4").write_text("no video")
    samples.append((root / "text.mp4", 0))
    options = {"data_set": "Motions", "split": "test"}
    plain = evaluate(model, processor, samples, EvaluationOptions(protocol="1x1", **options)).report()
    fault = evaluate(
        model, processor, samples, EvaluationOptions(protocol="3x1", batch_size=5, batch_statistics=True, **options)
    ).report()
    return {"plain": json.loads(json.dumps(plain)), "fault": json.loads(json.dumps(fault))}


class Made(dict):
    """Of functions, what they return, once it is asked for."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def __missing__(self, name):
        self[name] = self.functions[name]()
        return self[name]


@pytest.fixture(scope="module")
def cards(published, model, processor, reports):
    """One of every kind."""
    config, first = model.config, PUBLISHED[0]
    residual, linear = make_model(alignment_fusion="residual").config, make_model(classification_head="linear").config
    kinetics = {**reports["plain"], "data_set": {"name": "Kinetics-400", "split": None}}
    return Made(
        {
            **{name: lambda card=card: card for name, card in published.items()},
            "nothing measured": lambda: model_card(config, processor, ModelFacts(model_id="user/tiny")),
            "clip": lambda: model_card(config, processor, ModelFacts(origin=OPENAI_CLIP)),
            "release": lambda: model_card(
                residual, processor, ModelFacts(model_id="a", title="A", origin=OFFICIAL_RELEASE)
            ),
            "linear": lambda: model_card(linear, processor, ModelFacts(model_id="b")),
            "plain": lambda: model_card(
                config, processor, ModelFacts(model_id="c", results=measured_results(reports["plain"]))
            ),
            "fault": lambda: model_card(
                residual, processor, ModelFacts(model_id="d", results=measured_results(reports["fault"]))
            ),
            "both": lambda: model_card(
                first.config(),
                released_processor(first.config()),
                ModelFacts(
                    model_id=first.name,
                    results=[
                        *(dataclasses.replace(result, note="") for result in published_facts(first).results),
                        *measured_results(kinetics),
                    ],
                ),
            ),
        }
    )


KINDS = [
    *(checkpoint.name for checkpoint in PUBLISHED),
    *("nothing measured", "clip", "release", "linear", "plain", "fault", "both"),
]


def sections(card):
    parts = re.split(r"^## (.*)$", card.text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2])))


def rows(section):
    """Cells of a section's table, below its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) <= 1
    return cells[2:]


# -- every card ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_cards_are_cards(cards, kind):
    card = cards[kind]
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() and again.text == card.text
    assert again.data.eval_results == card.data.eval_results
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-classification")
    assert {"ila", "video-classification", "custom_code"} <= set(card.data.tags)


@pytest.mark.parametrize("kind", KINDS)
def test_cards_are_complete(cards, kind):
    text = cards[kind].text
    found = sections(cards[kind])
    assert list(found) == SECTIONS and all(found.values())
    assert len(re.findall(r"^# \S", text, re.MULTILINE)) == 1
    assert not re.search(r"\{\{|\}\}|\{%|\bNone\b|\bnan\b|\bUndefined\b", text)
    assert text.count("```") == 4
    assert CITATION in found["Citation"] and "@inproceedings" in CITATION
    assert rows(found["The network"])
    for line in ("Decoder: PyAV", "Frames: ", "Pixels: short side to "):
        assert line in found["Data, decoder and preprocessing"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_usage_example_is_five_lines_of_python(cards, kind):
    (example,) = re.findall(r"```python\n(.*?)```", sections(cards[kind])["Use it"], re.DOTALL)
    compile(example, kind, "exec")
    assert len(example.splitlines()) <= 5
    assert "trust_remote_code=True" in example and '"video.mp4"' in example


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_published_or_measured_and_says_so(cards, kind):
    """Percentages of the text are those of the results, and so are the metadata's; each stands beside its origin."""
    card = cards[kind]
    metadata = card.data.eval_results or []
    for line in card.text.splitlines():
        assert not PERCENTAGE.search(line) or re.search(r"\| (published|measured): ", line), line
    table = {(row[1], row[5].partition(":")[0], float(row[2].removesuffix(" %"))) for row in rows_of_results(card)}
    assert sorted(map(float, PERCENTAGE.findall(card.text))) == sorted(value for *_, value in table)
    assert table == {(*title_and_origin(result), round(result.metric_value, 1)) for result in metadata}
    assert ("model-index" in str(card)) == bool(metadata)
    for result in metadata:
        assert result.source_name is None or result.source_name.startswith(title_and_origin(result)[1])


def rows_of_results(card):
    section = sections(card)["Results"]
    return rows(section) if "|" in section else []


def title_and_origin(result):
    return re.match(r"([^(]+) \((published|measured)\), ", result.metric_name).groups()


# -- nothing measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nothing measured", "clip", "release", "linear"])
def test_cards_without_results_say_so(cards, kind):
    card = cards[kind]
    assert sections(card)["Results"] == NOBODY
    assert card.data.eval_results is None
    assert not PERCENTAGE.search(card.text)


def test_names_and_titles(cards):
    card = cards["nothing measured"]
    assert card.data.model_name == "tiny" and card.text.startswith("\n# tiny\n")
    assert 'model="user/tiny"' in card.text
    assert "\n# A\n" in cards["release"].text and cards["release"].data.model_name == "a"


# -- published -------------------------------------------------------------------------------------------------------


@each_published
def test_published_cards_have_the_papers_numbers(published, checkpoint):
    card = published[checkpoint.name]
    data_set = DATA_SETS[checkpoint.data_set]
    top1, top5 = card.data.eval_results
    assert (top1.metric_type, top1.metric_value) == ("accuracy", checkpoint.top1)
    assert (top5.metric_type, top5.metric_value) == ("top_5_accuracy", checkpoint.top5)
    protocol = f"4 clips x 3 crops, {checkpoint.num_frames} frames each"
    for result in (top1, top5):
        assert (result.dataset_name, result.task_type) == (data_set.title, "video-classification")
        assert f"(published), {protocol}" in result.metric_name
        assert result.source_name == f"published: the paper's Table {checkpoint.table}"
        assert result.source_url.startswith("https://")
    origin = f"published: the paper's Table {checkpoint.table}"
    assert rows(sections(card)["Results"]) == [
        [data_set.title, "Top-1 accuracy", f"{checkpoint.top1:.1f} %", protocol, "not stated", origin],
        [data_set.title, "Top-5 accuracy", f"{checkpoint.top5:.1f} %", protocol, "not stated", origin],
    ]
    assert "nobody has measured it with this package" in sections(card)["Results"]


@each_published
def test_published_cards_describe_network_and_preprocessing(published, checkpoint):
    found = sections(published[checkpoint.name])
    network = dict(rows(found["The network"]))
    size = checkpoint.config().vision_config.image_size
    assert network["clip"] == f"{checkpoint.num_frames} frames of {size} x {size}"
    assert "`alignment_fusion=residual`" in network["temporal module"]
    classes = f", {DATA_SETS[checkpoint.data_set].num_labels} classes"
    unused = "; 226 further outputs are the release's, and belong to no class" if "ssv2" in checkpoint.name else ""
    assert network["head"].endswith(classes + unused)
    assert ("text tower" in network["parameters (counted)"]) == (checkpoint.data_set == "kinetics400")
    assert f"{checkpoint.gmacs} G multiply-accumulates per view (published)" in found["Results"]
    counted = float(network["multiply-accumulates per view (counted)"].partition(" G")[0])
    assert counted > checkpoint.gmacs  # the released network is not the paper's, which is why both stand there
    pixels = f"short side to {size * 8 // 7} (bilinear), centre crop {size} x {size}, mean 0.485, 0.456, 0.406"
    assert pixels in found["Data, decoder and preprocessing"]


@pytest.mark.parametrize("index", [0, 6])
def test_the_cards_costs_are_counted(published, index):
    cost = count(PUBLISHED[index].config())
    network = dict(rows(sections(published[PUBLISHED[index].name])["The network"]))
    assert network["multiply-accumulates per view (counted)"].startswith(f"{cost.gmacs:.1f} G")
    assert network["parameters (counted)"].startswith(f"{cost.parameters:.1f} M")


@each_published
def test_published_cards_state_licence_and_faults(published, checkpoint):
    card = published[checkpoint.name]
    found = sections(card)
    assert (card.data.license, card.data.license_name) == ("other", "none-granted")
    assert card.data.license_link == "https://github.com/Francis-Rings/ILA"
    assert "The published weights have no licence" in found["Licence"] and "do not re-host" in found["Licence"]
    assert (BATCH_STATISTICS in found["Limits"]) == (checkpoint.data_set == "kinetics400")
    assert (NO_BATCH_STATISTICS in found["Limits"]) == (checkpoint.data_set == "ssv2")
    assert (UNUSED_OUTPUTS in found["Limits"]) == (checkpoint.data_set == "ssv2")
    assert checkpoint.title in card.text and f'model="{checkpoint.name}"' in found["Use it"]
    assert f"`ila convert --checkpoint FILE --output {checkpoint.name}" in found["Use it"]


def test_the_cards_of_the_repository_are_these(published):
    found = {path.name: path.read_text(encoding="utf-8").rstrip() for path in CARDS.glob("*.md")}
    assert found == {f"{name}.md": str(card).rstrip() for name, card in published.items()}


# -- measured --------------------------------------------------------------------------------------------------------


def test_a_measured_card_has_the_reports_numbers(cards, reports):
    card, report = cards["plain"], reports["plain"]
    metrics = report["metrics"]
    assert 0 < metrics["top1"] < metrics["top5"] < 1
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": round(100 * metrics["top1"], 2),
        "top_5_accuracy": round(100 * metrics["top5"], 2),
        "mean_class_accuracy": round(100 * metrics["mean_class_accuracy"], 2),
    }
    for result in card.data.eval_results:
        assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("Motions", "motions", "test")
        assert "(measured), 1 clip x 1 crop, 4 frames each" in result.metric_name
        assert "16 of 17 videos, 1 unreadable" in result.metric_name
    single = {name: words for name, words in METRICS.items() if name != "mean_average_precision"}
    for row, (name, (_, title)) in zip(rows(sections(card)["Results"]), single.items(), strict=True):
        assert row[:4] == ["Motions, test", title, f"{100 * metrics[name]:.1f} %", "1 clip x 1 crop, 4 frames each"]
        assert row[4] == "16 of 17 videos, 1 unreadable"
        assert row[5].startswith(f"measured: transformers-ila {__version__}, {report['date'][:10]}")
    assert NOBODY not in card.text and "published:" not in card.text


def test_the_releases_fault_is_named_where_it_was_repeated(cards):
    for row in rows(sections(cards["fault"])["Results"]):
        assert row[3] == "3 clips x 1 crop, 4 frames each, batch statistics of 5 videos (the release's fault)"
    assert all("batch statistics of 5 videos" in result.metric_name for result in cards["fault"].data.eval_results)
    assert "atch statistics" not in str(cards["plain"])


def test_published_and_measured_side_by_side(cards):
    """The Hub's format gives all metrics of one data set one source; no metric may get the other's."""
    origins = [row[5].partition(":")[0] for row in rows(sections(cards["both"])["Results"])]
    assert origins == ["published", "published", "measured", "measured", "measured"]
    named = [title_and_origin(result)[1] for result in ModelCard(str(cards["both"])).data.eval_results]
    assert sorted(named) == sorted(origins)


def test_what_a_report_names_cannot_break_the_table(reports, model, processor):
    report = {**reports["plain"], "data_set": {"name": "a | b\n# c", "split": "x|y"}}
    card = model_card(model.config, processor, ModelFacts(results=measured_results(report)))
    assert [len(row) for row in rows(sections(card)["Results"])] == [6, 6, 6]
    assert list(sections(card)) == SECTIONS and not re.search("^# c", card.text, re.MULTILINE)
    assert ModelCard(str(card)).data.eval_results == card.data.eval_results


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<!-- results of the weights abab -->",
    "a\n## Licence\n\nmit",
    "{{ title }} {% raw %}",
    "[More Information Needed]",
    'my "best"\\new `model` | one',
    "lone \udc80 \x1b[31m \u202egnp",
    "- - -\n---\nlicense: mit",
    "x" * 9999,
]


def test_a_reports_note_and_reason_are_text(reports):
    report = copy.deepcopy(reports["plain"])
    report["protocol"]["note"] = "# a [b](http://c.example) ![d](e)"
    report["inference"] = {"dtype": "float32", "fused": False, "why_not_fused": "![f](http://g.example) *h*"}
    text = markdown(report)
    assert "\nNote: # a \\[b\\](http\\://c.example) !\\[d\\](e)\n" in text
    assert "| computed in | float32, not fused (!\\[f\\](http\\://g.example) \\*h\\*) |" in text


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_no_word_is_more_than_a_word(reports, model, processor, tmp_path, word):
    """As a class, folder, title, licence, data set and sentence it changes no part of the card but its own."""
    config = copy.deepcopy(model.config)
    config.update(label_fields([word, *config.class_names[1:]]))
    report = copy.deepcopy(reports["plain"])
    report["data_set"] = {"name": word, "split": word, "list": None}
    report["versions"]["transformers_ila"] = report["decoder"]["pyav"] = word
    report["temporal_reliance"] = {"seed": 0, "orders": {"reversed": report["metrics"]}}
    sentences = {} if word == HOSTILE[4] else {"data_note": word, "usage_note": word}  # a sentence may be unfinished
    facts = ModelFacts(
        *(word, word, word), license="other", license_name=word, results=measured_results(report), **sentences
    )
    (tmp_path / "README.md").write_text(str(model_card(config, processor, facts)), encoding="utf-8")
    card, read = checking._read_card(tmp_path)
    assert list(sections(card)) == SECTIONS and len(re.findall("^#", card.text, re.MULTILINE)) == 1 + len(SECTIONS)
    assert [len(row) for row in rows(sections(card)["Results"])] == [6, 6, 6]
    assert dataclasses.replace(read, usage_note="", data_note="") == dataclasses.replace(
        facts, usage_note="", data_note=""
    )
    code = re.search("```python\n(.*?)```", card.text, re.DOTALL)[1]
    call = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.keywords)
    given = {keyword.arg: keyword.value.value for keyword in call.keywords}
    assert (given["model"], given["revision"]) == (word, word)
    assert not re.search(r"<img|<!--|\{\{ |[\x1b\u202e\udc80]", card.text) and len(card.text) < 9999 * 5
    assert card.data.license == "other"


def test_a_class_that_is_called_unused_is_a_class(model, processor):
    config = copy.deepcopy(model.config)
    config.update(label_fields(["unused output 3", *config.class_names[1:7], "unused output 7"]))
    card = model_card(config, processor, ModelFacts())
    assert "Giving one of 7 labels" in card.text and "- Classes: 7 (unused output 3, " in card.text


@pytest.mark.parametrize(
    "fields, said",
    [
        ({}, "ILA: CLIP's network turned into a video recogniser by aligning neighbouring frames ("),
        ({"alignment_pairing": "first"}, "by aligning each frame with the first ("),
        ({"alignment_pairing": "middle"}, "by aligning each frame with the middle one ("),
        (
            {"temporal_module": "gta", "gta_groups": 4},
            "turned into a video recogniser by `gta`, which ILA is compared",
        ),
        ({"temporal_module": "none"}, "CLIP's network as a video recogniser whose tower sees each frame by itself, "),
        ({"alignment_layers": []}, "CLIP's network as a video recogniser whose tower sees each frame by itself, "),
        (
            {"alignment_layers": [1], "alignment_distance": "euclidean"},
            "`alignment_distance=euclidean`, in layers 1, ",
        ),
        ({"alignment_operator": "window_attention"}, "`alignment_operator=window_attention` |"),
        ({"alignment_conv": "standard"}, "`alignment_conv=standard` (two 3x3 convolutions in place of "),
        ({"alignment_causal": True}, "`alignment_causal=True`: no frame depends on a later one |"),
        ({"frame_rate": 2.43478}, "; in training 2.43 a second."),
        ({"class_features": "embeddings"}, "compared with a given vector of each class."),
        ({"problem_type": "multi_label_classification"}, "Giving a short video those of 3 labels that fit it: "),
        ({"problem_type": "multi_label_classification"}, "- Each label has a score of its own, "),
    ],
)
def test_a_card_says_what_its_network_does(fields, said):
    config = tiny_config(num_labels=3, **fields)
    card = model_card(config, IlaVideoProcessor.for_model(config), ModelFacts())
    assert said in card.text
    assert ("by aligning" in card.text) is ("sees each frame" not in said and "gta" not in said)
    assert ("alignment_conv" in card.text) is ("by aligning" in card.text and "window" not in said)
    assert ("one of 3 labels" in card.text) is ("problem_type" not in fields)


def test_several_labels_random_frames_and_temporal_reliance(folder, reports):
    report = copy.deepcopy(reports["plain"])
    nothing = dict.fromkeys(report["metrics"])
    report["metrics"] = {**nothing, "mean_average_precision": 0.625}
    report["protocol"] |= {"random_frames": True, "seed": 3}
    orders = {"shuffled": 0.5, "reversed": 0.25, "single_frame": None}
    orders = {name: {"mean_average_precision": value} for name, value in orders.items()}
    report["temporal_reliance"] = {"seed": 3, "orders": orders}
    results = sections(card_of_folder(folder, [report]))["Results"]
    assert [row[1:4] for row in rows(results)] == [
        ["Mean average precision", "62.5 %", "1 clip x 1 crop, 4 frames each, frames at random (seed 3)"]
    ]
    said = "62.5 % with frames as they are, 50.0 % with shuffled frames, 25.0 % with reversed frames."
    where = (
        "Mean average precision on Motions, test, 1 clip x 1 crop, 4 frames each, frames at random (seed 3) (measured"
    )
    assert said in results and where in results


def test_top_5_of_five_classes_is_no_news(reports):
    report = copy.deepcopy(reports["plain"])
    report["model"]["labels"] = 5
    assert [result.metric for result in measured_results(report)] == ["top1", "mean_class_accuracy"]


def test_a_report_without_a_name(reports):
    report = {**reports["plain"], "data_set": {"name": None, "split": None, "list": None}}
    assert {result.data_set for result in measured_results(report)} == {"unnamed data set"}


# -- reports that are none -------------------------------------------------------------------------------------------

FIELDS = [
    "protocol",
    "counts",
    "metrics",
    "data_set",
    "versions",
    "date",
    "protocol.clips",
    "protocol.crops",
    "protocol.frames_per_clip",
    "protocol.batch_statistics",
    "counts.evaluated",
    "counts.listed",
    "counts.unreadable",
    "metrics.top1",
    "metrics.top5",
    "metrics.mean_class_accuracy",
    "data_set.name",
    "data_set.split",
    "versions.transformers_ila",
]


@pytest.mark.parametrize("field", FIELDS)
def test_reports_with_a_field_missing(reports, field):
    report = copy.deepcopy(reports["fault"])
    *path, last = field.split(".")
    part = report[path[0]] if path else report
    del part[last]
    with pytest.raises(ValueError, match=f"no evaluation report: .*'{last}'"):
        measured_results(report)


KINDS_OF_FIELDS = [
    ("date", ["2026-11-29"], "'date' must be a date such as"),
    ("date", "soon", "got 'soon'"),
    ("schema", 2, "'schema' must be 1; got 2"),
    ("model.labels", "8", "'labels' of 'model' must be a whole number from 1; got '8'"),
    ("model.labels", True, "got True"),
    ("model.name", ["m"], "'name' of 'model' must be text, or none; got"),
    ("model.dtype", "load", "'dtype' of 'model' must be a type such as float32; got 'load'"),
    ("data_set.name", {"a": 1}, "'name' of 'data_set' must be text, or none"),
    ("protocol.clips", "3", "'clips' of 'protocol' must be a whole number from 1; got '3'"),
    ("protocol.crops", 0, "got 0"),
    ("protocol.batch_statistics", "no", "must be true or false; got 'no'"),
    ("counts.evaluated", -1, "must be a whole number from 0; got -1"),
    ("counts.listed", 3.5, "got 3.5"),
    ("metrics", [1], "'metrics' must be entries by name; got"),
    ("versions.transformers_ila", 1, "must be text; got 1"),
    ("temporal_reliance", {"orders": [1]}, "'orders' of 'temporal_reliance' must be entries by name"),
    ("temporal_reliance", {"orders": {"backwards": {}}}, "may be shuffled, reversed, single_frame; got 'backwards'"),
    ("temporal_reliance", {"orders": {"reversed": {"top1": "0.5"}}}, "'top1' of 'reversed' of 'orders'"),
    ("temporal_reliance", 3, "must be an entry of 'temporal_reliance'; got 3"),
]


@pytest.mark.parametrize(("field", "value", "message"), KINDS_OF_FIELDS)
def test_fields_of_another_kind(reports, field, value, message):
    report = copy.deepcopy(reports["plain"])
    *path, last = field.split(".")
    (report[path[0]] if path else report)[last] = value
    for read in (measured_results, markdown):
        with pytest.raises(ValueError, match=f"This is no evaluation report: .*{re.escape(message)}"):
            read(report)


@pytest.mark.parametrize("text", ["{", "[" * 9999, '{"metrics": NaN}', "\udcff"])
def test_a_file_that_is_no_report_is_named(folder, tmp_path, text):
    file = tmp_path / "report.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="report.json' cannot be read: "):
        make_model_cards.run(make_model_cards.CardOptions(model=str(folder), reports=[str(file)]))


@pytest.mark.parametrize("report", [{}, [], None, "text", 3, [{}], {"protocol": None, "counts": {}, "metrics": {}}])
def test_what_is_no_report(report):
    with pytest.raises(ValueError, match="no evaluation report"):
        measured_results(report)


@pytest.mark.parametrize("value", ["0.5", 71.3, -0.1, float("nan"), float("inf"), True, [0.5], {}])
def test_accuracies_that_are_none(reports, value):
    report = copy.deepcopy(reports["plain"])
    report["metrics"]["top5"] = value
    with pytest.raises(ValueError, match="no evaluation report"):
        measured_results(report)


def test_reports_without_a_readable_video(model, processor, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    report = evaluate(model, processor, [(tmp_path / "text.mp4", 0)]).report()
    with pytest.raises(ValueError, match="no video could be evaluated"):
        measured_results(report)


# -- cards of folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, model, processor):
    return export(model, processor, tmp_path / "mine")


def test_the_card_of_a_folder_gets_its_reports(folder, reports, capsys, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(reports["plain"]))
    arguments = make_model_cards.CardOptions(model=str(folder), reports=[str(tmp_path / "report.json")])
    assert make_model_cards.run(arguments) == 0
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    card = ModelCard.load(folder / "README.md")
    assert len(card.data.eval_results) == 3 and "measured" in sections(card)["Results"]
    assert 'model="mine"' in card.text and NOBODY not in card.text


def test_results_stay_with_their_weights(folder, reports, model, processor):
    """Of other weights they leave the card, and publishing refuses it."""
    card = card_of_folder(folder, [reports["plain"]])
    facts = read_facts(card)
    assert facts.fingerprint == reports["plain"]["model"]["fingerprint"] and facts.are_of(facts.fingerprint)
    (folder / "README.md").write_text(str(card))
    assert checking._check_results(folder, facts) is None
    with torch.no_grad():
        other = copy.deepcopy(model)
        other.logit_scale.add_(1e-3)
    other.save_pretrained(folder)
    with pytest.raises(checking.PublishError, match="other weights or class names"):
        checking._check_results(folder, facts)
    with pytest.raises(ValueError, match="other weights or class names"):
        card_of_folder(folder, [reports["plain"]])
    again = card_of_folder(folder)
    assert NOBODY in again.text and not read_facts(again).claims_results


@pytest.mark.parametrize(
    "fields,expected",
    [
        ({}, "short side to 32 (bicubic), centre crop 28 x 28, mean 0.481"),
        ({"do_normalize": False}, "centre crop 28 x 28."),
        ({"do_resize": False}, "Pixels: centre crop 28 x 28, mean"),
        ({"do_center_crop": False, "size": {"height": 28, "width": 28}}, "Pixels: to 28 x 28 (bicubic), mean"),
        ({"do_rescale": False}, "centre crop 28 x 28, values 0 to 255, mean"),
        ({"rescale_factor": 0.5}, "times 0.5, mean"),
        ({"frame_sampling": "dense", "frame_stride": 4}, "by the rule `dense`, every 4th."),
    ],
)
def test_a_card_says_what_the_processor_does(model, fields, expected):
    processor = IlaVideoProcessor.for_model(model.config, **fields)
    assert expected in model_card(model.config, processor, ModelFacts()).text


def test_a_folder_keeps_its_origin_and_licence(folder, model, processor, reports):
    for origin, sentence in ((OFFICIAL_RELEASE, RELEASED_ORIGIN), (OPENAI_CLIP, CLIP_ORIGIN)):
        facts = ModelFacts(model_id="user/mine", origin=origin)
        (folder / "README.md").write_text(str(model_card(model.config, processor, facts)))
        card = card_of_folder(folder, [reports["plain"]])
        present = ModelCard.load(folder / "README.md")
        assert card.data.license == present.data.license
        assert sections(card)["Licence"] == sections(present)["Licence"]
        assert sentence in card.text and 'model="user/mine"' in card.text


def test_reports_of_other_models_and_no_reports(folder, reports, capsys, tmp_path):
    wrong = {("protocol", "frames_per_clip"): 16, ("model", "labels"): 9, ("preprocessing", "image_std"): [1.0] * 3}
    wrong |= {("model", "fingerprint"): "0" * 64, ("protocol", "frame_sampling"): "dense"}
    wrong |= {("preprocessing", "size"): {"shortest_edge": 99}, ("preprocessing", "do_normalize"): False}
    for (part, field), value in wrong.items():
        other = copy.deepcopy(reports["plain"])
        other[part][field] = value
        with pytest.raises(ValueError, match="The report is of"):
            card_of_folder(folder, [other])
    before = (folder / "README.md").read_text()
    for name, content in {"other": json.dumps(other), "list": "[]", "null": '{"protocol": null}', "text": "x"}.items():
        (tmp_path / name).write_text(content)
        capsys.readouterr()
        assert run_verb(make_model_cards, ["--model", str(folder), "--reports", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith("ila card: error: ")
    for arguments in (
        ["--model", "gone"],
        ["--reports", "a.json"],
        ["--license", "mit"],
        ["--model", str(folder), "--reports", "gone"],
    ):
        assert run_verb(make_model_cards, arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("ila card: error: ") and printed.err.count("\n") == 1
    assert (folder / "README.md").read_text() == before


# -- what a folder's card keeps, and what its user says --------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """The types in which weights were loaded."""
    types = []
    load = IlaForVideoClassification.from_pretrained.__func__

    def counted(cls, *args, **kwargs):
        types.append(kwargs.get("dtype"))
        return load(cls, *args, **kwargs)

    monkeypatch.setattr(IlaForVideoClassification, "from_pretrained", classmethod(counted))
    return types


def test_weights_are_loaded_once_for_each_type(folder, reports, loads, monkeypatch):
    half = copy.deepcopy(reports["plain"])
    half["model"]["dtype"] = "bfloat16"
    with pytest.raises(ValueError, match="has other weights or class names"):
        card_of_folder(folder, [reports["plain"], reports["plain"], half])
    assert loads == ["auto", torch.bfloat16]
    loads.clear()
    (folder / "README.md").write_text(str(card_of_folder(folder, [reports["plain"], reports["fault"]])))
    assert loads == ["auto"]
    loads.clear()
    monkeypatch.setattr(checking, "_try", lambda *_: {})
    (folder / "tokenizer.json").write_text("{}")
    checking.check_folder(folder)
    assert loads == ["auto"]


def test_nothing_is_loaded_for_what_cannot_be(folder, reports, loads):
    other = {**reports["plain"], "protocol": {**reports["plain"]["protocol"], "frames_per_clip": 9}}
    for arguments, options in (([other], {}), ([{}], {}), ([], {"license": "My licence"})):
        with pytest.raises(ValueError):
            card_of_folder(folder, arguments, **options)
    (folder / "README.md").write_text("---\nila: 3\n---\n")
    with pytest.raises(ValueError, match="under the key `ila`"):
        card_of_folder(folder)
    assert not loads


def test_a_licence_by_the_command(folder, reports, capsys):
    """It is added to what the card says; without reports the measured results stay."""
    (folder / "README.md").write_text(str(card_of_folder(folder, [reports["plain"]])))
    before = ModelCard.load(folder / "README.md")
    assert "Nobody has stated a licence" in before.text
    assert run_verb(make_model_cards, ["--model", str(folder), "--license", "apache-2.0"]) == 0
    after = ModelCard.load(folder / "README.md")
    assert after.data.license == "apache-2.0" and "the weights are apache-2.0." in sections(after)["Licence"]
    assert {**sections(after), "Licence": ""} == {**sections(before), "Licence": ""}
    assert read_facts(after) == dataclasses.replace(read_facts(before), license="apache-2.0")
    assert card_of_folder(folder, [reports["fault"]]).data.license == "apache-2.0"
    capsys.readouterr()
    written = (folder / "README.md").read_text()
    for value, meant in (("other", ""), ("", ""), ("bogus", ""), ("Apache 2.0", "Did you mean 'apache-2.0'?")):
        assert run_verb(make_model_cards, ["--model", str(folder), "--license", value]) == 2
        error = capsys.readouterr().err
        assert "must be an identifier of the Hub's list" in error and meant in error
    assert (folder / "README.md").read_text() == written


def test_a_licence_that_only_the_authors_can_give(folder, model, processor):
    facts = ModelFacts(model_id="mine", origin=OFFICIAL_RELEASE)
    (folder / "README.md").write_text(str(model_card(model.config, processor, facts)))
    with pytest.raises(ValueError, match="cannot be 'mit': .* nobody granted a licence.* at the head of README.md"):
        card_of_folder(folder, license="mit")
    config = copy.deepcopy(model.config)
    config.weights_origin = OFFICIAL_RELEASE
    granted = model_card(config, processor, ModelFacts(license="mit"))  # as they write it themselves
    assert granted.data.license == "mit" and "whoever wrote this card states mit" in granted.text
    assert BATCH_STATISTICS in granted.text and RELEASED_ORIGIN in granted.text


def test_results_of_an_earlier_card_stay_with_their_weights(folder, reports):
    """Cards before there were facts say whose their results are in a comment."""
    found = reports["plain"]["model"]["fingerprint"]
    earlier = (ROOT / "tests" / "hub" / "earlier_cards" / "measured.md").read_text()
    (folder / "README.md").write_text(re.sub("weights [0-9a-f]{64}", f"weights {found}", earlier))
    card = card_of_folder(folder)
    assert sections(card)["Results"] == re.sub("\n\n<!--.*", "", sections(ModelCard(earlier))["Results"])
    assert card.data.eval_results == ModelCard(earlier).data.eval_results and read_facts(card).fingerprint == found
    (folder / "README.md").write_text(earlier)  # of other weights
    assert NOBODY in card_of_folder(folder).text

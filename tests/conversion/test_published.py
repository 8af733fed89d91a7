"""The table of published checkpoints, class names, and the release's preprocessing."""

import csv
import json

import pytest
import torch
from huggingface_hub.utils import validate_repo_id

from support.paths import SHARED
from transformers_ila.conversion.published import PUBLISHED, published_like, released_processor
from transformers_ila.conversion.released_cards import published_facts
from transformers_ila.conversion.state_dicts import convert_state_dict
from transformers_ila.data.class_names import DATA_SETS, class_names, fill_up, is_unused
from transformers_ila.model.configuration_ila import CLIP_SIZES


SHAPES = SHARED / "reference" / "released_state_dict_shapes.json"
LABELS = {"kinetics400": "kinetics_400_labels.csv", "ssv2": "something-something-v2-labels.csv"}
DATA_SET_OF = {"k400": "kinetics400", "ssv2": "ssv2"}
needs_shapes = pytest.mark.skipif(not SHAPES.is_file(), reason="the shapes of the published checkpoints are not here")
every_checkpoint = pytest.mark.parametrize("checkpoint", PUBLISHED, ids=lambda checkpoint: checkpoint.name)


def row(data_set, size, num_frames):
    (found,) = (row for row in PUBLISHED if (row.data_set, row.size, row.num_frames) == (data_set, size, num_frames))
    return found


# -- the table -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_good_for_the_hub():
    names = [checkpoint.name for checkpoint in PUBLISHED]
    assert len(set(names)) == len(set(PUBLISHED)) == 10
    for name in names:
        validate_repo_id(f"user/{name}")
    assert row("kinetics400", "B/16", 8).name == "ila-base-patch16-8f-kinetics400"
    assert row("ssv2", "L/14@336", 16).name == "ila-large-patch14-336-16f-ssv2"
    assert row("ssv2", "L/14@336", 16).title == "ILA-L/14@336, 16 frames, Something-Something V2"


def test_numbers_of_the_papers_tables():
    """Table 1 and Table 2: top-1, top-5, GFLOPs."""
    table = {
        ("kinetics400", "B/32", 8): (81.3, 95.0, 40),
        ("kinetics400", "B/32", 16): (82.4, 95.8, 75),
        ("kinetics400", "B/16", 8): (84.0, 96.6, 149),
        ("kinetics400", "B/16", 16): (85.7, 97.2, 295),
        ("kinetics400", "L/14", 8): (88.0, 98.1, 673),
        ("kinetics400", "L/14@336", 16): (88.7, 97.8, 3130),
        ("ssv2", "B/16", 8): (65.0, 89.2, 214),
        ("ssv2", "B/16", 16): (66.8, 90.3, 438),
        ("ssv2", "L/14", 8): (67.8, 90.5, 907),
        ("ssv2", "L/14@336", 16): (70.2, 91.8, 3723),
    }
    found = {(c.data_set, c.size, c.num_frames): (c.top1, c.top5, c.gmacs) for c in PUBLISHED}
    assert found == table


@every_checkpoint
def test_what_the_papers_network_costs_is_said_for_each_row(checkpoint):
    """One row is not reached; `tests/test_cost.py` counts them all."""
    note = published_facts(checkpoint).results[0].note
    assert f"states {checkpoint.gmacs} G" in note and f"costs {checkpoint.counted_gmacs} G (counted)" in note
    assert ("1.14 times that" in note) == (checkpoint is PUBLISHED[-1])


@every_checkpoint
def test_configurations(checkpoint):
    config = checkpoint.config()
    vision, data_set = config.vision_config, DATA_SETS[checkpoint.data_set]
    assert (config.num_frames, vision.num_frames) == (checkpoint.num_frames,) * 2
    assert vision.patch_size == int(checkpoint.size.partition("/")[2].partition("@")[0])
    assert vision.image_size == (336 if checkpoint.size.endswith("@336") else 224)
    assert vision.alignment_fusion == "residual"
    names = class_names(checkpoint.data_set)
    assert data_set.num_labels == len(names) and config.num_labels == 400  # the files' heads have 400 outputs
    assert [config.id2label[index] for index in range(400)] == fill_up(names, 400)
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    text = checkpoint.data_set == "kinetics400"
    assert config.classification_head == ("text" if text else "linear")
    assert vision.alignment_conv == ("depthwise_separable" if text else "standard")
    paper = checkpoint.config(alignment_fusion="mi_token", num_frames=5)
    assert (paper.vision_config.alignment_fusion, paper.num_frames) == ("mi_token", 5)


def flat(fields, prefix=""):
    """Every field but the names of the classes."""
    found = {}
    for name, value in fields.items():
        if isinstance(value, dict) and name not in ("id2label", "label2id"):
            found |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, dict):
            found[prefix + name] = value
    return found


def architecture(config):
    """Defaults that depend on other fields are spelled out."""
    fields = flat(config.to_dict())
    fields["vision_config.mit_intermediate_size"] = (
        config.vision_config.mit_intermediate_size or 4 * config.projection_dim
    )
    if config.classification_head == "linear":  # there is no text tower
        return {name: value for name, value in fields.items() if not name.startswith("text_config.")}
    fields["text_config.eos_token_id"] = "the largest"  # which 2 means, and which the vocabulary's last is
    assert config.text_config.eos_token_id in (2, config.text_config.vocab_size - 1)
    return fields


@pytest.fixture(scope="module")
def converted():
    """Name in the list of shapes -> the configuration that its names and shapes give."""
    return {
        name: convert_state_dict({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})[0]
        for name, shapes in json.loads(SHAPES.read_text()).items()
    }


@needs_shapes
def test_the_table_describes_the_published_files(converted):
    assert len(converted) == len(PUBLISHED)
    for name, config in converted.items():
        data_set, size, frames = name.split()
        checkpoint = row(DATA_SET_OF[data_set], size.removeprefix("ViT-"), int(frames.removesuffix("f")))
        assert architecture(config) == architecture(checkpoint.config()), name


@needs_shapes
def test_published_files_are_recognised_once_their_classes_are_named(converted):
    for name, config in converted.items():
        data_set, size, frames = name.split()
        config = type(config).from_dict(config.to_dict())
        assert published_like(config) is None
        names = class_names(DATA_SET_OF[data_set])
        if config.classification_head == "linear":
            assert config.num_labels == 400
            names = fill_up(names, config.num_labels)
        config.id2label = dict(enumerate(names))
        found = published_like(config)
        assert found == row(DATA_SET_OF[data_set], size.removeprefix("ViT-"), int(frames.removesuffix("f")))
        config.id2label = dict(enumerate([*names[:-1], "something else"]))
        assert published_like(config) is None


@pytest.mark.parametrize("checkpoint", [PUBLISHED[0], PUBLISHED[-1]], ids=lambda checkpoint: checkpoint.name)
def test_only_its_own_configuration_is_like_a_published_one(checkpoint):
    assert published_like(checkpoint.config()) == checkpoint
    for fields in (
        {"num_frames": 12},
        {"alignment_fusion": "mi_token"},
        {"temporal_module": "none"},
        {"image_size": 448},
        {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}},
    ):
        assert published_like(checkpoint.config(**fields)) is None


def test_every_size_has_a_configuration():
    assert {checkpoint.size for checkpoint in PUBLISHED} == set(CLIP_SIZES)


@every_checkpoint
def test_preprocessing(checkpoint):
    processor = released_processor(checkpoint.config())
    size = 336 if checkpoint.size.endswith("@336") else 224
    assert dict(processor.size) == {"shortest_edge": {224: 256, 336: 384}[size]}
    assert dict(processor.crop_size) == {"height": size, "width": size}
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]
    assert processor.resample == 2  # bilinear
    assert (processor.num_frames, processor.frame_sampling) == (checkpoint.num_frames, "segments")
    assert not processor.random_frames and (processor.num_clips, processor.num_crops) == (1, 1)


# -- class names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_packaged_class_names(data_set):
    names = class_names(data_set)
    assert len(names) == len(set(names)) == DATA_SETS[data_set].num_labels
    assert all(name == name.strip() and name.isprintable() for name in names)
    assert not any(is_unused(name) for name in names)


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_packaged_class_names_are_the_releases(data_set):
    file = SHARED / "labels" / LABELS[data_set]
    if not file.is_file():
        pytest.skip("the release's lists are not here")
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [int(row["id"]) for row in rows] == list(range(len(rows)))
    assert class_names(data_set) == [row["name"] for row in rows]
    assert class_names(file) == class_names(str(file)) == class_names(data_set)


GOOD = {
    "bare names": ("running\nplaying chess\n", ["running", "playing chess"]),
    "no line end": ("running\nplaying chess", ["running", "playing chess"]),
    "header": ("id,name\n0,running\n1,playing chess\n", ["running", "playing chess"]),
    "another order": ("id,name\n2,c\n0,a\n1,b\n", ["a", "b", "c"]),
    "spaces": ("  ID , Name \n 0 , running \n 1 , playing chess \n\n  \n", ["running", "playing chess"]),
    "carriage returns": ("id,name\r\n0,running\r\n1,playing chess\r\n", ["running", "playing chess"]),
    "byte order mark": ("\ufeffid,name\n0,running\n1,chess\n", ["running", "chess"]),
    "byte order mark, bare": ("\ufeffrunning\nchess\n", ["running", "chess"]),
    "quotes": ('id,name\n0,"cut, then eat"\n1, "say ""no"""\n', ["cut, then eat", 'say "no"']),
    "bare names with commas": ("cut, then eat\n2 cups, one ball\n", ["cut, then eat", "2 cups, one ball"]),
    "other scripts": ("läuft\n走る\n", ["läuft", "走る"]),
    "empty lines": ("\n\nrunning\n\n\nchess\n\n", ["running", "chess"]),
    "a list in JSON": ('["running", "say \\"no\\""]', ["running", 'say "no"']),
    "SSv2's JSON": (
        '{"Closing [something]": "1",\n "Opening, [something]": "0"}',
        ["Opening, [something]", "Closing [something]"],
    ),
    "names that end with numbers": ("level 1\nlevel 2\nlevel 3\n", ["level 1", "level 2", "level 3"]),
    "one class": ("id,name\n0,running\n", ["running"]),
    "from one": ("id,name\n2,b\n1,a\n", ["a", "b"]),
    "header left out": ("0,running\n1,chess\n", ["running", "chess"]),
    "ids with spaces": ("0 running\n1 playing chess\n", ["running", "playing chess"]),
    "ids from one, as UCF101's": ("1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n", ["ApplyEyeMakeup", "ApplyLipstick"]),
    "ids from one and tabs": ('2\t"chess"\n1\trunning\n', ["running", "chess"]),
    "names that begin with numbers": ("1 person\n2 people\n4 people\n", ["1 person", "2 people", "4 people"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_class_names_of_files(tmp_path, name):
    content, expected = GOOD[name]
    (tmp_path / "labels.csv").write_bytes(content.encode())
    assert class_names(tmp_path / "labels.csv") == expected


BAD = {
    "empty": ("", "names no class"),
    "blank": (" \n\t\n", "names no class"),
    "only a header": ("id,name\n", "names no class"),
    "gap": ("id,name\n0,a\n2,b\n", "must be 0 to 1, each once, or 1 to 2; got 0, 2"),
    "from two": ("id,name\n2,a\n3,b\n", "must be 0 to 1"),
    "id twice": ("id,name\n0,a\n0,b\n", "must be 0 to 1"),
    "negative": ("id,name\n-1,a\n0,b\n", "numbers from 0 on, got '-1,a'"),
    "no number": ("id,name\n0,a\nb\n", "`id,name` in every line .*got 'b'"),
    "comma without quotes": ("id,name\n0,cut, then eat\n", "quote names with commas.*got '0,cut, then eat'"),
    "open quote": ('id,name\n0,"a\n1,b\n', "got '0,\"a'"),
    "name twice": ("a\nb\na\n", r"different and not empty, got \['a'\]"),
    "name twice with ids": ("id,name\n0,a\n1, a\n", r"different and not empty, got \['a'\]"),
    "empty name": ("id,name\n0,\n1,b\n", r"different and not empty, got \[''\]"),
    "ids from two": ("2 running\n3 chess\n", "must be 0 to 1, each once"),
    "id and name twice": ("0 running\n1 running\n", r"different and not empty, got \['running'\]"),
    "ids behind": ("running,0\nchess,1\n", "with that header, or bare names"),
    "another header": ("name,id\nrunning,0\nchess,1\n", "with that header, or bare names"),
    "a header without ids": ("name\nrunning\nchess\n", "with that header, or bare names"),
    "half a JSON": ('{"running": "0",', "is no JSON"),
    "JSON of something else": ('[{"running": 0}]', "list of names, or names with their ids"),
    "JSON with a gap": ('{"running": "0", "chess": "2"}', "must be 0 to 1, each once"),
    "empty JSON": ("{}", "names no class"),
    "one huge line": ("id,name\n0," + "x" * 200_000 + "\n", "in every line"),
}


@pytest.mark.parametrize("name", BAD)
def test_class_names_that_are_refused(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        class_names(tmp_path / "labels.csv")
    assert str(tmp_path / "labels.csv") in str(error.value)


def test_no_class_names(tmp_path):
    for source in ("kinetics", tmp_path, tmp_path / "gone.csv", ""):
        with pytest.raises(ValueError, match="one of kinetics400, ssv2, or a file"):
            class_names(source)
    (tmp_path / "latin.csv").write_bytes("läuft\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv' is no text in UTF-8"):
        class_names(tmp_path / "latin.csv")


def test_outputs_without_a_class():
    assert fill_up(["a", "b"], 4) == ["a", "b", "unused output 2", "unused output 3"]
    assert fill_up(["a", "b"], 2) == ["a", "b"]
    assert [is_unused(name) for name in fill_up(["a"], 2)] == [False, True]

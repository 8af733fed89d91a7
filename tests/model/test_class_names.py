"""`id2label`, `label2id`, `num_labels`: three ways to give one list of class names, in every configuration of ours."""

import numpy as np
import pytest
from transformers import AutoConfig

from support.tiny_models import TINY_VISION
from transformers_ila import AlignedTimesformerConfig, FrozenClipConfig, IlaConfig
from transformers_ila.model.class_names_ila import (
    check_labels,
    explicit_class_names,
    label_fields,
    names_in_fields,
    row_order,
)


CONFIGS = (IlaConfig, FrozenClipConfig, AlignedTimesformerConfig)
A, B = ["walk", "run", "sit"], {"walk": 0, "run": 1, "sit": 2}


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": {0: "walk", 1: "run", 2: "sit"}},
        {"id2label": {2: "sit", 1: "run", 0: "walk"}},
        {"id2label": {"0": "walk", "1": "run", "2": "sit"}},  # as JSON has it
        {"label2id": B},
        {"label2id": {"sit": "2", "run": "1", "walk": "0"}},  # as Transformers' guides write it
        {"id2label": dict(enumerate(A)), "label2id": B, "num_labels": 3},
        {"id2label": dict(enumerate(A)), "label2id": {"LABEL_0": 0, "LABEL_1": 1}},  # what the library leaves behind
        {"id2label": {np.str_(i): np.str_(name) for i, name in enumerate(A)}},
        {"label2id": dict(zip(A, np.arange(3))), "num_labels": np.int64(3)},
    ],
)
@pytest.mark.parametrize("kind", CONFIGS)
def test_all_ways_to_name_classes_say_the_same(kind, fields, tmp_path):
    config = kind(**fields)
    assert (config.id2label, config.label2id) == tuple(label_fields(A).values()) and config.class_names == A
    kind().save_pretrained(tmp_path)
    for loaded in (kind.from_pretrained(tmp_path, **fields), AutoConfig.from_pretrained(tmp_path, **fields)):
        assert (loaded.id2label, loaded.label2id) == tuple(label_fields(A).values())


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"id2label": {1: "walk", 2: "run"}}, r"`id2label` must number its classes 0 to 1, got the indices \[1, 2\]"),
        ({"id2label": {0: "walk", 2: "run"}}, "0 to 1"),
        ({"id2label": {0: "walk", "0": "run"}}, "0 to 1"),
        ({"id2label": {False: "walk", True: "run"}}, "0 to 1"),
        ({"id2label": {"00": "walk", " 1": "run"}}, "0 to 1"),
        ({"id2label": {0.0: "walk", 1.0: "run"}}, "0 to 1"),
        ({"id2label": {"walk": 0, "run": 1}}, "0 to 1"),
        ({"label2id": {"walk": 1, "run": 2}}, r"`label2id` must number its classes 0 to 1, got the indices \[1, 2\]"),
        ({"label2id": {"walk": 0, "run": 0}}, "0 to 1"),
        ({"id2label": {}}, "`id2label` must be different class names"),
        ({"id2label": ["walk", "run"]}, "`id2label` must be a dictionary"),
        ({"label2id": "walk"}, "`label2id` must be a dictionary"),
        ({"id2label": {0: "walk", 1: "walk"}}, r"these repeat: \['walk'\]"),
        ({"id2label": {0: "walk", 1: "walk "}}, "'walk' and 'walk ' differ in blanks only"),
        ({"id2label": {0: "walk", 1: " "}}, "`id2label` must be different class names"),
        ({"id2label": {0: 5, 1: "run"}}, "`id2label` must be different class names"),
        ({"id2label": {0: "walk", 1: "run"}, "label2id": {"walk": 1, "run": 0}}, "contradict each other"),
        ({"id2label": {0: "walk", 1: "run"}, "label2id": {"walk": 0, "sit": 1}}, "contradict each other"),
        ({"id2label": {0: "walk", 1: "run"}, "label2id": {"walk": 0}}, "contradict each other"),
        ({"id2label": {0: "walk", 1: "run"}, "num_labels": 3}, "`num_labels` is 3, but .* names 2 classes"),
        ({"label2id": {"walk": 0, "run": 1}, "num_labels": 3}, "`num_labels` is 3"),
        ({"num_labels": "3"}, "`num_labels` must be a number of classes, got '3'"),
        ({"num_labels": True}, "`num_labels` must be"),
        ({"num_labels": -1}, "`num_labels` (must be|is -1)"),
    ],
)
def test_what_names_no_classes_is_an_error(fields, said, tmp_path):
    for kind in CONFIGS:
        with pytest.raises(ValueError, match=said):
            kind(**fields)
    IlaConfig(**label_fields(A)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        AutoConfig.from_pretrained(tmp_path, **fields)


def test_maps_set_one_by_one_are_not_believed_where_they_contradict(tmp_path):
    config = IlaConfig(vision_config=dict(TINY_VISION), **label_fields(A))
    config.id2label = {0: "swim", 1: "run", 2: "sit"}
    with pytest.raises(ValueError, match="contradict each other"):
        assert config.class_names
    with pytest.raises(Exception, match="contradict each other"):
        config.save_pretrained(tmp_path)
    config.label2id = {"swim": 0, "run": 1, "sit": 2}
    assert config.class_names == ["swim", "run", "sit"]
    config.id2label[1] = "sit"
    with pytest.raises(ValueError, match="repeat"):
        assert config.class_names


@pytest.mark.parametrize("kind", CONFIGS)
def test_files_of_earlier_versions(kind, caplog):
    stored = {**kind().to_dict(), **label_fields(A), "label2id": {"old": 0, "names": 1}}
    assert kind.from_dict(dict(stored)).class_names == A and "`id2label` counts" in caplog.text
    assert kind.from_dict(dict(stored), id2label={0: "b", 1: "a"}).class_names == ["b", "a"]
    one_based = {**stored, "id2label": {"1": "walk", "2": "run"}}
    with pytest.raises(ValueError, match="0 to 1"):
        kind.from_dict(dict(one_based))
    assert kind.from_dict(dict(one_based), label2id={"walk": 0, "run": 1}).class_names == ["walk", "run"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_number_of_classes_keeps_the_names_if_there_are_as_many(kind):
    stored = {**kind().to_dict(), **label_fields(A)}
    assert kind.from_dict(dict(stored), num_labels=3).class_names == A
    assert kind.from_dict(dict(stored), num_labels=4).class_names == [f"LABEL_{index}" for index in range(4)]
    assert kind(num_labels=4).class_names == [f"LABEL_{index}" for index in range(4)]
    assert explicit_class_names(kind(num_labels=4)) is None and explicit_class_names(kind(label2id=B)) == A


@pytest.mark.parametrize(
    "labels", [A, tuple(A), np.array(A), dict.fromkeys(A).keys(), dict(enumerate(A)).values(), (name for name in A)]
)
def test_what_has_an_order_names_classes(labels):
    names = check_labels(labels)
    assert names == A and all(type(name) is str for name in names)


@pytest.mark.parametrize(
    "labels, said",
    [
        ({"a", "b"}, "a set, which does not say an order"),
        (frozenset("ab"), "a frozenset, which does not say an order"),
        ({"a": 1, "b": 0}, "a dict, which does not say an order"),
        (b"ab", "must be different class names"),
        (None, "must be different class names"),
        (np.array("a"), "must be different class names"),
        (["a", None], "must be different class names"),
        (["a", "\t"], "must be different class names"),
        ([["a"], ["b"]], "must be different class names"),
        (["b  c", "b c"], "differ in blanks only"),
        (["a", "b", "a"], r"these repeat: \['a'\]"),
    ],
)
def test_what_names_no_classes(labels, said):
    with pytest.raises(ValueError, match=f"`labels` must be.*{said}|{said}"):
        check_labels(labels)


def test_rows_follow_their_names():
    assert row_order(A, ["sit", "walk", "run"]) == [2, 0, 1]
    assert row_order(["LABEL_0", "LABEL_1", "LABEL_2"], A) == [0, 1, 2]
    assert row_order(A, ["walk", "run", "swim"]) is None and row_order(A, A[:2]) is None
    assert row_order(["LABEL_0", "LABEL_1"], A) is None
    assert names_in_fields({}) is None and names_in_fields({"num_labels": 2}) == ["LABEL_0", "LABEL_1"]

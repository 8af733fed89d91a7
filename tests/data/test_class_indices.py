"""Labels that carry names: from any list to any order of classes by name, and errors where that cannot be."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from transformers_ila.data.class_indices import ClassIndex, labels_of_pair, name_of
from transformers_ila.data.samples import Annotations, Sample, join_classes, listed_samples, samples_hash


MODEL = ["run", "sit still", "swim", "walk"]
NUMBERED = [f"LABEL_{index}" for index in range(4)]


def annotations(names, *labels, **fields):
    samples = [Sample(f"/v/{n}.mp4", of_video, f"{n}.mp4") for n, of_video in enumerate(labels)]
    return Annotations(samples, names, any(len(x) != 1 for x in labels), "list", "test", **fields)


def indices(samples):
    return [tuple(map(int, sample.labels)) for sample in listed_samples(samples)]


def test_an_index_keeps_its_name():
    label = ClassIndex(3, "walk")
    for kept in (label, copy.deepcopy(label), pickle.loads(pickle.dumps(label)), dict(a=label)["a"], [*(label,)][0]):
        assert kept == 3 and kept.name == "walk" and isinstance(kept, int)
    assert torch.tensor([label, label]).tolist() == [3, 3] and name_of(label + 1) is name_of(3) is None
    found = annotations(["walk", "swim"], (0,), (1,))
    assert [name_of(label) for _, label in found.pairs()] == ["walk", "swim"]
    assert samples_hash(found.samples) == samples_hash([s._replace(labels=(int(s.labels[0]),)) for s in found.samples])


def test_classes_are_found_by_name(caplog):
    own = annotations(["swim", "walk", "sit_still"], (0,), (1,), (2,))
    expected = [(2,), (3,), (1,)]
    for form in (own, own.samples, own.pairs(), tuple(own.samples), own.samples[:1] + own.pairs()[1:]):
        assert indices(join_classes(form, MODEL)) == expected
    joined = join_classes(own, MODEL)
    assert joined.class_names == MODEL and indices(join_classes(joined, MODEL)) == expected
    assert indices(replace(own, class_names=MODEL)) == expected  # annotations are always in their own order
    other = annotations(["run", "swim"], (0,), (1,))
    assert indices(join_classes(own.samples + other.samples, MODEL)) == [*expected, (0,), (2,)]
    several = annotations(["swim", "walk"], (0, 1), (1,), ())
    assert indices(join_classes(several, MODEL)) == [(2, 3), (3,), ()]
    assert indices(join_classes([("a", "walk"), ("b", ["swim"])], MODEL)) == [(3,), (2,)]
    assert not caplog.records


def test_unused_names_may_be_missing_and_used_ones_may_not():
    own = annotations(["jump", "walk"], (1,))
    assert indices(join_classes(own, MODEL)) == [(3,)]
    with pytest.raises(
        ValueError, match=r"2 videos, such as '/v/0.mp4', .* none of the 4 .*'run'.*: 'jump', 'wolk' \('walk'\?\)"
    ):
        join_classes(annotations(["jump", "walk", "wolk"], (0,), (1,), (2,)), MODEL)
    with pytest.raises(ValueError, match="none of the 1 class names"):
        annotations(["walk"], (ClassIndex(0, "swim"),))
    with pytest.raises(ValueError, match="classes 0 to 0; 1 videos have others: '/v/0.mp4: 4'"):
        annotations(["walk"], (4,))


def test_indices_without_names_are_kept_and_that_is_said_once(caplog):
    joined = join_classes([("a", 3), ("b", 0)], MODEL)
    assert (
        indices(joined) == [(3,), (0,)]
        and "2 of 2 videos have no names" in caplog.text
        and "0 is 'run'" in caplog.text
    )
    assert indices(join_classes(joined, MODEL)) == [(3,), (0,)] and len(caplog.records) == 1
    caplog.clear()
    own = annotations(["swim", "walk"], (0,), (1,))
    joined = join_classes(own, NUMBERED)
    assert indices(joined) == [(0,), (1,)] and "4 classes have numbers for names" in caplog.text
    assert indices(join_classes(joined, NUMBERED)) == [(0,), (1,)] and len(caplog.records) == 1
    with pytest.raises(ValueError, match="two orders of classes: 0 is 'swim', and 0 is 'walk'"):
        join_classes(own.samples + annotations(["walk"], (0,)).samples, NUMBERED)
    assert indices(join_classes((pair for pair in [("a", "LABEL_3")]), NUMBERED)) == [(3,)]
    for text in ("walk", "3"):
        with pytest.raises(ValueError, match=f"names, as '{text}', and the model's classes have numbers for names"):
            join_classes((pair for pair in [("a", text)]), NUMBERED)


@pytest.mark.parametrize(
    "label", [2, np.int64(2), np.uint8(2), torch.tensor(2), [2], (2,), torch.tensor([2]), ClassIndex(2, "x")]
)
def test_one_index(label):
    assert labels_of_pair(label) == labels_of_pair(label, row=4) == [2]


@pytest.mark.parametrize(
    "row",
    [
        [1, 0, 1, 0],
        (1.0, 0, 1, 0),
        np.array([1, 0, 1, 0]),
        torch.tensor([True, False, True, False]),
        [np.int8(1), 0, 1, 0],
    ],
)
def test_rows_where_a_video_may_have_several_labels(row):
    assert labels_of_pair(row, row=4) == [0, 2]
    for wrong in (None, 5):
        with pytest.raises(ValueError, match="row of 0 and 1"):
            labels_of_pair(row, row=wrong)
    assert labels_of_pair([1, 0], row=4) == [1, 0] and labels_of_pair([1, 1], row=2) == [0, 1]
    for unclear in ([1, 0], [0, 1], [0]):
        with pytest.raises(ValueError, match="may be indices or a row"):
            labels_of_pair(unclear, row=len(unclear))
    assert labels_of_pair([1], row=1) == [0] and labels_of_pair([False], row=1) == []
    assert labels_of_pair([True, False], row=2) == [0]


@pytest.mark.parametrize(
    "label",
    [
        -1,
        True,
        1.0,
        np.bool_(1),
        np.float16(1),
        torch.tensor(True),
        torch.tensor(1.0),
        None,
        {1, 2},
        [[1, 0]],
        [1, "walk"],
        b"walk",
        [0.5, 0.5],
    ],
)
def test_what_is_no_label(label):
    for row in (None, 2, 4):
        with pytest.raises(ValueError, match="a.mp4: .*a class index .*, a class name, or a list"):
            listed_samples([("a.mp4", label)], row=row)
    with pytest.raises(ValueError, match="a.mp4: .*a class index"):
        Annotations([Sample("a.mp4", label, "a")], None, True, "list", "test")


@pytest.mark.parametrize("label", [[2, 2], ["walk", "walk"], torch.tensor([3, 3])])
def test_a_label_twice(label):
    with pytest.raises(ValueError, match="twice"):
        listed_samples([("a.mp4", label)], row=4)
    for names in (None, MODEL):
        with pytest.raises(ValueError, match="twice"):
            Annotations([Sample("a.mp4", (1, 0, 1, 0), "a")], names, True, "list", "test")


def test_names_become_indices():
    found = listed_samples([("a", "walk"), ("b", ["swim", "walk"])])
    assert [sample.labels for sample in found] == [(1,), (0, 1)] and name_of(found[0].labels[0]) == "walk"
    with pytest.raises(ValueError, match="'walk', and some indices, as 0"):
        listed_samples([("a", "walk"), ("b", 0)])
    with pytest.raises(ValueError, match="pairs of a video and its labels; among these is dict"):
        listed_samples([{"video": "a", "label": 0}])

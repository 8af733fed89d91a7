"""The page of a timeline: what it holds, what labels cannot do to it, and that it loads nothing from elsewhere.

What it does in a browser: tests/extra/check_page.py.
"""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from support.timelines import HOSTILE, make_timeline
from transformers_ila.markup import plain_line
from transformers_ila.timeline import page
from transformers_ila.timeline.page import CURVES, NONE, POINTS, timeline_page
from transformers_ila.timeline.segments import Segment


class Parsed(HTMLParser):
    """The elements of a page, and the texts of those of a kind or with an id."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open = dict(attributes).get("id") or tag

    def handle_data(self, data):
        self.texts.setdefault(self.open, []).append(data)

    @property
    def data(self):
        return json.loads("".join(self.texts["data"]))


def curves_of(data) -> np.ndarray:
    shades = np.frombuffer(base64.b64decode(data["scores"]), dtype=np.uint8)
    return shades.reshape(data["curves"], len(data["times"]))


def test_labels_are_text_and_the_page_asks_for_nothing(tmp_path):
    truth = [Segment("</title><script>alert(4)</script>", 1.0, 2.0, 1.0)]
    timeline = make_timeline(HOSTILE, video="</title><script>alert(3)</script>.mp4", stopped="<i>broken</i>")
    found = Parsed(timeline_page(timeline, tmp_path, video=tmp_path / "<a>:%20.mp4", truth=truth))
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 3 and tags.count("title") == 1
    assert not {"img", "link", "iframe", "object"} & {*tags}
    assert not [
        values for _, values in found.elements if {"src", "href", "action", "onerror", "onload"} & values.keys()
    ]
    policy = next(values["content"] for tag, values in found.elements if values.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "http" not in policy
    data = found.data
    assert sorted(data["labels"]) == sorted([*(plain_line(label) or "(no name)" for label in HOSTILE), truth[0].label])
    assert data["video"] == "%3Ca%3E%3A%2520.mp4" and data["name"] == timeline.video
    assert "".join(found.texts["title"]).strip() == timeline.video


def test_everything_is_in_the_page_without_javascript(tmp_path):
    timeline = make_timeline(stopped="the file ends")
    text = timeline_page(timeline, tmp_path)
    assert "stops at 0:10.0, before the video does: the file ends." in text
    for segment in timeline.segments:
        assert (
            f'<td>{segment.label}</td><td class="number"><button type="button" data-time="{segment.start:.3f}"' in text
        )
    assert "nothing for 0.4 s" in text and "<dt>segments.smoothing</dt><dd>0.5</dd>" in text and "{{" not in text


def test_hours_of_hundreds_of_labels_stay_light(tmp_path):
    labels = [f"class {index}" for index in range(450)]
    scores = np.full((3 * 3600 * 2, 450), 0.01, np.float32)
    scores[7777, 449], scores[:, 5] = 1.0, 0.5
    segments = [Segment("class 449", 9000, 9001, 0.9)]
    timeline = make_timeline(labels, seconds=3 * 3600, rate=2.0, segments=segments, scores=scores)
    text = timeline_page(timeline, tmp_path)
    data = Parsed(text).data
    curves = curves_of(data)
    assert len(text) < 1.2e6 and curves.shape == (CURVES, POINTS) and len(data["times"]) == POINTS
    assert data["labels"][:2] == ["class 449", "class 5"] and sorted(data["labels"]) == sorted(labels)
    assert data["shown"] == [0, 1, 2, 3, 4] and data["segments"] == [[0, 9000, 9001, "0.90"]]
    peak = int(curves[0].argmax())  # one score of 21600 is seen, at its time
    assert curves[0, peak] == 254 and data["times"][peak] <= 7777 / 2 < data["times"][peak + 1]
    assert "the highest one in each 0:05.40" in text and f"all but {CURVES} of 450 labels" in text


def test_a_curve_is_the_scores_where_they_are_few(tmp_path):
    timeline = make_timeline(times=np.r_[np.arange(20) / 4, 60 + np.arange(20) / 4], duration=66.0)
    timeline.scores[4, 1] = np.nan
    truth = [Segment("falling", 62.0, 63.0, 1.0)]
    data = Parsed(timeline_page(timeline, tmp_path, truth=truth)).data
    assert data["labels"] == ["walking", "running", "waving", "falling"] and data["shown"] == [0, 1, 2, 3]
    curves = curves_of(data)
    np.testing.assert_array_equal(data["times"], timeline.times)
    known = ~np.isnan(timeline.scores)
    np.testing.assert_allclose(curves[:3].T[known] / 254, timeline.scores[known], atol=0.5 / 254)
    assert curves[1, 4] == NONE and (curves[3] == NONE).all()
    assert 0.25 < data["gap"] < 50 and data["truth"] == [[3, 62, 63, None]] and data["warming"] == [[0, 1.75]]


def test_where_the_page_looks_for_the_video(tmp_path):
    timeline = make_timeline()
    (tmp_path / "a" / "b").mkdir(parents=True)
    video = tmp_path / "clip #1?.mp4"
    video.write_bytes(b"\0video\xff")
    for folder, address in ((tmp_path, "clip%20%231%3F.mp4"), (tmp_path / "a" / "b", "../../clip%20%231%3F.mp4")):
        assert Parsed(timeline_page(timeline, folder, video=video)).data["video"] == address
    found = Parsed(timeline_page(timeline, tmp_path, video=video, embed=True))
    assert base64.b64decode("".join(found.texts["embedded"])) == b"\0video\xff" and found.data["video"] is None
    data = Parsed(timeline_page(timeline, tmp_path, video="https://me:secret@host/a.mp4?token=abc")).data
    assert data["video"] is None and "https://***@host/a.mp4" in data["reason"] and "secret" not in str(data)
    assert (
        Parsed(timeline_page(timeline, tmp_path, video="a.TS")).data["unplayed"]
        == "most browsers do not play .ts files"
    )


def test_what_cannot_be_embedded(tmp_path, monkeypatch):
    video = tmp_path / "a.mp4"
    video.write_bytes(bytes(2**20 + 1))
    monkeypatch.setattr(page, "LARGEST", 2**20)
    with pytest.raises(ValueError, match=r"'.*a\.mp4' has 1 MiB; a page may hold videos of up to 1 MiB"):
        timeline_page(make_timeline(), tmp_path, video=video, embed=True)
    for video in (None, "https://host/a.mp4"):
        with pytest.raises(ValueError, match="embed needs the video's file, got "):
            timeline_page(make_timeline(), tmp_path, video=video, embed=True)
    with pytest.raises(OSError, match="nowhere.mp4"):
        timeline_page(make_timeline(), tmp_path, video=tmp_path / "nowhere.mp4", embed=True)

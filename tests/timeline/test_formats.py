"""A timeline as a file of each format: what is read back, what labels cannot do, what is refused."""

import csv
import json
import math
import re

import numpy as np
import pytest

from support.timelines import HOSTILE, make_timeline
from transformers_ila.timeline.formats import FORMATS, read_timeline, write_timeline
from transformers_ila.timeline.segments import Segment
from transformers_ila.visualization.files import read_about


def written(timeline, path, **options) -> str:
    write_timeline(timeline, path, **options)
    return path.read_bytes().decode("utf-8")


# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("one",), HOSTILE, tuple(f"class {index}" for index in range(400))])
def test_json_gives_the_timeline_back(tmp_path, labels):
    timeline = make_timeline(labels, start=1.25, stopped="interrupted", video="caf\udce9 \u9a91.mp4")
    timeline.scores[3, 0] = math.nan
    text = written(timeline, tmp_path / "a.json")
    found = read_timeline(tmp_path / "a.json")
    for name in ("video", "labels", "notes", "settings", "duration", "start", "stopped", "complete"):
        assert getattr(found, name) == getattr(timeline, name), name
    np.testing.assert_allclose(found.scores, timeline.scores, rtol=6e-4)
    np.testing.assert_allclose(found.times, timeline.times, atol=6e-4)
    np.testing.assert_allclose(found.starts, timeline.starts, atol=6e-4)
    np.testing.assert_array_equal(found.warming_up, timeline.warming_up)
    for one, other in zip(found.segments, timeline.segments, strict=True):
        assert one.label == other.label and one.score == pytest.approx(other.score, rel=1e-3)
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=6e-4)
    assert written(found, tmp_path / "b.json") == text  # rounding once is enough
    assert json.loads(text, parse_constant=pytest.fail)["scores"][3][0] is None  # no NaN, which is no JSON


def test_a_timeline_without_scores(tmp_path):
    write_timeline(make_timeline(seconds=0.0), tmp_path / "a.svg")
    about = read_about(tmp_path / "a.svg")
    assert about["video"] == make_timeline().video and about["settings"] == make_timeline().settings
    assert about["picture"] == "timeline" and "transformers_ila" in about["versions"]
    for timeline in (make_timeline(seconds=0.0), make_timeline(seconds=0.0, segments=[], notes=[], settings={})):
        for suffix in FORMATS.keys() - {".png", ".svg", ".pdf"}:
            write_timeline(timeline, tmp_path / f"a{suffix}")
        found = read_timeline(tmp_path / "a.json")
        assert found.scores.shape == (0, 3) and found.segments == list(timeline.segments)


def test_fewer_scores_only_where_it_is_asked_for_and_said(tmp_path):
    timeline = make_timeline()  # four a second
    write_timeline(timeline, tmp_path / "a.json", every=1.0)
    found = read_timeline(tmp_path / "a.json")
    assert found.times.tolist() == list(range(10)) and found.settings["scores_written_every"] == 1.0
    np.testing.assert_allclose(found.scores, timeline.scores[::4], rtol=6e-4)
    assert len(found.segments) == 3 and "scores_written_every" not in timeline.settings
    assert len(written(timeline, tmp_path / "a.scores.csv", every=2.5).splitlines()) == 1 + 4
    for every in (0, -1, math.nan, math.inf, True, "1"):
        with pytest.raises(ValueError, match="every must be a number of seconds above 0, got"):
            write_timeline(timeline, tmp_path / "b.json", every=every)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.clear(), "is no timeline"),
        (lambda found: found.update(version=2), "of version 2; allowed is 1"),
        (lambda found: found.pop("labels"), "lacks 'labels'"),
        (lambda found: found["segments"][0].pop("score"), "lacks 'score'"),
        (lambda found: found["segments"][0].update(colour="red"), "do not fit each other: .*colour"),
        (lambda found: found["times"].pop(), "do not fit each other: cannot reshape"),
        (lambda found: found["scores"][0].pop(), "do not fit each other"),
        (lambda found: found["notes"].append(3), "do not fit each other"),
    ],
)
def test_other_json_is_refused(tmp_path, change, message):
    found = json.loads(written(make_timeline(), tmp_path / "a.json"))
    change(found)
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        read_timeline(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "WEBVTT\n", "[1, 2]", '"a"', "\ufeff"])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"'.*a\.json' is no "):
        read_timeline(tmp_path / "a.json")


# -- which format, which options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a.mp4", "a.json.gz", "scores.csv.", ".."])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=r"names no format; allowed are \.json, \.scores\.csv, \.csv, \.srt, \.vtt, "):
        write_timeline(make_timeline(), tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_an_option_without_an_effect_is_refused(tmp_path):
    options = {"video": "clip.mp4", "embed": True, "truth": [], "every": 1.0}
    for suffix, form in FORMATS.items():
        for name in options.keys() - form.options:
            with pytest.raises(ValueError, match=f"{name} has no effect on .*; it has one on "):
                write_timeline(make_timeline(), tmp_path / f"a{suffix}", **{name: options[name]})


@pytest.mark.parametrize("suffix", [".json", ".scores.csv", ".csv", ".srt", ".vtt", ".html"])
def test_what_was_there_stays_when_writing_fails(tmp_path, suffix):
    path = tmp_path / f"A{suffix.upper()}"
    write_timeline(make_timeline(("a",), seconds=1.0), path)
    before = path.read_bytes()
    broken = make_timeline(("a",), times=None, segments=None)
    with pytest.raises((TypeError, AttributeError)):
        write_timeline(broken, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


# -- tables ----------------------------------------------------------------------------------------------------------


def test_tables(tmp_path):
    timeline = make_timeline(HOSTILE)
    rows = list(csv.reader(written(timeline, tmp_path / "a.csv").splitlines()))
    assert rows[0] == ["label", "start", "end", "score"] and len(rows) == 1 + len(HOSTILE)
    assert rows[1] == [HOSTILE[0], "0.000", "0.750", "0.5"] and rows[-1][0] == "'=1+1"
    timeline.scores[2, 1] = math.nan
    head, *rows = csv.reader(written(timeline, tmp_path / "a.scores.csv").splitlines())
    assert head[:4] == ["time", "start", "warming_up", HOSTILE[0]] and len(head) == 3 + len(HOSTILE)
    assert [row[:3] for row in rows[6:8]] == [["1.500", "0.000", "1"], ["1.750", "0.000", "0"]]
    assert rows[2][4] == "" and float(rows[2][3]) == pytest.approx(timeline.scores[2, 0], rel=1e-3)


# -- subtitles -------------------------------------------------------------------------------------------------------


def cues(text: str) -> list[tuple[float, float, str]]:
    """Read subtitles of either format, by what both ask for: times on a line of their own, a blank line behind."""
    found = []
    for block in text.removeprefix("WEBVTT\n\n").strip().split("\n\n"):
        *_, times, content = block.rsplit("\n", 2)
        clocks = [clock.split(":") for clock in times.replace(",", ".").split(" --> ")]
        start, end = (int(hours) * 3600 + int(minutes) * 60 + float(rest) for hours, minutes, rest in clocks)
        found.append((round(start, 3), round(end, 3), content))
    return found


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_subtitles_count_as_players_do(tmp_path, suffix):
    segments = [
        Segment("far", 100 * 3600 + 61.0004, 100 * 3600 + 62.0005, 0.9),
        Segment("inner", 3.25, 4.0, 0.9),
        Segment("outer", 3.0, 5.0, 0.9),
        Segment("moment", 7.0, 7.0, 0.9),
    ]
    text = written(make_timeline(segments=segments, start=1.5), tmp_path / f"a.{suffix}")
    assert cues(text) == [
        (4.5, 6.5, "outer"),
        (4.75, 5.5, "inner"),
        (8.5, 8.501, "moment"),  # a subtitle ends behind its start
        (360062.5, 360063.5, "far"),  # half a millisecond is rounded off
    ]
    assert ("100:01:02" in text) and text.startswith("WEBVTT\n\n" if suffix == "vtt" else "1\n00:00:04,500 --> ")


def test_labels_are_text_in_subtitles(tmp_path):
    timeline = make_timeline(HOSTILE)
    webvtt, subrip = (cues(written(timeline, tmp_path / f"a.{suffix}")) for suffix in ("vtt", "srt"))
    assert len(webvtt) == len(subrip) == len(HOSTILE)
    for _, _, text in webvtt:
        assert "-->" not in text and "<" not in text and not re.search(r"&(?!amp;|lt;|gt;)", text)
    assert webvtt[2][2] == "a --&gt; b &amp; c &lt; d" and webvtt[5][2] == subrip[5][2] == "(no name)"
    assert not set("<>{}\\") & set("".join(text for _, _, text in subrip))
    assert subrip[10][2] == "\uff1c!-- c --\uff1e \uff1cb\uff1ex\uff1c/b\uff1e"

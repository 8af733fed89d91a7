"""Answers as HTML: every foreign word is text, and what is drawn is said."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from support.timelines import HOSTILE, make_timeline
from transformers_ila.app import rendering
from transformers_ila.app.answers import LabelAnswer, SearchAnswer, TimelineAnswer
from transformers_ila.markup import plain_line
from transformers_ila.search.search import Hit


WORDS = (
    *HOSTILE,
    "${alert(1)}",
    "{{constructor}}",
    "@children",
    "x" * 1000,
    "\u05e9\u05dc\u05d5\u05dd",
    "</bdi></td>",
)
TAGS = {"p", "strong", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "bdi", "div", "img"}


class Elements(HTMLParser):
    """Collect the elements and the text of HTML, and see that each element ends where it should."""

    def __init__(self, html):
        super().__init__()
        self.found, self.words, self.open = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(html, *, tags=TAGS):
    elements = Elements(html)
    assert {tag for tag, _ in elements.found} <= {*tags, "button", "br"}
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    for mark in ("${", "{{", "@children"):
        assert mark not in html
    return elements


@pytest.mark.parametrize("word", WORDS)
def test_foreign_words_are_text(word):
    shown = plain_line(word, 300)
    labels = check(rendering.label(LabelAnswer(labels=[(word, 0.5)], model=word, asked=word, notes=[word])))
    assert (shown or "(no name)") in labels.words
    hits = SearchAnswer(hits=[Hit(word, word, 1.0, 2.0, 0.5)], query=word, rows=1)
    check(rendering.hits(hits, [None]))
    said = check(rendering.status(word))
    assert not shown or shown in said.words


def test_foreign_words_are_text_in_timelines():
    found = make_timeline(WORDS)
    words = check(rendering._segments(found)).words
    assert {plain_line(word, 300) or "(no name)" for word in WORDS} <= set(words)


def test_errors_are_told_by_a_word_and_the_same_line_twice_is_another():
    assert "Not done:" in rendering.status("no video", is_error=True) and "Not done" not in rendering.status("done")
    assert rendering.status("done") != rendering.status("done") and rendering.status("") == ""


def test_the_picture_of_a_timeline_says_where_its_seconds_are():
    found = make_timeline(seconds=10.0, start=1.5)
    elements = check(rendering.timeline(TimelineAnswer(timeline=found, model="m", asked="its labels"))).found
    plot = next(attributes for _, attributes in elements if attributes.get("class") == "ila-plot")
    left, right = float(plot["data-left"]), float(plot["data-right"])
    assert 0 < left < right < 1 and (plot["data-end"], plot["data-offset"]) == ("10.000", "1.500")
    seeks = [float(attributes["data-seek"]) for tag, attributes in elements if tag == "button"]
    assert seeks == pytest.approx([segment.start + 1.5 for segment in found.segments], abs=1e-3)  # in a player's time
    assert all(attributes["aria-label"] for tag, attributes in elements if tag == "button")


def test_pictures_of_what_was_found():
    hits = [Hit("a", "a.mp4", None, None, 0.5), Hit("b", "b.mp4", 61.0, 62.0, 0.25)]
    html = rendering.hits(SearchAnswer(hits=hits, query="q", rows=9), [np.zeros((9, 16, 3), np.uint8), None])
    assert "whole video" in html and "1:01.0 to 1:02.0" in html and html.count("<img") == 1 and "no picture" in html
    assert re.findall(r'data-hit="(\d)"', html) == ["0", "1"]
    assert "no rows" in rendering.hits(SearchAnswer(hits=[], query="q", rows=0), [])

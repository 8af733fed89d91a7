"""Words from outside stay words: in Markdown, Python, tables and pictures."""

import ast
import csv
import html
import io
import json
import re

import pytest

from transformers_ila.markup import (
    LONGEST,
    csv_text,
    html_text,
    markdown_sentences,
    markdown_table,
    markdown_text,
    plain_line,
    python_string,
    script_json,
)


WORDS = [
    "<img src=x onerror=alert(1)>",
    "<!-- results of the weights abab -->",
    "a\n## Licence\n\nmit",
    "{{ title }} {% raw %}",
    'quo"te \\ back\\slash\\',
    "pi|pe a\\|b |---|",
    "`tick` ``` code",
    "*bold* __under__ _x pick_up ~~s~~",
    "[link](javascript:alert(1)) ![i](http://y) \\[x\\] [x]: http://y",
    "<http://a.b> http://a.b www.a.b",
    "$x^2$ &lt;&#60; &amp &nbsp;",
    *("# head", "- item", "+ item", "* item", "1. one", "2) two", "> quote", "---", "***", "=== a", "~~~"),
    "\u9a91\u81ea\u884c\u8f66 \u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f4bb",
    "[More Information Needed]",
]


def test_one_line_that_can_be_seen_and_encoded():
    found = plain_line(" a\r\n b\t\u2028c\x1b[31m \u202egnp\u2066 lone\udc80 \ud83d nul\0 caf\u00e9\u00ad ")
    assert found == "a b c\\x1b[31m \\u202egnp\\u2066 lone\\udc80 \\ud83d nul\\x00 caf\u00e9\\xad"
    assert plain_line(WORDS[-2]) == WORDS[-2]  # joiners are letters
    assert plain_line("x" * 9999) == "x" * (LONGEST - 3) + "..." and plain_line("x" * 9999, None) == "x" * 9999
    assert plain_line(3) == "3" and plain_line(None) == "None"


@pytest.mark.parametrize("word", WORDS)
def test_markdown_shows_the_word(word):
    """In a heading, a cell and a paragraph, as a parser of CommonMark reads them."""
    render = pytest.importorskip("markdown_it", reason="no parser of Markdown").MarkdownIt().enable("table").render
    shown = plain_line(word)
    heading = re.fullmatch("<h1>(.*)</h1>\n", render(f"# {markdown_text(word)}"))
    assert heading and html.unescape(heading[1]) == shown
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", render(markdown_table([word, "b"], [["c", word]])))
    assert [html.unescape(cell) for cell in cells] == [shown, "b", "c", shown]
    page = render(f"before\n\n{markdown_sentences(word)}\n\n- {markdown_sentences(word)}\n\n## after")
    blocks = re.sub(r"</?(strong|em|s|code|a|img)\b[^>]*>", "", page)  # which sentences may have
    assert re.fullmatch(r"<p>before</p>\n<p>.*</p>\n<ul>\n<li>.*</li>\n</ul>\n<h2>after</h2>\n", blocks)
    assert "onerror=alert(1)>" not in page.replace("onerror=alert(1)&gt;", "")
    assert "{{ " not in markdown_text(word) + markdown_sentences(word)


@pytest.mark.parametrize(
    "word", [*WORDS, "lone\udc80 \ud83d", "new\nline\r\0\x1b\u2028\u202e", '"', "\\", "\\n", "'", "{{{{"]
)
def test_python_reads_the_same_string(word):
    literal = python_string(word)
    assert ast.literal_eval(literal) == word
    assert literal.isprintable() and not any(mark in literal for mark in ("<", "[", "{{"))


def test_a_spreadsheet_computes_nothing():
    rows = [
        ["name", 'a "b", c\nd'],
        ["=1+1", "+1"],
        ["-2", -2],
        ["@SUM(A1)", "\t=1"],
        ["\r=1", "\r\n;"],
        [None, 0.5],
        ["a=b", "'"],
    ]
    found = list(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert found[:1] + found[5:] == [rows[0], ["", "0.5"], rows[6]]
    assert found[1:5] == [["'=1+1", "'+1"], ["'-2", "-2"], ["'@SUM(A1)", "'\t=1"], ["'\r=1", "\r\n;"]]
    assert csv_text([["a"]]) == "a\n"


@pytest.mark.parametrize("word", [*WORDS, "</script><script>", "<!--<script>", "\"' onclick=x", "\u2028\ud800"])
def test_a_word_in_html_is_text_and_ends_nothing(word):
    text = html_text(word)
    assert html.unescape(text) == plain_line(word) and not set("<>\"'") & set(text)
    assert "<" not in script_json([word]) and json.loads(script_json([word])) == [word]
    script_json([word]).encode("utf-8")


def test_numbers_that_json_has_not():
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))

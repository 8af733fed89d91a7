"""Words in pictures: names and lines that fit."""

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from transformers_ila.visualization.words import legible, short_count, width_of, wrapped_lines, wrapped_name


LONG = "Pretending to put something onto something without dropping it on the way to the table"


def test_names_are_wrapped_name():
    assert legible("a\nb", "class 1") == "a b" and legible("\u9a91", "class 1") == "class 1"
    assert wrapped_name(LONG, "class 1", 20, 2) == "Pretending to put\nsomething onto..."
    assert [short_count(count) for count in (7, 99999, 123456, 4_561_000)] == ["7", "99999", "123k", "4.56M"]
    assert (
        wrapped_name("", "class 1", 20, 2) == "class 1" and wrapped_name("x" * 50, "class 1", 20, 3).count("\n") == 2
    )


def test_lines_are_wrapped_lines():
    lines = wrapped_lines(f"{LONG} {'x' * 200}", 1.0, 7, lines=99)
    assert len(lines) > 5 and "".join(lines).replace(" ", "") == (LONG + "x" * 200).replace(" ", "")
    assert (
        wrapped_lines(LONG * 20, 1.0, 7, lines=2)[1].endswith("...")
        and len(wrapped_lines(LONG * 20, 1.0, 7, lines=2)) == 2
    )
    assert wrapped_lines(" \n", 1.0, 7, lines=2) == [] and wrapped_lines("a\nb", 1.0, 7, lines=2) == ["a b"]
    assert wrapped_lines("a \u9a91\u81ea", 1.0, 7, lines=2) == ["a \ufffd\ufffd"]
    assert wrapped_lines("abc", 0.001, 7, lines=9) == ["a", "b", "c"]


def test_no_text_is_wider_than_it_is_taken_for():
    for text in (LONG, "1.23", "AVAToTa", "\u0440\u0456\u0447\u043a\u0430"):
        drawn = text_to_path.get_text_width_height_descent(text, FontProperties(size=7), ismath=False)[0] / 72
        assert drawn <= width_of(text, 7) < 1.3 * drawn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.cli._visible import one_line, visible


@given(st.text())
def test_what_is_visible_is_printable(text):
    assert visible(text).isprintable()
    assert one_line(text).isprintable()


@given(st.text())
def test_printable_text_stays_as_it_is(text):
    printable = "".join(filter(str.isprintable, text))
    assert visible(printable) == printable


@given(st.text())
def test_lines_are_kept_on_request(text):
    assert visible(text, keep_lines=True).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202eabc", "\\u202eabc"),
        ("été 犬", "été 犬"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text, shown):
    assert visible(text) == shown


def test_white_space_becomes_one_space():
    assert one_line(" a \n\n b\t") == "a b"

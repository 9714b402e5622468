"""Text that came out of a model or a tokenizer, made safe to show."""


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""Return a text with every character that is not printable written as its escape.

    Triggers hold what a tokenizer holds: escape sequences, line breaks, marks that turn the
    direction of writing. None of them may reach a terminal or a page.

    Args:
        text: Any text.
        keep_lines: Whether line breaks (``\n``) stay what they are.
    """
    if keep_lines:
        return "\n".join(visible(line) for line in text.split("\n"))
    return "".join(map(_escape, text))


def one_line(text: str) -> str:
    """Return a text with runs of white space made one space, the rest as `visible` shows it."""
    return visible(" ".join(text.split()))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")

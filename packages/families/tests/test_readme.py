"""The examples of the README run, and what they assert of their results holds."""

import ast
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples_and_each_asserts_what_it_shows():
    assert BLOCKS
    for block in BLOCKS:
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(block)))


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_what_an_example_asserts_holds(number, tmp_path, monkeypatch):
    """The assertions stand in the README, where readers see them; one that fails raises here."""
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"{README.name}:{number}", "exec"), {})

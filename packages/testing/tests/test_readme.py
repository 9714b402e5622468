import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_of_the_readme_runs_by_itself(number, capsys):
    exec(compile(BLOCKS[number], f"README block {number + 1}", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert ("Mine.score breaks Scorer" in printed) == ("Scorer" in BLOCKS[number])


def test_every_export_is_in_the_readme():
    import pellucid.testing

    text = README.read_text(encoding="utf-8")
    internal = {"TinyTokenInputManager"}
    assert {name for name in pellucid.testing.__all__ if name not in text} <= internal

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README block {number}", "exec"), {"__name__": "readme"})

import re
from pathlib import Path


def test_code_of_the_readme_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})

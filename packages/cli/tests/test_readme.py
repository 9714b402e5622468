import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README block {number}", "exec"), {"__name__": "readme"})


def test_the_readme_names_every_key_of_the_result():
    from pellucid.cli._rundir import RunDirectory

    text = README.read_text(encoding="utf-8")
    directory = RunDirectory(Path("run"))
    for path in (directory.config, directory.steps, directory.result, directory.report):
        assert f"| `{path.name}` |" in text

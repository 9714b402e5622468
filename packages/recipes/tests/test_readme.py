import re
from pathlib import Path

import yaml

from pellucid.recipes import RecipeConfig, ResultsTable

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    names = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README block {number}", "exec"), names)


def test_the_file_in_the_readme_is_a_configuration():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert RecipeConfig.from_mapping(yaml.safe_load(block)).recipe == "gcg__zou2023"


def test_the_readme_names_every_file_of_a_table(tmp_path):
    table = ResultsTable(tmp_path)
    folder = table.folder("KEY")
    for path in (table.file, folder.row, folder.config, folder.steps, folder.result):
        assert path.name in TEXT

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_run(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"{README.name}:{number}", "exec"), {})
    assert capsys.readouterr().out


def test_the_modules_of_code_written_for_tptt_are_there():
    import pellucid.tptt as package
    from pellucid.tptt import configuration_tptt, modeling_tptt, train_tptt

    for module in (configuration_tptt, modeling_tptt, train_tptt):
        for name in module.__all__:
            assert getattr(module, name) is getattr(package, name)

"""What `xlm-scaffold` writes, and that it writes all of it or nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pellucid.core import ArgumentError
from pellucid.xlm._app import run as run_xlm
from pellucid.xlm._scaffold import run
from pellucid.xlm.scaffold import carry_out
from pellucid.xlm.scaffold._copying import copy_family, find_source
from pellucid.xlm.scaffold._naming import FamilyName

STARTER = find_source("starter")
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(_[a-z0-9]{1,6}){0,2}", fullmatch=True)
EXPERIMENT = "experiment=star_easy_fam_new"


@pytest.fixture(autouse=True)
def workplace(monkeypatch, tmp_path):
    for name in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path
    for module in [module for module in sys.modules if module.partition(".")[0] == "fam_new"]:
        del sys.modules[module]


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file()
    }


# ---- names ----------------------------------------------------------------------------------


def test_names_are_replaced_where_they_are_meant_and_nowhere_else():
    mlm = FamilyName("mlm", "MLM", "pellucid.families.mlm")
    text = "pellucid.families.mlm.loss_mlm: DefaultMLMCollator, nano_mlm; arlm, ARLM, mlms"
    renamed = mlm.rename(text, FamilyName("my_mlm", "MyMlm", "my_mlm"))
    assert renamed == "my_mlm.loss_my_mlm: DefaultMyMlmCollator, nano_my_mlm; arlm, ARLM, mlms"


@given(NAMES, st.sampled_from(["", "some.package."]))
@settings(max_examples=25, deadline=None)
def test_nothing_of_the_old_name_is_left_and_the_way_back_is_exact(name, parent):
    # A name that no word of the sources is, or is in.
    new = FamilyName(f"q{name}", f"Q{name.title()}", f"{parent}q{name}")
    sources = [*STARTER.directory.rglob("*_starter.py"), *STARTER.directory.rglob("*.yaml")]
    assert len(sources) > 10
    for path in sources:
        text = path.read_text(encoding="utf-8")
        renamed = STARTER.names.rename(text, new)
        assert "starter" not in renamed.replace(name, "").lower()
        assert new.rename(renamed, STARTER.names) == text


def test_what_is_copied_can_be_read():
    files = copy_family(STARTER, FamilyName("fam_new", "FamNew", "fam_new"))
    assert len([path for path in files if path.endswith(".py")]) == 7
    for path, text in files.items():
        compile(text, path, "exec") if path.endswith(".py") else OmegaConf.create(text)


@pytest.mark.parametrize("name", ["My", "1st", "my__family", "my_", "a-b", "class", "a/b", ""])
def test_what_is_no_name_is_refused(name, capsys):
    assert run([name]) == 2
    assert f"{name!r} is no name for a family; use lower-case" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["json", "torch", "pellucid"])
def test_modules_that_are_there_are_not_hidden(name, capsys):
    assert run([name]) == 2
    assert f"there is a module {name!r} already" in capsys.readouterr().err


def test_a_family_that_is_there_is_named(capsys, workplace):
    assert run(["fam_new"]) == 0
    assert run(["fam_new", "--output-dir", "elsewhere"]) == 0
    (workplace / "here" / "xlm_models.json").write_text('{"fam_new": "fam_new/fam_new"}')
    capsys.readouterr()
    assert run(["fam_new", "--output-dir", "third"]) == 2
    shown = capsys.readouterr().err
    assert "there is a" in shown
    assert str(workplace / "here" / "fam_new" / "fam_new") in shown
    assert not Path("third").exists()


def test_an_unknown_family_to_begin_with_is_named(capsys):
    assert run(["fam_new", "--from", "startr"]) == 2
    assert "start from 'startr'. Did you mean 'starter'" in capsys.readouterr().err


# ---- writing --------------------------------------------------------------------------------


def test_everything_is_in_the_output_directory(workplace, capsys):
    (workplace / "out").mkdir()
    before = set(contents(workplace))
    assert run(["fam_new", "--output-dir", str(workplace / "out" / "project")]) == 0
    new = set(contents(workplace)) - before
    assert new
    assert all(path.startswith("out/project/") for path in new)
    expected = {
        "pyproject.toml",
        "README.md",
        "docs/fam_new.md",
        "xlm_models.json",
        *(f"fam_new/{part}_fam_new.py" for part in ("types", "model", "loss", "predictor")),
        *(f"fam_new/{part}_fam_new.py" for part in ("datamodule", "metrics")),
        *(f"fam_new/configs/model/{size}_fam_new.yaml" for size in ("nano", "micro", "tiny")),
        "fam_new/configs/model/small_fam_new.yaml",
        "fam_new/configs/model_type/fam_new.yaml",
        "fam_new/configs/experiment/star_easy_fam_new.yaml",
        *(f"tests/test_{part}_fam_new.py" for part in ("model", "loss", "collator", "predictor")),
        "tests/test_family_fam_new.py",
    }
    assert {f"out/project/{path}" for path in expected} <= new
    shown = capsys.readouterr().out
    for command in ("pip install -e .", "xlm doctor fam_new", "pytest", f"{EXPERIMENT} debug=over"):
        assert command in shown


def test_a_dry_run_says_what_a_run_writes_and_writes_nothing(workplace, capsys):
    assert run(["fam_new", "--dry-run"]) == 0
    assert contents(workplace) == {}
    shown = capsys.readouterr().out.splitlines()
    assert run(["fam_new"]) == 0
    listed = {line.split()[0] for line in shown[1:]}
    assert listed == set(contents("fam_new"))
    capsys.readouterr()
    assert run(["fam_new", "--dry-run"]) == 0
    assert "would be refused: README.md exists" in capsys.readouterr().out


def test_nothing_is_replaced_without_force(workplace, capsys):
    project = workplace / "project"
    project.mkdir()
    (project / "README.md").write_text("mine")
    assert run(["fam_new", "--output-dir", str(project)]) == 2
    assert "nothing was written" in (shown := capsys.readouterr().err)
    assert "README.md exists" in shown
    assert contents(project) == {"README.md": b"mine"}
    assert run(["fam_new", "--output-dir", str(project), "--force"]) == 0
    assert b"fam-new" in contents(project)["README.md"]
    whole = contents(project)
    assert run(["fam_new", "--output-dir", str(project), "--force"]) == 0
    assert contents(project) == whole


def test_links_that_lead_out_are_not_followed(workplace, capsys):
    (workplace / "project").mkdir()
    (workplace / "outside").mkdir()
    (workplace / "project" / "fam_new").symlink_to(workplace / "outside")
    assert run(["fam_new", "--output-dir", str(workplace / "project"), "--force"]) == 2
    assert "leads out of the directory, by a link" in capsys.readouterr().err
    assert contents(workplace / "outside") == {}


@pytest.mark.parametrize("at", [0, 1, 7, 20])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_failure_leaves_everything_as_it_was(monkeypatch, workplace, at, is_there):
    project = workplace / "project"
    if is_there:
        carry_out("fam_new", output_dir=project)
        (project / "README.md").write_text("mine")
        (project / "docs" / "fam_new.md").unlink()
        (project / "docs").rmdir()
    before = contents(workplace)
    moves = []
    own = Path.replace

    def replace(self, target):
        moves.append(target)
        if len(moves) == at + 1:
            raise OSError(28, "No space left on device", str(target))
        return own(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        carry_out("fam_new", output_dir=project, force=is_there)
    assert contents(workplace) == before
    assert project.exists() is is_there
    assert not (project / "docs").exists()


def test_other_families_stay_listed(workplace, capsys):
    project = workplace / "project"
    assert run(["fam_one", "--output-dir", str(project)]) == 0
    table = project / "xlm_models.json"
    assert json.loads(table.read_text()) == {"fam_one": "fam_one"}
    for name in ("README.md", "pyproject.toml"):
        (project / name).unlink()
    assert run(["fam_new", "--output-dir", str(project)]) == 0
    assert json.loads(table.read_text()) == {"fam_one": "fam_one", "fam_new": "fam_new"}
    for content, message in (
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"fam_x": "else/where"}', "lists a family 'fam_x' at 'else/where'"),
    ):
        table.write_text(content)
        assert run(["fam_x", "--output-dir", str(project)]) == 2
        assert message in capsys.readouterr().err
        assert table.read_text() == content


def test_in_a_checkout_the_entry_point_is_added(workplace, capsys):
    assert run(["fam_new", "--in-tree"]) == 2
    assert "is no checkout of Pellucid" in capsys.readouterr().err
    pyproject = workplace / "here" / "packages" / "families" / "pyproject.toml"
    pyproject.parent.mkdir(parents=True)
    held = '[project.entry-points."pellucid.families"]\nzlm = "pellucid.families.zlm"\n\n[other]\n'
    pyproject.write_text(held)
    assert run(["fam_new", "--in-tree"]) == 0
    added = 'fam_new = "pellucid.families.fam_new"\n'
    assert pyproject.read_text() == held.replace("zlm =", f"{added}zlm =")
    written = contents(workplace / "here")
    loss = written["packages/families/src/pellucid/families/fam_new/loss_fam_new.py"]
    assert b"from pellucid.families.fam_new.model_fam_new import FamNewModel" in loss
    assert "packages/families/tests/test_family_fam_new.py" in written
    assert "docs/families/fam_new.md" in written
    assert "uv run pytest packages/families/tests/test_" in capsys.readouterr().out
    assert run(["fam_new", "--in-tree", "--force"]) == 0
    assert contents(workplace / "here") == written


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pellucid.xlm._scaffold import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--output-dir" in done.stdout


# ---- the whole way --------------------------------------------------------------------------


def install(project, target):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, *offline, "--target", str(target), str(project)], check=True)


def test_a_family_is_installed_found_trained_evaluated_and_sampled(monkeypatch, workplace, capsys):
    project, target = workplace / "project", workplace / "site"
    assert run(["fam_new", "--output-dir", str(project)]) == 0
    install(project, target)
    monkeypatch.syspath_prepend(target)
    capsys.readouterr()

    assert run_xlm(["families"]) == 0
    shown = capsys.readouterr().out
    assert "by entry point 'fam_new' of fam-new 0.1.0" in shown
    assert f"in {target}/fam_new" in shown

    named = ["job_name=t", EXPERIMENT, "debug=smoke", "trainer_strategy=cpu"]
    assert run_xlm(["job_type=train", *named]) == 0
    assert run_xlm(["job_type=eval", *named]) == 0
    found = json.loads(Path("logs/t/results_test_step=5.json").read_text())
    assert {"test/lm/nll_bound", "test/lm/perplexity", "test/prediction/exact_match"} <= set(found)
    assert run_xlm(["job_type=generate", "generation.prompts=['1 2 2 3 1 3']", *named]) == 0
    assert "1 2 2 3 1 3 -> " in capsys.readouterr().out
    assert sys.modules["fam_new.loss_fam_new"].__file__ == f"{target}/fam_new/loss_fam_new.py"


def test_the_doctor_says_what_is_wrong_with_a_family(workplace, capsys, monkeypatch):
    project = workplace / "project"
    assert run(["fam_new", "--output-dir", str(project)]) == 0
    monkeypatch.chdir(project)
    assert run_xlm(["doctor", "fam_new"]) == 0
    shown = capsys.readouterr().out
    assert f"fam_new is fam_new, found by '{project}/xlm_models.json'" in shown
    assert "star_easy_fam_new: built, learns from a batch, predicts" in shown
    assert contents(project).keys() == contents(project).keys() - {"data", "logs"}

    config = project / "fam_new" / "configs" / "model_type" / "fam_new.yaml"
    config.write_text(config.read_text().replace("loss_fam_new.FamNewLoss", "loss_fam_new.NoLoss"))
    assert run_xlm(["doctor", "fam_new"]) == 1
    assert "problem: experiment star_easy_fam_new: 'loss' cannot be" in capsys.readouterr().out
    assert run_xlm(["doctor", "fam_nwe"]) == 2
    assert "unknown family 'fam_nwe'. Did you mean 'fam_new'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_generated_tests_pass_from_an_installed_copy(workplace):
    project, target = workplace / "project", workplace / "site"
    assert run(["fam_new", "--output-dir", str(project)]) == 0
    install(project, target)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_source_without_an_experiment_or_a_loss_is_refused(workplace, monkeypatch):
    (workplace / "here" / "fam_bare" / "configs").mkdir(parents=True)
    (workplace / "here" / "fam_bare" / "__init__.py").touch()
    (workplace / "here" / "xlm_models.json").write_text('{"fam_bare": "fam_bare"}')
    with pytest.raises(ArgumentError, match=r"'fam_bare' has no loss_fam_bare\.py with a class"):
        carry_out("fam_new", source="fam_bare")
    loss = "class FamBareLoss(Base):\n    pass\n"
    (workplace / "here" / "fam_bare" / "loss_fam_bare.py").write_text(loss)
    with pytest.raises(ArgumentError, match="'fam_bare' has no experiment"):
        carry_out("fam_new", source="fam_bare")
    assert not Path("fam_new").exists()

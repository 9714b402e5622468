import json
import sys
from importlib.metadata import version

import pytest

from pellucid.core import _registry


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Installs a distribution that registers what it is told, in a directory on the path."""

    def install(name, *, modules=(), entries="", metadata=""):
        held = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        held.mkdir()
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n"
        (held / "METADATA").write_text(head + metadata)
        (held / "entry_points.txt").write_text(entries)
        for module, text in dict(modules).items():
            (tmp_path / f"{module}.py").write_text(text)
            monkeypatch.delitem(sys.modules, module, raising=False)
        _registry._entries.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    _registry._entries.cache_clear()


def examine():
    from pellucid.cli._doctor import examine

    return examine()


def planted(report, name="far-plugin"):
    return [problem for problem in report.problems if name in problem.where]


@pytest.fixture(scope="module")
def sound():
    """What is found here, with nothing planted."""
    return examine()


def test_this_installation_is_sound(sound):
    import torch

    assert sound.problems == ()
    held = {package.name: package for package in sound.packages}
    assert held["pellucid-cli"].version == version("pellucid-cli")
    assert {"pellucid-core", "pellucid-hf", "pellucid-zoo"} <= set(held)
    assert not set(held) & set(sound.not_installed)
    assert sound.versions["torch"] == version("torch")
    assert sound.devices[0].device == "cpu"
    assert len(sound.devices) >= 1 + torch.cuda.device_count()
    assert ("pellucid.models", "hf-lm") in {(p.group, p.name) for p in sound.plugins}


def test_the_matrix_is_that_of_the_command(sound, command):
    cells = json.loads(command("matrix", "--json").out)["cells"]
    assert cells
    for cell in cells:
        assert sound.matrix[cell["model"]][cell["optimizer"]][cell["loss"]] == cell["verdict"]
    assert sum(len(row) for model in sound.matrix.values() for row in model.values()) == len(cells)


def test_the_command_shows_it_and_ends_with_0(sound, command):
    done = command("doctor")
    assert done.code == 0, done.out
    for text in (sound.versions["torch"], "pellucid-core", "hf-lm", "nothing is wrong"):
        assert text in done.out
    assert "Problems" not in done.out


def test_a_plugin_that_raises_is_named_with_its_package(plant, command):
    plant(
        "far-plugin",
        modules={"far_models": "raise RuntimeError('no\\x1b[31m luck\\nat all')"},
        entries="[pellucid.models]\nfar = far_models:Far\n",
    )
    done = command("doctor")
    assert done.code == 1
    assert "far-plugin" in done.out
    assert "'far' of pellucid.models: importing it raises RuntimeError: no" in done.out
    assert "pip uninstall far-plugin" in done.out
    assert 'python -c "import far_models" shows the traceback' in done.out
    assert "1 problem" in done.out
    assert "\x1b" not in done.out


def test_json_is_one_object_even_if_a_plugin_prints(plant, command):
    plant(
        "far-plugin",
        modules={"far_losses": "print('hello')\nimport no_such_module_xyz"},
        entries="[pellucid.losses]\nfar = far_losses:Far\n",
    )
    done = command("doctor", "--json")
    held = json.loads(done.out)
    assert (done.code, held["ok"]) == (1, False)
    (problem,) = held["problems"]
    assert "needs the module 'no_such_module_xyz', which is not installed" in problem["what"]
    assert "far" not in next(iter(next(iter(held["matrix"].values())).values()))
    (plugin,) = [each for each in held["plugins"] if each["package"] == "far-plugin"]
    assert plugin["problem"] == problem
    assert held["versions"]["torch"] == version("torch")


def test_the_extra_that_brings_a_module_is_the_remedy(plant):
    plant(
        "far-plugin",
        modules={"far_models": "import no_such_module_xyz.deep"},
        entries="[pellucid.models]\nfar = far_models:Far\n",
        metadata="Provides-Extra: deep\nRequires-Dist: no_such_module-xyz>=2; extra == 'deep'\n",
    )
    report = examine()
    (problem,) = planted(report)
    assert problem.remedy == 'pip install "far-plugin[deep]"'
    (package,) = [each for each in report.packages if each.name == "far-plugin"]
    (extra,) = package.extras
    assert extra.lacks == ("no_such_module-xyz is not installed",)
    assert extra.command == 'pip install "far-plugin[deep]"'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "far_models has no 'Far'"),
        ("Far = 3", "'far_models:Far' is a int, not a class"),
        ("raise SystemExit(4)", "raises SystemExit: 4"),
        ("import far_models.part", "needs the module 'far_models.part'"),
        ("x = object().Far", "raises AttributeError: 'object' object has no attribute 'Far'"),
    ],
)
def test_every_way_to_fail_is_told(plant, text, what):
    plant(
        "far-plugin",
        modules={"far_models": text},
        entries="[pellucid.models]\nfar = far_models:Far\n",
    )
    (problem,) = planted(examine())
    assert what in problem.what
    assert problem.remedy


def test_a_name_that_is_taken_and_a_group_that_nobody_reads(plant):
    plant(
        "far-plugin",
        modules={"far_models": "class Far: ..."},
        entries="[pellucid.models]\nhf-lm = far_models:Far\n[pellucid.modles]\nx = json:dumps\n",
    )
    report = examine()
    said = " ".join(problem.what for problem in report.problems)
    assert "registers the same name" in said
    assert "registers in 'pellucid.modles', which nothing reads" in said
    assert "Did you mean 'pellucid.models'" in said


def test_requirements_that_are_not_met_are_problems(plant):
    plant(
        "pellucid-far",
        entries="[pellucid.losses]\n",
        metadata=(
            "Requires-Dist: torch<1\nRequires-Dist: no-such-thing>=2\n"
            "Requires-Dist: absent; python_version < '3'\n"
        ),
    )
    plant(
        "far-plugin",
        entries="[pellucid.trackers]\nx = json:dumps\n",
        metadata="Requires-Dist: pellucid-core>=7\n",
    )
    (problem,) = planted(examine())
    assert problem.what == f"pellucid-core>=7 is needed, {version('pellucid-core')} is there"
    assert problem.remedy == "pip install --upgrade far-plugin"


def test_what_is_not_installed_comes_with_its_command(monkeypatch):
    from pellucid.cli import _doctor, _doctor_pages, _installation

    known = {**_installation.PACKAGES, "pellucid-moonshine": "nothing yet"}
    monkeypatch.setattr(_installation, "PACKAGES", known)
    monkeypatch.setattr(_doctor_pages, "PACKAGES", known)
    report = _doctor.examine()
    assert report.not_installed["pellucid-moonshine"] == "pip install pellucid-moonshine"
    assert report.problems == ()
    assert "pip install pellucid-moonshine  nothing yet" in _doctor_pages.render(report)


def test_a_broken_torch_is_a_problem_not_a_crash(monkeypatch):
    from pellucid.cli import _doctor

    problems = []
    monkeypatch.setitem(sys.modules, "torch", None)
    assert _doctor._find_devices(problems) == ()
    (problem,) = problems
    assert problem.remedy == "pip install --force-reinstall torch"

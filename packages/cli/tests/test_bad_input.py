"""Everything a user can get wrong: one clear line, exit code 2, nothing written."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

GOOD = {
    "--model": "tiny",
    "--template": "I see {{OPTIMIZED_TRIGGER}} now.",
    "--target": "a cat",
    "--initial-trigger": "the dog",
    "--steps": "2",
    "--candidates": "8",
    "--topk": "8",
    "--seed": "3",
}

WRONG = {
    "no placeholder": (
        {"--template": "I see now."},
        r"holds {{OPTIMIZED_TRIGGER}} 0 times, expected at least once: 'I see now\.'",
    ),
    "placeholders of two kinds": (
        {"--template": "{{OPTIMIZED_TRIGGER}} and {{OPTIMIZED_TRIGGER_1}}"},
        r"both {{OPTIMIZED_TRIGGER}} and {{OPTIMIZED_TRIGGER_1}}\. Number all",
    ),
    "no template": ({"--template": None}, r"there is no template\. Give --template"),
    "no target": ({"--target": None}, r"'prefill-ce' compares answers with targets.*--target"),
    "unknown optimizer": (
        {"--optimizer": "gcgg"},
        r"unknown optimizer 'gcgg'\. Did you mean 'gcg'",
    ),
    "unknown loss": (
        {"--loss": "prefil-ce"},
        r"unknown loss 'prefil-ce'\. Did you mean 'prefill-ce'",
    ),
    "a loss that needs more": (
        {"--loss": "similarity"},
        r"the loss 'similarity' needs target_vectors, which the command cannot give",
    ),
    "an option that the optimizer lacks": (
        {"--optimizer": "random-search"},
        r"'random-search' has no sample_topk, so --topk 8 has no meaning\. Leave it out",
    ),
    "an optimizer that the loss does not suit": (
        {"--loss": "first-token-nll"},
        r"GCGOptimizer takes gradients of the loss, FirstTokenNLLLoss has none",
    ),
    "no steps": ({"--steps": "0"}, r"--steps must be at least 1, got 0"),
    "steps that are no number": ({"--steps": "many"}, r"'--steps': 'many' is not an integer"),
    "negative budget": ({"--budget-tokens": "-5"}, r"--budget-tokens must be at least 1, got -5"),
    "no candidates": ({"--candidates": "0"}, r"--candidates must be at least 1, got 0"),
    "no topk": ({"--topk": "-1"}, r"--topk must be at least 1, got -1"),
    "more topk than tokens": ({"--topk": "100000"}, r"sample_topk=100000 exceeds the vocabulary"),
    "negative seed": ({"--seed": "-1"}, r"--seed must lie between 0 and 2\*\*63 - 1, got -1"),
    "huge seed": ({"--seed": str(2**64)}, r"--seed must lie between"),
    "empty trigger": ({"--initial-trigger": ""}, r"the initial trigger '' has no tokens"),
    "bytes that are no text": ({"--target": "a \udcff"}, r"--target holds bytes.*not UTF-8"),
    "an unknown option": ({"--stepz": "3"}, r"[Nn]o such option: --stepz"),
}


def arguments(changes: dict[str, str | None], out: Path) -> list[str]:
    options = {**GOOD, "--out": str(out), **changes}
    return [
        "optimize",
        *(f"{name}={value}" for name, value in options.items() if value is not None),
    ]


def assert_one_line(err: str) -> None:
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("pellucid: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_option_is_one_clear_line(kind, tiny, tmp_path):
    changes, expected = WRONG[kind]
    done = tiny(*arguments(changes, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert re.search(expected, done.err), done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_options_that_the_wrong_ones_are_made_of_are_right(tiny, tmp_path):
    assert tiny(*arguments({}, tmp_path / "run")).code == 0


@pytest.mark.parametrize(("n_templates", "n_targets"), [(2, 1), (1, 2), (3, 2)])
def test_targets_and_templates_go_in_pairs(tiny, tmp_path, n_templates, n_targets):
    options = ["--template={{OPTIMIZED_TRIGGER}}"] * n_templates + ["--target=x"] * n_targets
    done = tiny("optimize", *options, "--out", tmp_path / "run")
    assert done.code == 2
    assert_one_line(done.err)
    assert f"{n_templates} templates need {n_templates} targets, got {n_targets}" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["optimize", "demo"])
def test_a_run_directory_that_exists_is_refused(tiny, tmp_path, make, name):
    run = tmp_path / "run"
    make(run)
    options = arguments({}, run) if name == "optimize" else ["demo", f"--out={run}"]
    done = tiny(*options)
    assert done.code == 2
    assert_one_line(done.err)
    assert f"the run directory '{run}' exists" in done.err
    assert "--resume" in done.err
    assert not run.is_dir() or list(run.iterdir()) == []


def test_a_run_directory_inside_a_file_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    done = tiny(*arguments({}, tmp_path / "file" / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert str(tmp_path / "file") in done.err


MODELS = {
    "zoo:tiny-chatt": r"unknown zoo model 'tiny-chatt'\. Did you mean 'tiny-chat'",
    "zooo:tiny-chat": r"unknown model prefix 'zooo'\. Did you mean 'zoo'",
    "./nowhere": r"there is no model at '\./nowhere'",
    "/nowhere/at/all": r"there is no model at '/nowhere/at/all'",
    "a name of words": r"there is no model at 'a name of words'",
    "nobody/has-made-this": r"cannot load the model 'nobody/has-made-this'",
    "tiny-chat": r"cannot load the model 'tiny-chat'.*zoo:tiny-chat",
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_is_not_there_is_one_clear_line(model, command, tmp_path):
    done = command(*arguments({"--model": model}, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert re.search(MODELS[model], done.err), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_path_must_be_that_of_a_model(command, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    reasons = {
        "file": "is not a directory",
        "empty": "holds no config.json",
        "broken": "cannot load the model",
    }
    for name, reason in reasons.items():
        done = command(*arguments({"--model": str(tmp_path / name)}, tmp_path / "run"))
        assert done.code == 2
        assert_one_line(done.err)
        assert reason in done.err
        assert str(tmp_path / name) in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["zoo:tiny-chat", "nobody/has-made-this"])
def test_a_base_url_needs_a_model_behind_a_server(model, command, tmp_path):
    changes = {"--model": model, "--base-url": "http://localhost:1"}
    done = command(*arguments(changes, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert "the base URL 'http://localhost:1' has a meaning for models behind a server" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_gradients_is_refused_by_gcg(tiny, tmp_path, monkeypatch):
    from pellucid.cli import _setup
    from pellucid.core import LMBaseModel, LossTextAccessMixin, ModelOutput

    class Remote(LMBaseModel, LossTextAccessMixin):
        def invoke_from_texts(self, input_texts, **kwargs):
            return ModelOutput(generated_response_strs=["hm"] * len(input_texts))

    monkeypatch.setattr(_setup, "load_model", lambda spec, base_url=None: Remote())
    done = tiny(*arguments({}, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert "GCGOptimizer requires GradientTokenAccessMixin, which Remote does not offer" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_no_text_is_refused(tiny, tmp_path, monkeypatch):
    from pellucid.cli import _setup
    from pellucid.testing import TinyEncoder

    monkeypatch.setattr(_setup, "load_model", lambda spec, base_url=None: TinyEncoder())
    done = tiny(*arguments({}, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert "TinyEncoder, which answers no text" in done.err


def run_process(options: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    program = "from pellucid.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["optimize", "--template=no slot", "--target=x"], "holds {{OPTIMIZED_TRIGGER}} 0 times"),
        (["optimise"], "No such command 'optimise'"),
        (["optimize", "--resume=nowhere"], "there is no run directory 'nowhere'"),
    ],
)
def test_a_process_ends_with_2_and_without_traceback(options, expected):
    done = run_process(options)
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert expected in done.stderr
    assert done.stdout == ""


def test_a_missing_extra_is_named_with_what_installs_it(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litellm", None)
    changes = {"--model": "litellm:openai/gpt", "--optimizer": None, "--topk": None}
    done = command(*arguments(changes, tmp_path / "run"))
    assert done.code == 2
    assert_one_line(done.err)
    assert "pip install" in done.err
    assert "pellucid-api[litellm]" in done.err

import json
from importlib.metadata import entry_points

import pytest

from pellucid.core import check_compatibility, load, names


def test_a_table_for_each_model_names_what_goes_together(command):
    done = command("matrix", "--model", "hf-lm", "--optimizer", "gcg", "--optimizer", "pal")
    assert done.code == 0
    assert "hf-lm (LMHFModel)" in done.out
    assert "prefill-ce" in done.out
    assert "attention-enh*" in done.out  # under a condition
    assert "similarity" not in done.out
    assert "hf-encoder" not in done.out
    n_losses = len(entry_points(group="pellucid.losses"))
    assert f"{2 * n_losses} triples" in done.out


def test_why_names_what_is_missing_and_what_must_be_given(command):
    done = command("matrix", "--model", "hf-encoder", "--loss", "input-fluency", "--why")
    assert "gcg + input-fluency" in done.out
    assert "GCGOptimizer takes gradients of the loss, InputFluencyLoss has none" in done.out
    assert "GCGPlusOptimizer needs proxy_loss=" in done.out
    assert "RASLITEPlusOptimizer needs util_lm=" in done.out


def test_without_why_there_are_no_reasons(command):
    done = command("matrix", "--model", "hf-encoder", "--loss", "input-fluency")
    assert "needs proxy_loss=" not in done.out
    assert "--why says why" in done.out


def test_json_holds_every_triple_with_the_verdict_of_core(command):
    done = command("matrix", "--model=hf-lm", "--json")
    held = json.loads(done.out)
    assert held["unavailable"] == {}
    triples = [(cell["optimizer"], cell["loss"]) for cell in held["cells"]]
    expected = [(o, n) for o in names("pellucid.optimizers") for n in names("pellucid.losses")]
    assert triples == expected
    model = load("pellucid.models", "hf-lm")
    for cell in held["cells"]:
        optimizer = load("pellucid.optimizers", cell["optimizer"])
        report = check_compatibility(model, optimizer, load("pellucid.losses", cell["loss"]))
        assert cell["verdict"] == report.verdict
        assert cell["reasons"] == list(report.reasons)
        assert [each["argument"] for each in cell["conditions"]] == [
            condition.argument for condition in report.conditions
        ]


@pytest.mark.parametrize(
    ("option", "name", "near"),
    [("--model", "hf-ml", "hf-lm"), ("--optimizer", "gcgplus", "gcg-plus"), ("--loss", "x", "x")],
)
def test_an_unknown_name_is_refused_with_near_ones(command, option, name, near):
    done = command("matrix", option, name)
    assert done.code == 2
    assert f"unknown {option[2:]} {name!r}" in done.err
    assert near in done.err
    assert done.err.count("\n") == 1


def test_what_cannot_be_imported_is_named(command, monkeypatch):
    from importlib.metadata import EntryPoint

    from pellucid.core import _registry

    entries = {
        **_registry._entries("pellucid.models"),
        "far": EntryPoint("far", "no_such_module_xyz:Model", "pellucid.models"),
    }
    known = _registry._entries
    monkeypatch.setattr(
        _registry, "_entries", lambda g: entries if g == "pellucid.models" else known(g)
    )
    done = command("matrix", "--loss=prefill-ce")
    assert done.code == 0
    assert "left out: model far" in done.out
    assert "no_such_module_xyz" in done.out

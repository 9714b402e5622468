"""The switch, in fresh interpreters; and the boundary check, here."""

import os
import random
import subprocess
import sys

import jaxtyping
import pytest
import torch
from core_samples import run_python
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ContractError, Targets, _typecheck, are_boundaries_checked, boundary

PROBE = """
import jaxtyping, torch
from pellucid.core import (
    ContainerError, ContractError, Targets, are_boundaries_checked, boundary, select_topk,
)
from jaxtyping import Float
from torch import Tensor

@boundary
def double(x: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return 2 * x

def outcome(call):
    try:
        call()
    except ContainerError: return "container"
    except ContractError: return "contract"
    except jaxtyping.TypeCheckError: return "hook"
    except Exception as error: return type(error).__name__
    return "passed"

print(
    are_boundaries_checked(),
    outcome(lambda: Targets(target_vectors=torch.zeros(2))),
    outcome(lambda: Targets(target_vectors=torch.zeros(2, 3), target_directions=torch.zeros(3, 3))),
    outcome(lambda: double(torch.zeros(2, 3))),
    outcome(lambda: double(torch.zeros(2))),
    outcome(lambda: select_topk(torch.zeros(3), 1)),
)
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "False passed container passed passed passed"),
        ("1", "True container container contract passed hook"),
        (None, "True container container contract passed passed"),
        ("", "True container container contract passed passed"),
    ],
)
def test_the_switch_is_read_once_at_import(value, expected):
    done = run_python(PROBE, PELLUCID_TYPECHECK=value)
    assert done.stderr == ""
    assert done.stdout.strip() == expected


def test_other_packages_are_hooked_and_nothing_outside_the_namespace():
    done = run_python(
        """
import sys, types
import pellucid.core
from pellucid.core import _usage, boundary
import jaxtyping, inspect
print(hasattr(_usage.UsageStats.to_dict, "__wrapped__"), "pellucid" in sys.modules,
      hasattr(inspect.getsource, "__wrapped__"))
""",
        PELLUCID_TYPECHECK="1",
    )
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


@boundary
def score(
    x: Float[Tensor, "batch d_model"], ids: Int[Tensor, " batch"], *, scale: float = 1.0
) -> Float[Tensor, " batch"]:
    """Multiply."""
    return scale * x.sum(dim=-1) * ids if ids.any() else x


class Scorer:
    @boundary
    def score(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, " batch"]:
        return x.sum(dim=-1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_axis_names_agree_between_arguments(n_x, n_ids, width):
    x, ids = torch.zeros(n_x, width), torch.ones(n_ids, dtype=torch.int64)
    if n_x == n_ids:
        assert score(x, ids, scale=2).shape == (n_x,)
    else:
        with pytest.raises(ContractError, match="batch"):
            score(x, ids)


def test_a_wrong_argument_is_told_with_axis_names_and_the_function():
    with pytest.raises(ContractError, match=r"score: .*") as caught:
        score(torch.zeros(3), torch.ones(3, dtype=torch.int64))
    assert "batch d_model" in str(caught.value)
    assert "f32[3]" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ContractError, match=r"Scorer.score: "):
        Scorer().score(torch.zeros(3))


def test_a_wrong_result_is_told_too():
    with pytest.raises(ContractError, match="return"):
        score(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_an_error_of_the_function_is_passed_on_unchanged():
    @boundary
    def fail(x: int) -> int:
        raise ZeroDivisionError(x)

    with pytest.raises(ZeroDivisionError):
        fail(1)


def test_a_checked_function_keeps_its_name_and_documentation():
    assert score.__name__ == "score"
    assert score.__doc__ == "Multiply."


def test_an_int_is_a_float_at_a_boundary():
    assert score(torch.ones(2, 3), torch.ones(2, dtype=torch.int64), scale=2).tolist() == [6.0, 6.0]


def test_turned_off_a_boundary_is_the_function_itself(monkeypatch):
    monkeypatch.setattr(_typecheck, "_SWITCH", "0")

    def plain(x: int) -> int:
        return x

    assert boundary(plain) is plain
    assert not are_boundaries_checked()


def closure(kind, number):
    def scale(x: kind, by: float = number) -> Float[Tensor, " batch"]:
        return x * by * number

    return jaxtyping.jaxtyped(scale, typechecker=_typecheck.checker)


def test_checks_of_closures_are_written_once_for_all_with_one_signature(monkeypatch):
    written = []
    monkeypatch.setattr(_typecheck, "_CHECKS_OF_CLOSURES", {})
    write = _typecheck._CHECKER
    monkeypatch.setattr(_typecheck, "_CHECKER", lambda f: written.append(f) or write(f))
    row = Float[Tensor, " batch"]
    doubles, triples = closure(row, 2.0), closure(row, 3.0)
    assert len(written) == 2  # of what goes in, and of what comes out
    assert doubles(torch.ones(2)).tolist() == [4.0, 4.0]
    assert triples(torch.ones(1)).tolist() == [9.0]
    grids = closure(Float[Tensor, "batch pos"], 2.0)
    assert len(written) == 4
    for scale, wrong in ((triples, torch.ones(1, 1)), (grids, torch.ones(1))):
        with pytest.raises(jaxtyping.TypeCheckError, match="checking the parameters"):
            scale(wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match="checking the return value"):
        grids(torch.ones(1, 1))


def test_a_class_of_one_call_is_not_that_of_the_next():
    def make():
        class Local:
            pass

        def take(x: Local) -> type:
            return type(x)

        return Local, jaxtyping.jaxtyped(take, typechecker=_typecheck.checker)

    (first, takes_first), (second, takes_second) = make(), make()
    assert takes_first(first()) is first
    assert takes_second(second()) is second
    with pytest.raises(jaxtyping.TypeCheckError):
        takes_first(second())


def test_the_hook_is_installed_only_when_asked_for(monkeypatch):
    installed = []
    monkeypatch.setattr(_typecheck._import_hook, "install", lambda: installed.append(1))
    for switch in ("", "0", "1"):
        monkeypatch.setattr(_typecheck, "_SWITCH", switch)
        _typecheck.install_hook()
    assert installed == [1]


def test_checks_draw_nothing_from_the_callers_generator():
    @boundary
    def count(texts: list[str]) -> int:
        return len(texts)

    before = random.getstate()
    assert count(["a", "b", "c"]) == 3
    Targets(target_response_strs=["a", "b"])
    assert random.getstate() == before


def test_what_runs_as_a_module_leaves_no_checked_bytecode(tmp_path):
    package = tmp_path / "pellucid" / "tried"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import pellucid.core\n")
    (package / "run.py").write_text("def f(x: int) -> int:\n    return x\n\nprint(f(1))\n")
    for switch in ("1", "0"):
        environment = {**os.environ, "PELLUCID_TYPECHECK": switch, "PYTHONPATH": str(tmp_path)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-m", "pellucid.tried.run"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.stdout == "1\n", done.stderr

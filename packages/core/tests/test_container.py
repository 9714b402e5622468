import copy
import dataclasses
import inspect
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import (
    ContainerError,
    MessageTargets,
    ModelOutput,
    Targets,
    container,
    set_fields,
)


@container
class Pair:
    left: Float[Tensor, "batch d_model"] | None = None
    right: Int[Tensor, "batch pos"] | None = None
    names: list[str] | None = None
    parts: dict[str, slice] | None = None
    scores: list[dict[str, float] | None] | None = None
    weight: float | None = None


def test_a_container_is_keyword_only_and_holds_what_it_is_given():
    left = torch.zeros(2, 3)
    pair = Pair(left=left, names=["a"])
    assert pair.left is left
    assert pair.right is None
    assert set_fields(pair) == {"left": left, "names": ["a"]}
    with pytest.raises(TypeError):
        Pair(left)


def test_a_container_is_frozen():
    pair = Pair(names=["a"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.names = ["b"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.more = 1


def test_an_unknown_field_is_refused_with_a_near_match():
    with pytest.raises(ContainerError, match=r"Pair has no field 'name'. Did you mean 'names'"):
        Pair(name=["a"])
    with pytest.raises(ContainerError, match=r"no field 'zzz'. Fields: left, right, names"):
        Pair(zzz=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"left": torch.zeros(2, 3, dtype=torch.int64)}, "Pair.left expects .*torch.int64"),
        ({"left": torch.zeros(3)}, r"Pair.left expects .*shape \(3,\)"),
        ({"right": torch.zeros(2, 3)}, "Pair.right expects"),
        ({"left": [[0.0]]}, "Pair.left expects .*got list"),
        ({"names": "a"}, "Pair.names expects .*got str"),
        ({"names": ["a"] * 50 + [1]}, "Pair.names expects"),
        ({"parts": {"a": slice(1), "b": None}}, "Pair.parts expects"),
        ({"scores": [{"a": 0.5}] * 9 + [{"a": "b"}]}, "Pair.scores expects"),
        ({"left": torch.zeros(2, 3), "right": torch.ones(4, 3).long()}, "axis names agree"),
    ],
)
def test_a_misfit_is_refused_by_field_and_expectation(fields, message):
    with pytest.raises(ContainerError, match=message) as caught:
        Pair(**fields)
    assert isinstance(caught.value, ValueError)


def test_an_int_is_a_float():
    assert Pair(weight=1, scores=[{"a": 0}, None]).weight == 1


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["float16", "float64"])
)
def test_one_axis_name_has_one_length(n_left, n_right, width, dtype):
    left = torch.zeros(n_left, width, dtype=getattr(torch, dtype))
    right = torch.zeros(n_right, width, dtype=torch.int32)
    if n_left == n_right:
        assert Pair(left=left, right=right).right is right
    else:
        with pytest.raises(ContainerError):
            Pair(left=left, right=right)


def test_containers_are_equal_only_to_themselves():
    assert Pair(names=["a"]) != Pair(names=["a"])
    pair = Pair()
    assert len({pair, pair, Pair()}) == 2


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))]
)
def test_containers_can_be_copied_and_sent_to_other_processes(duplicate):
    twin = duplicate(Pair(names=["a"], left=torch.ones(1, 2)))
    assert twin.names == ["a"]
    assert torch.equal(twin.left, torch.ones(1, 2))


def test_a_container_shows_its_fields_to_help_and_editors():
    assert list(inspect.signature(Pair).parameters) == [f.name for f in dataclasses.fields(Pair)]


def test_a_validator_of_its_own_runs_after_the_checks():
    seen = []

    @container
    class Checked:
        names: list[str] | None = None

        def __post_init__(self) -> None:
            seen.append(self.names)

    Checked(names=["a"])
    with pytest.raises(ContainerError):
        Checked(names=[1])
    assert seen == [["a"]]


@pytest.mark.parametrize("kind", [MessageTargets, Targets, ModelOutput])
def test_every_field_of_the_contract_may_be_absent(kind):
    assert set_fields(kind()) == {}

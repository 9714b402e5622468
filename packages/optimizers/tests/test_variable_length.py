"""What is different about GCG over triggers of any length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, Targets, TemplateError
from pellucid.optimizers import (
    StepRandom,
    VariableLengthGCGOptimizer,
    sample_deletions,
    sample_insertions,
)
from pellucid.optimizers._state import SearchState
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
triggers = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(torch.tensor)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(triggers, st.integers(1, 9), st.integers(0, 99))
def test_a_deletion_leaves_out_one_token_and_none_is_made_twice(trigger, n, seed):
    rows = sample_deletions(trigger, n_candidates=n, generator=generator(seed)).tolist()
    whole = trigger.tolist()
    possible = [whole[:i] + whole[i + 1 :] for i in range(len(whole))]
    assert len(rows) == min(n, len(whole))
    for row in rows:
        possible.remove(row)


@given(triggers, st.integers(1, 9), st.integers(0, 99))
def test_an_insertion_adds_one_token_that_was_offered_beside_it(trigger, n, seed):
    # Tokens offered for a position are those of its own hundred: no other test could tell them.
    offered = 100 * (1 + torch.arange(len(trigger)))[:, None] + torch.arange(3)
    rows = sample_insertions(trigger, offered, n_candidates=n, generator=generator(seed))
    assert rows.shape == (n, len(trigger) + 1)
    for row in rows.tolist():
        (place,) = [i for i, token in enumerate(row) if token >= 100]
        assert row[:place] + row[place + 1 :] == trigger.tolist()
        assert row[place] // 100 - 1 in {place, place - 1}


def test_every_gap_gets_its_insertions():
    trigger = torch.tensor([1, 2])
    offered = torch.tensor([[7], [7]])
    rows = sample_insertions(trigger, offered, n_candidates=200, generator=generator(0))
    assert {tuple(row) for row in rows.tolist()} == {(7, 1, 2), (1, 7, 2), (1, 2, 7)}


def make(loss, **settings):
    defaults = {"n_candidates": 24, "sample_topk": 16, "num_steps": 8, "max_length": 20}
    return VariableLengthGCGOptimizer(TinyLM(), loss, seed=3, **{**defaults, **settings})


def ready(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem


@pytest.mark.parametrize(
    ("limits", "lengths"),
    [((1, 20), [-1, 0, 1]), ((0, 20), [0, 1]), ((1, 0), [-1, 0]), ((0, 0), [0])],
    ids=["free", "shortest", "longest", "fixed"],
)
def test_lengths_keep_their_limits(loss, targets, drive, limits, lengths):
    ids = ready(make(loss), targets).encode(START)
    n = len(ids)
    optimizer = make(loss, min_length=n - limits[0], max_length=n + limits[1])
    problem = ready(optimizer, targets)
    state = SearchState(trigger_ids=ids, loss=9.0)
    moves = optimizer.step(problem, state, StepRandom(0, 1))
    rounds, _ = drive(moves, problem.compute_losses)
    assert [rows.shape[1] - n for rows in rounds] == lengths
    # Deletions are few, and those that would not survive as text are left out.
    assert sum(map(len, rounds)) <= 24
    assert all(len(rows) for rows in rounds)


def test_the_step_moves_to_the_best_of_all_lengths_and_of_equals_to_the_shortest(
    loss, targets, drive
):
    optimizer = make(loss)
    problem = ready(optimizer, targets)
    state = SearchState(trigger_ids=problem.encode(START), loss=0.0)
    rounds, moved = drive(optimizer.step(problem, state, StepRandom(0, 1)), problem.compute_losses)
    losses = [problem.compute_losses(rows) for rows in rounds]
    assert moved.loss == pytest.approx(float(min(found.min() for found in losses)))
    flat = optimizer.step(problem, state, StepRandom(0, 1))
    _, shortest = drive(flat, lambda rows: torch.ones(len(rows)))
    assert len(shortest.trigger_ids) == len(state.trigger_ids) - 1


def test_a_search_finds_other_lengths_and_returns_the_best_seen(loss, targets):
    optimizer = make(loss, num_steps=12, n_candidates=64)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    lengths = {len(ready(optimizer, targets).encode(text)) for text in result.trigger_strs}
    assert len(lengths) > 1
    assert result.best_loss == min([result.initial_loss, *result.losses])
    assert result.best_loss < result.initial_loss
    assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)


def test_without_changes_of_length_it_is_gcg_of_single_flips(loss, targets):
    optimizer = make(loss, length_change_share=0)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    problem = ready(optimizer, targets)
    assert {len(problem.encode(text)) for text in result.trigger_strs} == {
        len(problem.encode(START))
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_length": 5, "max_length": 4}, "min_length=5 exceeds max_length=4"),
        ({"min_length": 0}, "min_length must be a whole number of at least 1"),
        ({"length_change_share": 1.5}, "length_change_share must be a number from 0 to 1"),
        ({"sample_topk": 999}, "sample_topk=999 exceeds the vocabulary"),
    ],
)
def test_senseless_settings_are_refused(loss, settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(loss, **settings)


def test_starts_of_no_possible_length_are_refused_before_the_first_forward(loss, targets):
    for limits in ({"min_length": 19}, {"max_length": 2}):
        optimizer = make(loss, **limits)
        with pytest.raises(ArgumentError, match=r"initial trigger has \d tokens, expected"):
            optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
        assert optimizer.model.get_usage_stats()["forward_calls"] == 0


def test_parts_are_refused_before_the_first_forward(loss):
    optimizer = make(loss)
    templates = ["Say{{OPTIMIZED_TRIGGER_1}} or{{OPTIMIZED_TRIGGER_2}}."]
    with pytest.raises(ArgumentError, match="parts of this one are held to theirs"):
        optimizer.optimize_trigger(
            templates, [" cat", " the"], Targets(target_response_strs=["no"]), progress=False
        )
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0


def test_a_longest_trigger_that_does_not_fit_is_refused_before_the_first_forward(
    loss, targets, monkeypatch
):
    def check(n_tokens):
        raise TemplateError(f"{n_tokens} are too many")

    optimizer = make(loss)
    monkeypatch.setattr(optimizer.model, "check_trigger_length", check)
    with pytest.raises(TemplateError, match="20 are too many"):
        optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0

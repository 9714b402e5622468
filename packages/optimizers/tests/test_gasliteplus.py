import dataclasses
import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.optimizers import (
    ConstantScheduler,
    GASLITEPlusOptimizer,
    LinearScheduler,
    StepRandom,
    TokenConstraints,
)

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
SMALL = {"n_grad": 2, "n_flip": 4, "n_candidates": 8, "buffer_size": 3, "n_bulk_flips": 2}


def prepare(optimizer, targets, trigger=START):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(trigger)
    return problem, optimizer.start(problem, ids, float(problem.compute_losses(ids[None])[0]))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_rounds_change_disjoint_parts_and_the_buffer_holds_the_best(
    drive, model, loss, targets, seed, step, n_flip, n_bulk_flips, retokenize
):
    constraints = TokenConstraints(disallow_custom_token_ids=range(10, 40))
    optimizer = GASLITEPlusOptimizer(
        model,
        loss,
        **{**SMALL, "n_flip": n_flip, "n_bulk_flips": n_bulk_flips},
        use_retokenize=retokenize,
        token_constraints=constraints,
    )
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(constraints)
    seen = {tuple(state.trigger_ids.tolist()): state.loss}
    touched = []

    def evaluate(candidates):
        best = torch.tensor(min(seen, key=seen.get))
        changed = candidates != best
        is_fill = step == 1 and len(seen) == 1
        assert torch.isin(candidates[changed], allowed).all()
        assert len(candidates.unique(dim=0)) == len(candidates)
        assert len(candidates) <= (optimizer.buffer_size - 1 if is_fill else 8)
        assert problem.survives(candidates).all() or not retokenize
        if not is_fill:
            touched.append(set(changed.any(dim=0).nonzero().flatten().tolist()))
        losses = problem.compute_losses(candidates)
        seen.update(zip(map(tuple, candidates.tolist()), losses.tolist(), strict=True))
        return losses

    _, after = drive(optimizer.step(problem, state, StepRandom(seed, step)), evaluate)
    ranked = sorted(seen.items(), key=lambda item: item[1])
    assert after.buffer_losses.tolist() == [value for _, value in ranked[:3]]
    assert tuple(after.trigger_ids.tolist()) == ranked[0][0]
    assert after.loss == ranked[0][1] <= state.loss
    assert sum(map(len, touched)) == len(set().union(*touched)) <= n_flip
    assert len(touched) <= n_bulk_flips


def test_first_step_alone_fills_the_buffer_with_triggers_of_the_same_length(
    drive, model, loss, targets
):
    optimizer = GASLITEPlusOptimizer(model, loss, **{**SMALL, "buffer_size": 6, "n_bulk_flips": 1})
    problem, state = prepare(optimizer, targets)
    first, _ = drive(optimizer.step(problem, state, StepRandom(0, 1)), problem.compute_losses)
    second, _ = drive(optimizer.step(problem, state, StepRandom(0, 2)), problem.compute_losses)
    assert [len(rows) for rows in first[:1]] == [5]
    assert (len(first), len(second)) == (2, 1)
    assert first[0].shape[1] == len(state.trigger_ids)
    assert problem.survives(first[0]).all()


def test_positions_are_ordered_on_demand_and_parted(model, loss):
    for method in ("random", "ordered"):
        optimizer = GASLITEPlusOptimizer(
            model, loss, n_flip=7, n_bulk_flips=3, flip_pos_method=method
        )
        chosen = [optimizer._choose_positions(20, StepRandom(0, step)) for step in range(1, 9)]
        flat = [torch.cat(parts).tolist() for parts in chosen]
        assert all([len(part) for part in parts] == [3, 3, 1] for parts in chosen)
        assert all(len(set(row)) == 7 for row in flat)
        assert all(row == sorted(row) for row in flat) == (method == "ordered")


def test_number_of_flips_follows_the_schedule(model, loss):
    def count(step, **more):
        optimizer = GASLITEPlusOptimizer(model, loss, num_steps=10, **more)
        return sum(map(len, optimizer._choose_positions(20, StepRandom(0, step))))

    assert [count(step, n_flip=9) for step in (1, 10)] == [9, 9]
    declining = [count(step, n_flip=9, decline_n_flip_from_step=0.5) for step in (1, 5, 6, 9, 10)]
    assert declining == [LinearScheduler(9, 10, 5).get_n_flip(s) for s in (1, 5, 6, 9, 10)]
    assert count(3, n_flip_scheduler=ConstantScheduler(2)) == 2
    assert count(1, n_flip=99) == 20


def test_run_ends_when_the_loss_hardly_falls(model, loss, targets):
    optimizer = GASLITEPlusOptimizer(model, loss, early_stopping_patience=2)
    assert optimizer._is_gain(-0.5, -0.6)
    assert not optimizer._is_gain(-0.5, -0.501)
    assert not optimizer._is_gain(0.0, 0.0)
    _, state = prepare(optimizer, targets)
    assert not optimizer.is_finished(dataclasses.replace(state, stale_steps=1))
    assert optimizer.is_finished(dataclasses.replace(state, stale_steps=2))
    patient = GASLITEPlusOptimizer(
        model,
        loss,
        seed=0,
        num_steps=50,
        early_stopping_patience=1,
        early_stopping_threshold=0.9,
        **SMALL,
    )
    result = patient.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert (result.stop_reason, len(result.losses)) == ("converged", 1)


def test_run_ends_when_its_time_is_up(model, loss, targets):
    optimizer = GASLITEPlusOptimizer(model, loss, seed=0, time_limit=1e-6, **SMALL)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert (result.stop_reason, len(result.losses)) == ("budget", 1)


def test_a_time_limit_and_a_budget_hold_side_by_side(model, loss, targets):
    optimizer = GASLITEPlusOptimizer(model, loss, seed=0, num_steps=9, time_limit=1e-6, **SMALL)
    optimizer.set_budget(1e12)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert (result.stop_reason, len(result.losses)) == ("budget", 1)
    optimizer = GASLITEPlusOptimizer(model, loss, seed=0, num_steps=9, time_limit=3600, **SMALL)
    optimizer.set_budget(1)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert (result.stop_reason, len(result.losses)) == ("budget", 0)


@pytest.mark.parametrize("seed", range(5))
def test_gasliteplus_falls_step_by_step_and_beats_its_start(model, loss, targets, seed):
    optimizer = GASLITEPlusOptimizer(
        model, loss, seed=seed, num_steps=4, **{**SMALL, "n_candidates": 16}
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    path = [result.initial_loss, *result.losses]
    assert all(later <= earlier for earlier, later in itertools.pairwise(path))
    assert result.best_loss < result.initial_loss - 0.1
    assert result.tokenization_gap == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_grad": 0}, "n_grad must be a whole number of at least 1, got 0"),
        ({"n_flip": 0.5}, "n_flip must be a whole number"),
        ({"n_candidates": 0}, "n_candidates"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"n_bulk_flips": 0}, "n_bulk_flips"),
        ({"early_stopping_patience": 0}, "early_stopping_patience"),
        ({"early_stopping_threshold": -1.0}, "early_stopping_threshold"),
        ({"flip_pos_method": "sorted"}, "flip_pos_method must be one of random, ordered"),
        ({"decline_n_flip_from_step": 101}, "decline_start must be a step up to total_steps=100"),
        ({"time_limit": 0.0}, "time_limit must be a finite number above 0"),
        (
            {"n_flip_scheduler": ConstantScheduler(2), "decline_n_flip_from_step": 5},
            "n_flip_scheduler or decline_n_flip_from_step, not both",
        ),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        GASLITEPlusOptimizer(model, loss, **setting)


def test_unknown_settings_are_refused(model, loss):
    with pytest.raises(TypeError, match="n_flips"):
        GASLITEPlusOptimizer(model, loss, n_flips=4)

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import RetokenizationError, select_topk
from pellucid.optimizers import ARCAOptimizer, StepRandom

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 0.0)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 5))
def test_candidates_are_ranked_by_the_gradient_averaged_over_the_position(
    model, loss, targets, seed, step, n_grad_avg
):
    optimizer = ARCAOptimizer(
        model, loss, n_candidates=6, sample_topk=9, n_grad_avg=n_grad_avg, use_retokenize=False
    )
    problem, state = prepare(optimizer, targets)
    averaged = []
    compute = model.compute_grad_from_tokens

    def record(loss_func, ids, **more):
        averaged.append(ids)
        return compute(loss_func, ids, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "compute_grad_from_tokens", record)
        candidates = optimizer.ask(problem, state, StepRandom(seed, step))
    position = (step - 1) % len(state.trigger_ids)
    (copies,) = averaged
    allowed = problem.allowed_ids(optimizer.token_constraints)
    assert len(copies) == n_grad_avg
    assert torch.isin(copies[:, position], allowed).all()
    elsewhere = torch.arange(len(state.trigger_ids)) != position
    assert (copies == state.trigger_ids)[:, elsewhere].all()
    assert (candidates == state.trigger_ids)[:, elsewhere].all()
    grad = torch.stack([compute(loss, copy[None])[0] for copy in copies]).mean(dim=0)
    best = select_topk(grad[None], 6, allowed).token_ids[0, position]
    assert candidates[:, position].tolist() == best.tolist()


def test_next_position_is_taken_where_nothing_survives(model, loss, targets, monkeypatch):
    optimizer = ARCAOptimizer(model, loss, n_candidates=8, sample_topk=8, n_grad_avg=2)
    problem, state = prepare(optimizer, targets)
    last = len(state.trigger_ids) - 1
    monkeypatch.setattr(problem, "survives", lambda rows: rows[:, 0] != state.trigger_ids[0])
    for step in (1, last + 1, last + 2):
        changed = optimizer.ask(problem, state, StepRandom(0, step)) != state.trigger_ids
        assert changed.any(dim=0).nonzero().flatten().tolist() == [0]
    monkeypatch.setattr(problem, "survives", lambda rows: torch.zeros(len(rows), dtype=torch.bool))
    with pytest.raises(RetokenizationError):
        optimizer.ask(problem, state, StepRandom(0, 1))


def test_candidates_survive(model, loss, targets):
    optimizer = ARCAOptimizer(model, loss, n_candidates=90, sample_topk=90, n_grad_avg=2)
    problem, state = prepare(optimizer, targets)
    for step in range(1, 8):
        assert problem.survives(optimizer.ask(problem, state, StepRandom(0, step))).all()


@pytest.mark.parametrize("seed", range(5))
def test_arca_beats_its_start(model, loss, targets, seed):
    optimizer = ARCAOptimizer(
        model, loss, seed=seed, num_steps=15, n_candidates=32, sample_topk=32, n_grad_avg=4
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1
    assert result.tokenization_gap == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_grad_avg": 0}, "n_grad_avg must be a whole number of at least 1, got 0"),
        ({"n_candidates": 2.0}, "n_candidates"),
        ({"sample_topk": 10_000}, "sample_topk=10000 exceeds the vocabulary"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        ARCAOptimizer(model, loss, **{"sample_topk": 8, **setting})

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import RetokenizationError, select_topk
from pellucid.optimizers import AutoPromptOptimizer, SearchState, StepRandom, TokenConstraints

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 0.0)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.booleans(), st.integers(1, 9), st.integers(1, 9))
def test_candidates_are_the_surviving_best_tokens_of_one_position(
    model, loss, targets, seed, ascii_only, n_candidates, topk
):
    optimizer = AutoPromptOptimizer(
        model,
        loss,
        n_candidates=n_candidates,
        sample_topk=topk,
        token_constraints=TokenConstraints(disallow_non_ascii=ascii_only),
    )
    problem, state = prepare(optimizer, targets)
    candidates = optimizer.ask(problem, state, StepRandom(seed, 1))
    positions = (candidates != state.trigger_ids).any(dim=0).nonzero().flatten().tolist()
    grad = model.compute_grad_from_tokens(loss, state.trigger_ids[None])
    allowed = problem.allowed_ids(optimizer.token_constraints)
    best = select_topk(grad, min(n_candidates, topk), allowed).token_ids[0]
    expected = []
    for position in positions or range(len(state.trigger_ids)):
        rows = [state.trigger_ids.clone() for _ in best[position]]
        for row, token in zip(rows, best[position], strict=True):
            row[position] = token
        expected.append([row.tolist() for row in rows if problem.survives(row[None])[0]])
    assert len(positions) <= 1
    assert candidates.tolist() in expected


def test_every_position_is_drawn(model, loss, targets):
    optimizer = AutoPromptOptimizer(model, loss, n_candidates=4, sample_topk=4)
    problem, state = prepare(optimizer, targets)
    drawn = set()
    for step in range(1, 60):
        changed = optimizer.ask(problem, state, StepRandom(0, step)) != state.trigger_ids
        drawn.update(changed.any(dim=0).nonzero().flatten().tolist())
    assert drawn == set(range(len(state.trigger_ids)))


def test_other_positions_are_tried_where_nothing_survives(model, loss, targets, monkeypatch):
    optimizer = AutoPromptOptimizer(model, loss, n_candidates=8, sample_topk=8)
    problem, state = prepare(optimizer, targets)
    monkeypatch.setattr(problem, "survives", lambda rows: rows[:, 2] != state.trigger_ids[2])
    for step in range(1, 9):
        changed = optimizer.ask(problem, state, StepRandom(0, step)) != state.trigger_ids
        assert changed.any(dim=0).nonzero().flatten().tolist() == [2]
    monkeypatch.setattr(problem, "survives", lambda rows: torch.zeros(len(rows), dtype=torch.bool))
    with pytest.raises(RetokenizationError, match="use_retokenize=False"):
        optimizer.ask(problem, state, StepRandom(0, 1))


def test_filter_off_evaluates_every_offered_token(model, loss, targets):
    optimizer = AutoPromptOptimizer(
        model, loss, n_candidates=90, sample_topk=90, use_retokenize=False
    )
    problem, state = prepare(optimizer, targets)
    n_allowed = len(problem.allowed_ids(optimizer.token_constraints))
    assert len(optimizer.ask(problem, state, StepRandom(0, 1))) == min(90, n_allowed)


def test_step_moves_even_uphill(model, loss):
    optimizer = AutoPromptOptimizer(model, loss, sample_topk=8)
    state = SearchState(trigger_ids=torch.tensor([9, 9]), loss=0.1)
    moved = optimizer.tell(state, torch.tensor([[1, 2], [3, 4]]), torch.tensor([0.5, 0.2]))
    assert moved.trigger_ids.tolist() == [3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_autoprompt_beats_its_start(model, loss, targets, seed):
    optimizer = AutoPromptOptimizer(
        model, loss, seed=seed, num_steps=15, n_candidates=32, sample_topk=32
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1
    assert result.tokenization_gap == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"n_candidates": 0}, "n_candidates"),
        ({"sample_topk": 10_000}, "sample_topk=10000 exceeds the vocabulary"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        AutoPromptOptimizer(model, loss, **{"sample_topk": 8, **setting})


def test_unknown_settings_are_refused(model, loss):
    with pytest.raises(TypeError, match="n_candidate"):
        AutoPromptOptimizer(model, loss, sample_topk=8, n_candidate=4)

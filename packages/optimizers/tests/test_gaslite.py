import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import select_topk
from pellucid.optimizers import GASLITEOptimizer, StepRandom, TokenConstraints, random_single_flips

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets, trigger=START):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(trigger)
    return problem, optimizer.start(problem, ids, float(problem.compute_losses(ids[None])[0]))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.booleans(), st.integers(1, 9), st.booleans())
def test_rounds_change_one_position_each_and_the_loss_never_rises(
    drive, model, loss, targets, seed, at_random, n_flip, retokenize
):
    constraints = TokenConstraints(disallow_custom_token_ids=range(10, 40))
    optimizer = GASLITEOptimizer(
        model,
        loss,
        n_grad=3,
        n_flip=n_flip,
        n_candidates=8,
        use_random_gradient=at_random,
        use_retokenize=retokenize,
        token_constraints=constraints,
    )
    problem, state = prepare(optimizer, targets)
    losses = [state.loss]
    current = state.trigger_ids
    allowed = problem.allowed_ids(constraints)

    def evaluate(candidates):
        nonlocal current
        found = problem.compute_losses(candidates)
        changed = (candidates != current).any(dim=0).nonzero().flatten()
        assert len(changed) == 1
        assert torch.isin(candidates[:, changed], allowed).all()
        assert (candidates != current).any(dim=1).all()
        assert len(candidates.unique(dim=0)) == len(candidates) <= 8
        assert problem.survives(candidates).all() or not retokenize
        positions.append(int(changed))
        if found.min() < losses[-1]:
            current = candidates[found.argmin()]
        losses.append(min(losses[-1], float(found.min())))
        return found

    positions = []
    _, after = drive(optimizer.step(problem, state, StepRandom(seed, 1)), evaluate)
    assert positions == sorted(set(positions))
    assert len(positions) <= min(n_flip, len(current))
    assert torch.equal(after.trigger_ids, current)
    assert after.loss == losses[-1] <= losses[0]


def test_offers_are_ranked_by_the_mean_of_normalized_gradients(drive, model, loss, targets):
    optimizer = GASLITEOptimizer(
        model, loss, n_grad=5, n_flip=99, n_candidates=12, use_retokenize=False
    )
    problem, state = prepare(optimizer, targets)
    random = StepRandom(4, 2)
    allowed = problem.allowed_ids(optimizer.token_constraints)
    copies = random_single_flips(
        state.trigger_ids, 5, allowed, generator=random.generator("copies")
    )
    grads = [model.compute_grad_from_tokens(loss, copy[None])[0] for copy in copies]
    mean = torch.stack([grad / grad.norm(dim=-1, keepdim=True) for grad in grads]).mean(dim=0)
    best = select_topk(mean[None], 12, allowed).token_ids[0]
    rounds, _ = drive(
        optimizer.step(problem, state, random), lambda rows: torch.full((len(rows),), 99.0)
    )
    for position, candidates in enumerate(rounds):
        offered = [i for i in best[position].tolist() if i != state.trigger_ids[position]]
        assert candidates[:, position].tolist() == offered


def test_position_where_nothing_survives_is_left_as_it_is(drive, model, loss, targets, monkeypatch):
    optimizer = GASLITEOptimizer(model, loss, n_grad=2, n_flip=99, n_candidates=8)
    problem, state = prepare(optimizer, targets)
    monkeypatch.setattr(problem, "survives", lambda rows: torch.zeros(len(rows), dtype=torch.bool))
    rounds, after = drive(optimizer.step(problem, state, StepRandom(0, 1)), problem.compute_losses)
    assert rounds == []
    assert after == state


def test_random_offers_are_distinct_and_reach_every_token(model, loss, targets):
    optimizer = GASLITEOptimizer(
        model, loss, n_flip=99, n_candidates=20, use_random_gradient=True, use_retokenize=False
    )
    problem, state = prepare(optimizer, targets)
    seen = set()
    for step in range(1, 20):
        offered = optimizer._offer(problem, state.trigger_ids, StepRandom(0, step))
        assert all(len(row.unique()) == 20 for row in offered)
        seen.update(offered.flatten().tolist())
    assert seen == set(problem.allowed_ids(optimizer.token_constraints).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_gaslite_falls_step_by_step_and_beats_its_start(model, loss, targets, seed):
    optimizer = GASLITEOptimizer(
        model, loss, seed=seed, num_steps=3, n_grad=4, n_flip=4, n_candidates=16
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
        ({"n_flip": 0.5}, "n_flip"),
        ({"n_candidates": 0}, "n_candidates"),
        ({"n_candidates": 10_000}, "n_candidates=10000 exceeds the vocabulary"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        GASLITEOptimizer(model, loss, **setting)


def test_unknown_settings_are_refused(model, loss):
    with pytest.raises(TypeError, match="n_flips"):
        GASLITEOptimizer(model, loss, n_flips=4)

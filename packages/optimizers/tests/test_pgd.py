import dataclasses

import pytest
import torch

from pellucid.optimizers import PGDOptimizer, StepRandom, TokenConstraints, project_on_simplex

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 1.0)


def take_step(optimizer, problem, state, step, loss):
    moves = optimizer.step(problem, state, StepRandom(0, step))
    candidates = next(moves)
    with pytest.raises(StopIteration) as done:
        moves.send(torch.tensor([loss]))
    return candidates, done.value.value


def test_weights_are_distributions_over_allowed_tokens(model, loss, targets):
    constraints = TokenConstraints(disallow_custom_token_ids=list(range(60, 128)))
    optimizer = PGDOptimizer(
        model, loss, lr=0.5, entropy_warmup_steps=3, token_constraints=constraints
    )
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(constraints)
    for step in range(1, 7):
        candidates, state = take_step(optimizer, problem, state, step, 2.0)
        assert (state.weights >= 0).all()
        torch.testing.assert_close(state.weights.sum(dim=-1), torch.ones(len(state.weights)))
        assert set(candidates.flatten().tolist()) <= set(allowed.tolist())
        assert torch.equal(candidates[0], allowed[state.weights.argmax(dim=-1)])


def mean_entropy(model, loss, targets, **settings):
    optimizer = PGDOptimizer(model, loss, lr=0.3, entropy_warmup_steps=4, **settings)
    problem, state = prepare(optimizer, targets)
    found = []
    for step in range(1, 6):
        _, state = take_step(optimizer, problem, state, step, 2.0)
        found.append(float(1 - state.weights.square().sum(dim=-1).mean()))
    return found


def test_the_greater_the_factor_the_lower_the_entropy(model, loss, targets):
    free, held, tight = (
        mean_entropy(model, loss, targets, entropy_factor=factor) for factor in (0.0, 0.5, 1.0)
    )
    assert tight[-1] < held[-1] < free[-1]
    # The factor rises from 0: the first step is held to a quarter of what the fourth is.
    assert tight[3] < free[3]


def test_starts_at_the_trigger_and_evenly_where_it_is_not_allowed(model, loss, targets):
    problem, state = prepare(PGDOptimizer(model, loss), targets)
    assert torch.equal(state.weights.max(dim=-1).values, torch.ones(len(state.weights)))
    first = int(problem.encode(START)[0])
    without = TokenConstraints(disallow_custom_token_ids=[first])
    _, state = prepare(PGDOptimizer(model, loss, token_constraints=without), targets)
    assert state.weights[0].max() == state.weights[0].min() > 0
    torch.testing.assert_close(state.weights.sum(dim=-1), torch.ones(len(state.weights)))


def test_goes_back_to_the_best_when_stuck(model, loss, targets):
    optimizer = PGDOptimizer(model, loss, patience=2, lr=0.4)
    problem, state = prepare(optimizer, targets)
    _, best = take_step(optimizer, problem, state, 1, 0.5)
    assert (best.lowest_loss, best.stale_steps) == (0.5, 0)
    _, worse = take_step(optimizer, problem, best, 2, 0.7)
    assert (worse.lowest_loss, worse.stale_steps) == (0.5, 1)
    assert not torch.equal(worse.weights, best.weights)
    assert torch.equal(worse.best_weights, best.weights)
    _, back = take_step(optimizer, problem, worse, 3, 0.6)
    assert torch.equal(back.weights, best.weights)
    assert (back.lowest_loss, back.stale_steps, back.loss) == (0.5, 0, pytest.approx(0.6))


def test_gradient_is_clipped_at_each_position(model, loss, targets):
    optimizer = PGDOptimizer(model, loss, grad_clip_norm=1e-3)
    problem, state = prepare(optimizer, targets)
    _, state = take_step(optimizer, problem, state, 1, 2.0)
    torch.testing.assert_close(
        (10 * state.first_moment).norm(dim=-1), torch.full((len(state.weights),), 1e-3)
    )
    free = PGDOptimizer(model, loss, grad_clip_norm=None)
    problem, state = prepare(free, targets)
    _, state = take_step(free, problem, state, 1, 2.0)
    assert (10 * state.first_moment).norm(dim=-1).max() > 2e-3


def test_learning_rate_falls_and_starts_again(model, loss, targets):
    optimizer = PGDOptimizer(model, loss, lr=0.2, lr_period=4, lr_floor=0.5)
    rates = [optimizer._lr_at(step) for step in range(1, 9)]
    assert rates[:4] == rates[4:]
    assert rates[0] == 0.2
    assert rates[2] == pytest.approx(0.15)
    assert rates[:4] == sorted(rates[:4], reverse=True)
    assert min(rates) > 0.1
    steady = PGDOptimizer(model, loss, lr=0.2, lr_period=None)
    assert {steady._lr_at(step) for step in range(1, 99)} == {0.2}
    # What a step takes is the rate of its number: nothing but the moments differs otherwise.
    problem, state = prepare(optimizer, targets)
    moved = [take_step(optimizer, problem, state, step, 2.0)[1].weights for step in (1, 5, 3)]
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])


def test_steepest_update_keeps_the_proportions_of_the_mean_gradient(model, loss, targets):
    optimizer = PGDOptimizer(
        model, loss, lr=0.01, lr_period=None, entropy_factor=0.0, update="steepest"
    )
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(optimizer.token_constraints)
    mean = torch.zeros_like(state.weights)
    for step in range(1, 4):
        (grad,) = problem.differentiate_at_probs(state.weights[None], allowed)
        mean = 0.9 * mean + 0.1 * grad
        expected = state.weights - 0.01 * mean / mean.abs().amax(dim=-1, keepdim=True)
        _, state = take_step(optimizer, problem, state, step, 2.0)
        torch.testing.assert_close(state.weights, project_on_simplex(expected))


def test_lowers_the_loss(model, loss, targets):
    optimizer = PGDOptimizer(model, loss, num_steps=40, entropy_warmup_steps=20)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1
    exact = optimizer.make_problem()
    exact.set_inputs(TEMPLATES, targets)
    assert float(exact.compute_losses(result.best_trigger_ids[None])[0]) == pytest.approx(
        result.best_loss, abs=1e-5
    )


def test_state_is_never_changed(model, loss, targets):
    optimizer = PGDOptimizer(model, loss)
    problem, state = prepare(optimizer, targets)
    before = dataclasses.replace(state, weights=state.weights.clone())
    take_step(optimizer, problem, state, 1, 0.1)
    assert torch.equal(before.weights, state.weights)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"entropy_factor": 1.5}, "entropy_factor must be a number from 0 to 1"),
        ({"patience": 0}, "patience"),
        ({"entropy_warmup_steps": 0}, "entropy_warmup_steps"),
        ({"grad_clip_norm": 0}, "grad_clip_norm"),
        ({"lr": -1}, "lr must be"),
        ({"lr_period": 0}, "lr_period"),
        ({"update": "newton"}, "update must be"),
        ({"lr_floor": 1.1}, "lr_floor must be a number from 0 to 1"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        PGDOptimizer(model, loss, **setting)

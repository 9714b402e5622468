import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import NotDifferentiableError
from pellucid.optimizers import GBDAOptimizer, StepRandom, TokenConstraints
from pellucid.optimizers._relaxation import draw_gumbel

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 1.0)


def answer(moves, losses):
    candidates = next(moves)
    with pytest.raises(StopIteration) as done:
        moves.send(losses(candidates))
    return candidates, done.value.value


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 99), st.sampled_from(["from_trigger", "random"]))
def test_every_candidate_obeys_the_constraints(model, loss, targets, seed, init_mode):
    banned = TokenConstraints(disallow_custom_token_ids=list(range(100, 128)))
    optimizer = GBDAOptimizer(
        model, loss, init_mode=init_mode, n_grad_samples=2, token_constraints=banned
    )
    problem, state = prepare(optimizer, targets)
    allowed = set(problem.allowed_ids(banned).tolist())
    for step in (1, 2):
        moves = optimizer.step(problem, state, StepRandom(seed, step))
        candidates, state = answer(moves, lambda rows: torch.ones(len(rows)))
        assert set(candidates.flatten().tolist()) <= allowed
    drawn, _ = answer(
        optimizer.conclude(problem, state, StepRandom(seed, -1)), lambda rows: torch.ones(len(rows))
    )
    assert len(drawn) == 100
    assert set(drawn.flatten().tolist()) <= allowed


def test_step_is_adam_on_the_gradient_through_the_samples(model, loss, targets):
    optimizer = GBDAOptimizer(model, loss, n_grad_samples=3, num_steps=4, initial_coeff=2.0)
    problem, state = prepare(optimizer, targets)
    _, moved = answer(
        optimizer.step(problem, state, StepRandom(5, 1)), lambda rows: torch.zeros(len(rows))
    )
    # The same by autograd, with a straight line through the model's own gradient.
    allowed = problem.allowed_ids(optimizer.token_constraints)
    noise = draw_gumbel((3, *state.logits.shape), StepRandom(5, 1).generator("samples"))
    leaf = state.logits.clone().requires_grad_()
    probs = (leaf + noise).softmax(dim=-1)
    full = torch.zeros(3, len(state.trigger_ids), model.vocab_size)
    full[..., allowed] = probs.detach()
    slope = model.compute_grad_from_tokens(loss, candidate_trigger_probs=full)[..., allowed]
    (grad,) = torch.autograd.grad((probs * slope).sum() / 3, leaf)
    torch.testing.assert_close(moved.first_moment, 0.1 * grad, atol=1e-7, rtol=1e-4)
    expected = state.logits - 0.3 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(moved.logits, expected, atol=1e-4, rtol=1e-4)


def test_starts_at_the_trigger_and_forgets_tokens_that_are_not_allowed(model, loss, targets):
    problem, state = prepare(GBDAOptimizer(model, loss), targets)
    assert torch.equal(state.logits.max(dim=-1).values, torch.full((len(state.logits),), 15.0))
    first = int(problem.encode(START)[0])
    without = TokenConstraints(disallow_custom_token_ids=[first])
    _, state = prepare(GBDAOptimizer(model, loss, token_constraints=without), targets)
    assert not state.logits[0].any()


def test_temperatures(model, loss):
    linear = GBDAOptimizer(model, loss, num_steps=11, temp_start=2.0, temp_end=1.0)
    assert [linear._temperature(n) for n in (0, 5, 10)] == pytest.approx([2.0, 1.5, 1.0])
    gradual = GBDAOptimizer(model, loss, num_steps=101, temp_schedule="gradual")
    found = [gradual._temperature(n) for n in (0, 25, 50, 75, 100)]
    assert found == pytest.approx([2.5, 1.75, 1.0, 0.5, 0.01])
    curve = [gradual._temperature(n) for n in range(101)]
    assert sorted(curve, reverse=True) == curve
    assert GBDAOptimizer(model, loss, num_steps=1)._temperature(0) == 1.0


def test_rate_falls_unless_told_otherwise(model, loss):
    optimizer = GBDAOptimizer(model, loss, num_steps=10)
    assert optimizer._learning_rate(0) == pytest.approx(0.3)
    assert optimizer._learning_rate(5) == pytest.approx(0.15)
    assert GBDAOptimizer(model, loss, use_lr_schedule=False)._learning_rate(99) == 0.3


def test_last_round_can_only_help(model, loss, targets):
    optimizer = GBDAOptimizer(
        model, loss, seed=1, num_steps=5, n_grad_samples=2, initial_coeff=1.0, lr=1.0
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss <= min([result.initial_loss, *result.losses])
    assert len(result.losses) == 5


@pytest.mark.parametrize("seed", range(5))
def test_lowers_the_loss(model, loss, targets, seed):
    optimizer = GBDAOptimizer(
        model, loss, seed=seed, num_steps=25, n_grad_samples=4, initial_coeff=3.0
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1


def test_state_is_float32_and_tells_all(model, loss, targets):
    _, state = prepare(GBDAOptimizer(model, loss), targets)
    held = [getattr(state, field.name) for field in dataclasses.fields(state)]
    assert {t.dtype for t in held if isinstance(t, torch.Tensor)} == {torch.int64, torch.float32}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_grad_samples": 0}, "n_grad_samples"),
        ({"temp_end": 0.0}, "temp_end must be a finite number above 0"),
        ({"init_mode": "zero"}, "init_mode must be one of from_trigger, random"),
        ({"temp_schedule": "x"}, "temp_schedule must be one of linear, gradual"),
        ({"grad_clip_norm": -1.0}, "grad_clip_norm"),
        ({"lr": float("nan")}, "lr must be"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        GBDAOptimizer(model, loss, **setting)


def test_loss_without_gradient_is_refused(model, loss):
    class Steep(type(loss)):
        is_differentiable = False

    with pytest.raises(NotDifferentiableError, match="Steep has none"):
        GBDAOptimizer(model, Steep())

import pytest
import torch

from pellucid.core import RequirementError
from pellucid.optimizers import QCGOptimizer, StepRandom, TokenConstraints
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def build(model, loss, **settings):
    return QCGOptimizer(
        model, loss, **{"n_proxy_candidates": 24, "n_target_candidates": 6, **settings}
    )


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(START)
    return problem, optimizer.start(problem, ids, float(problem.compute_losses(ids[None])[0]))


def take_step(optimizer, problem, state, random):
    moves = optimizer.step(problem, state, random)
    candidates = next(moves)
    with pytest.raises(StopIteration) as done:
        moves.send(problem.compute_losses(candidates))
    return candidates, done.value.value


def test_target_sees_what_the_proxy_finds_best(model, loss, targets):
    problem, state = prepare(build(model, loss), targets)
    everything, _ = take_step(build(model, loss), problem, state, StepRandom(3, 1))
    assert len(everything) == 24
    guided = build(model, loss, proxy_model=TinyLM(seed=1))
    problem, state = prepare(guided, targets)
    chosen, _ = take_step(guided, problem, state, StepRandom(3, 1))
    losses = problem.auxiliary["proxy"].compute_losses(everything)
    best = everything[losses.argsort()[:6]]
    assert {tuple(row) for row in chosen.tolist()} == {tuple(row) for row in best.tolist()}


def test_candidates_are_single_allowed_changes_that_survive(model, loss, targets):
    banned = TokenConstraints(disallow_custom_token_ids=list(range(100, 128)))
    optimizer = build(model, loss, token_constraints=banned)
    problem, state = prepare(optimizer, targets)
    allowed = set(problem.allowed_ids(banned).tolist())
    for step in range(1, 5):
        before = state.trigger_ids
        candidates, state = take_step(optimizer, problem, state, StepRandom(0, step))
        changed = candidates != before
        assert (changed.sum(dim=1) <= 1).all()
        assert {int(token) for token in candidates[changed]} <= allowed
        assert problem.survives(candidates).all()


def test_buffer_holds_the_best_of_all_that_was_evaluated(model, loss, targets):
    optimizer = build(model, loss, buffer_size=5)
    problem, state = prepare(optimizer, targets)
    seen = {tuple(state.trigger_ids.tolist()): state.loss}
    for step in range(1, 5):
        candidates, state = take_step(optimizer, problem, state, StepRandom(1, step))
        losses = problem.compute_losses(candidates).tolist()
        seen.update(zip(map(tuple, candidates.tolist()), losses, strict=True))
        assert state.buffer_losses.tolist() == pytest.approx(sorted(seen.values())[:5], abs=1e-6)
        assert torch.equal(state.trigger_ids, state.buffer_ids[0])


def test_loss_never_rises(model, loss, targets):
    optimizer = build(model, loss, seed=0, num_steps=10, proxy_model=TinyLM(seed=1))
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    path = [result.initial_loss, *result.losses]
    assert sorted(path, reverse=True) == path
    assert result.best_loss < result.initial_loss


def test_proxy_without_losses_is_refused(model, loss):
    from pellucid.core import BaseModel, TokenAccessMixin

    class Mute(BaseModel, TokenAccessMixin):
        tokenizer = None

        def __call__(self):
            raise AssertionError

        device = set_inputs_from_tokens = __call__

    with pytest.raises(RequirementError, match="proxy of QCGOptimizer requires LossTokenAccess"):
        build(model, loss, proxy_model=Mute())


@pytest.mark.usefixtures("unchecked")
def test_proxy_that_is_no_model_is_refused(model, loss):
    with pytest.raises(RequirementError, match="QCGOptimizer must be a BaseModel, got str"):
        build(model, loss, proxy_model="gpt")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name", ["n_proxy_candidates", "n_target_candidates", "buffer_size", "num_steps"]
)
def test_senseless_counts_are_refused(model, loss, name):
    with pytest.raises(ValueError, match=name):
        build(model, loss, **{name: 0})

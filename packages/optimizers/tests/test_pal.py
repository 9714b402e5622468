import pytest
import torch

from pellucid.core import RequirementError
from pellucid.optimizers import PALOptimizer, StepRandom
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def ask(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    state = optimizer.start(problem, problem.encode(START), 1.0)
    return problem, next(optimizer.step(problem, state, StepRandom(0, 1)))


def build(model, loss, **settings):
    return PALOptimizer(model, loss, **{"n_candidates": 20, "sample_topk": 16, **settings})


def test_proxy_chooses_the_candidates_it_finds_best(model, loss, targets):
    _, everything = ask(build(model, loss, proxy_model=TinyLM(seed=1)), targets)
    few = build(model, loss, proxy_model=TinyLM(seed=1), n_candidates_after_proxy_filter=6)
    problem, chosen = ask(few, targets)
    losses = problem.auxiliary["proxy"].compute_losses(everything)
    best = everything[losses.argsort()[:6]]
    assert {tuple(row) for row in chosen.tolist()} == {tuple(row) for row in best.tolist()}


@pytest.mark.parametrize("n_kept", [20, 21, 10_000])
def test_filter_that_asks_for_more_than_there_are_keeps_all(model, loss, targets, n_kept):
    optimizer = build(
        model, loss, proxy_model=TinyLM(seed=1), n_candidates_after_proxy_filter=n_kept
    )
    _, candidates = ask(optimizer, targets)
    assert len(candidates) == 20


def test_target_that_is_its_own_proxy_filters_nothing(model, loss, targets):
    _, candidates = ask(build(model, loss, n_candidates_after_proxy_filter=3), targets)
    assert len(candidates) == 20


def test_nothing_is_evaluated_twice_and_all_survive(model, loss, targets):
    optimizer = build(model, loss, candidate_selection="random")
    problem, candidates = ask(optimizer, targets)
    assert problem.survives(candidates).all()
    assert optimizer.skip_visited
    assert optimizer.use_retokenize
    start = problem.encode(START)
    assert not (candidates == start).all(dim=1).any()


def test_lowers_the_loss_of_a_target_of_other_weights(model, loss, targets):
    optimizer = build(model, loss, seed=0, num_steps=10, proxy_model=TinyLM(seed=1))
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1
    assert torch.isfinite(torch.tensor(result.losses)).all()


def test_filter_needs_losses_of_the_proxy(model, loss):
    from pellucid.core import BaseModel, GradientTokenAccessMixin

    class GradientOnly(BaseModel, GradientTokenAccessMixin):
        tokenizer = None

        def __call__(self):
            raise AssertionError

        device = set_inputs_from_tokens = invoke_from_tokens = compute_grad_from_tokens = __call__

    with pytest.raises(RequirementError, match="PALOptimizer requires LossTokenAccessMixin"):
        build(model, loss, proxy_model=GradientOnly(), n_candidates_after_proxy_filter=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"candidate_selection": "focused"}, "one of gradient, random, got 'focused'"),
        ({"n_candidates_after_proxy_filter": 0}, "n_candidates_after_proxy_filter"),
        ({"sample_n_replace": 0}, "sample_n_replace"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        build(model, loss, **setting)

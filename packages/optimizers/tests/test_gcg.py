import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import (
    LMBaseModel,
    LossTextAccessMixin,
    ModelOutput,
    NotDifferentiableError,
    RequirementError,
    select_topk,
)
from pellucid.optimizers import GCGOptimizer, SearchState, StepRandom, TokenConstraints

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(START)
    return problem, optimizer.start(problem, ids, 0.0)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.booleans(), st.integers(1, 3))
def test_candidates_obey_constraints_topk_and_flips(
    model, loss, targets, seed, ascii_only, n_replace
):
    optimizer = GCGOptimizer(
        model,
        loss,
        n_candidates=32,
        sample_topk=5,
        sample_n_replace=n_replace,
        token_constraints=TokenConstraints(disallow_non_ascii=ascii_only),
    )
    problem, state = prepare(optimizer, targets)
    candidates = optimizer.ask(problem, state, StepRandom(seed, 1))
    allowed = set(problem.allowed_ids(optimizer.token_constraints).tolist())
    grad = optimizer.model.compute_grad_from_tokens(optimizer.loss, state.trigger_ids[None])
    offered = select_topk(grad, 5, problem.allowed_ids(optimizer.token_constraints)).token_ids[0]
    changed = candidates != state.trigger_ids
    assert (changed.sum(dim=1) <= n_replace).all()
    assert {int(i) for i in candidates[changed]} <= allowed
    for row, position in changed.nonzero().tolist():
        assert candidates[row, position] in offered[position]
    assert problem.survives(candidates).all()


def test_filter_off_lets_merging_tokens_through(model, loss, targets):
    optimizer = GCGOptimizer(
        model, loss, n_candidates=400, sample_topk=60, sample_n_replace=2, use_retokenize=False
    )
    problem, state = prepare(optimizer, targets)
    candidates = optimizer.ask(problem, state, StepRandom(0, 1))
    assert len(candidates) == 400
    assert not problem.survives(candidates).all()


def test_step_moves_to_the_best_candidate_even_uphill(model, loss):
    optimizer = GCGOptimizer(model, loss, sample_topk=8)
    candidates = torch.tensor([[1, 2], [3, 4], [5, 6]])
    state = SearchState(trigger_ids=torch.tensor([9, 9]), loss=0.1)
    moved = optimizer.tell(state, candidates, torch.tensor([0.5, 0.2, 0.9]))
    assert moved.trigger_ids.tolist() == [3, 4]
    assert moved.loss == pytest.approx(0.2)


def test_loss_of_each_step_is_the_loss_of_its_trigger(model, loss, targets):
    optimizer = GCGOptimizer(model, loss, seed=1, num_steps=4, n_candidates=32, sample_topk=16)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    model.set_inputs_from_texts(TEMPLATES, targets)
    again = model.compute_loss_from_texts(result.trigger_strs, loss)
    torch.testing.assert_close(again, torch.tensor(result.losses), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_gcg_beats_its_start_clearly(model, loss, targets, seed):
    optimizer = GCGOptimizer(model, loss, seed=seed, num_steps=15, n_candidates=64, sample_topk=32)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1
    assert result.tokenization_gap == 0


class TextOnlyLM(LMBaseModel, LossTextAccessMixin):
    def invoke_from_texts(self, input_texts, **kwargs):
        return ModelOutput(generated_response_strs=list(input_texts))


def test_model_without_gradients_is_refused_by_name(loss):
    message = r"GCGOptimizer requires GradientTokenAccessMixin, which TextOnlyLM .*LMHFModel"
    with pytest.raises(RequirementError, match=message) as error:
        GCGOptimizer(TextOnlyLM(), loss)
    assert isinstance(error.value, (AssertionError, TypeError))


def test_loss_without_gradient_is_refused(model, loss):
    class Steep(type(loss)):
        is_differentiable = False

    with pytest.raises(NotDifferentiableError, match=r"Steep has none.*RandomSearchOptimizer"):
        GCGOptimizer(model, Steep())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"n_candidates": -1}, "n_candidates"),
        ({"n_candidates": 1.5}, "n_candidates"),
        ({"sample_n_replace": 0}, "sample_n_replace"),
        ({"sample_topk": 10_000}, "sample_topk=10000 exceeds the vocabulary"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        GCGOptimizer(model, loss, **{"sample_topk": 8, **setting})


@pytest.mark.usefixtures("unchecked")
def test_missing_loss_is_refused(model):
    with pytest.raises(RequirementError, match="needs a loss"):
        GCGOptimizer(model, None)

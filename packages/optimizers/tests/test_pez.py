import pytest
import torch

from pellucid.core import ModelOutput, RequirementError
from pellucid.optimizers import PEZOptimizer, StepRandom, TokenConstraints
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def take_step(optimizer, problem, state, step=1):
    moves = optimizer.step(problem, state, StepRandom(0, step))
    candidates = next(moves)
    with pytest.raises(StopIteration) as done:
        moves.send(problem.compute_losses(candidates))
    return candidates, done.value.value


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 1.0)


def test_steps_are_those_of_a_plain_loop(model, loss, targets):
    optimizer = PEZOptimizer(model, loss, lr=20.0, weight_decay=0.01)
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(optimizer.token_constraints)
    table = model.embedding_matrix.detach()

    def project(point):
        cosines = torch.nn.functional.cosine_similarity(point[:, None], table[allowed], dim=-1)
        return allowed[cosines.argmax(dim=-1)]

    point = table[problem.encode(START)].clone()
    for step in range(1, 5):
        _, state = take_step(optimizer, problem, state, step)
        grad = model.compute_grad_from_embeds(loss, table[project(point)][None])[0]
        point = point - 20.0 * (grad + 0.01 * point)
        torch.testing.assert_close(state.point, point)
        assert torch.equal(state.trigger_ids, project(point))
        exact = model.compute_loss_from_tokens(project(point)[None], loss)
        assert state.loss == pytest.approx(float(exact[0]))


def test_only_allowed_tokens_are_evaluated_whatever_the_start(model, loss, targets):
    constraints = TokenConstraints(disallow_custom_token_ids=list(range(40, 128)))
    optimizer = PEZOptimizer(model, loss, lr=30.0, token_constraints=constraints)
    problem, state = prepare(optimizer, targets)
    allowed = set(problem.allowed_ids(constraints).tolist())
    assert not set(state.trigger_ids.tolist()) <= allowed
    for step in range(1, 6):
        candidates, state = take_step(optimizer, problem, state, step)
        assert set(candidates.flatten().tolist()) <= allowed


def test_without_descent_nothing_moves(model, loss, targets):
    optimizer = PEZOptimizer(model, loss, lr=1e-30)
    problem, state = prepare(optimizer, targets)
    candidates, after = take_step(optimizer, problem, state)
    assert torch.equal(candidates[0], state.trigger_ids)
    assert torch.equal(after.point, state.point)


def test_point_is_float32_on_a_half_model(loss, targets):
    optimizer = PEZOptimizer(TinyLM(seed=0, dtype=torch.bfloat16), loss, lr=1e-4)
    problem, state = prepare(optimizer, targets)
    _, after = take_step(optimizer, problem, state)
    assert after.point.dtype == torch.float32
    # Such a step is lost between two bfloat16 numbers.
    assert not torch.equal(after.point, state.point)
    assert torch.equal(after.point.bfloat16(), state.point.bfloat16())


def test_lowers_the_loss(model, loss, targets):
    optimizer = PEZOptimizer(model, loss, num_steps=30, lr=30.0, weight_decay=0.001)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.1


def test_loss_that_reads_token_ids_is_refused(model, loss):
    class Reader(type(loss)):
        def __call__(self, prefill_response_logits, target_response_toks, input_ids):
            raise AssertionError

    with pytest.raises(RequirementError, match=r"'input_ids', which TinyLM .*'embeds'"):
        PEZOptimizer(model, Reader())


def test_model_without_embeddings_is_refused(loss):
    from pellucid.core import LMBaseModel, LossTextAccessMixin

    class TextOnly(LMBaseModel, LossTextAccessMixin):
        def invoke_from_texts(self, input_texts, **kwargs):
            return ModelOutput(generated_response_strs=list(input_texts))

    with pytest.raises(RequirementError, match="GradientEmbedAccessMixin"):
        PEZOptimizer(TextOnly(), loss)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0}, "lr must be"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"num_steps": 0}, "num"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        PEZOptimizer(model, loss, **setting)

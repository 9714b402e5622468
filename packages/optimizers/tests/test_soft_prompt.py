from typing import ClassVar

import pytest
import torch

from pellucid.core import (
    BaseModel,
    Flow,
    GradientEmbedAccessMixin,
    NotDifferentiableError,
    OptimizerResult,
)
from pellucid.optimizers import DictTracker, SoftPromptOptimizer, TokenConstraints
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def optimize(model, loss, targets, **settings):
    optimizer = SoftPromptOptimizer(model, loss, **settings)
    return optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)


def test_descent_is_adam_on_the_embeddings(model, loss, targets):
    result = optimize(model, loss, targets, num_steps=3, lr=0.03)
    model.set_inputs_from_tokens(TEMPLATES, targets)
    point = model.embedding_matrix.detach()[model.encode_trigger(START)].double()
    first, second, losses = torch.zeros_like(point), torch.zeros_like(point), []
    for t in range(1, 5):
        grads, value = model.compute_grad_from_embeds(loss, point[None].float(), return_loss=True)
        losses.append(float(value[0]))
        first = 0.9 * first + 0.1 * grads[0]
        second = 0.999 * second + 0.001 * grads[0].square()
        ascent = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        point = point - 0.03 * ascent
    assert [result.initial_loss, *result.losses] == pytest.approx(losses, abs=1e-5)


def test_best_embeddings_have_the_best_loss_and_no_text(model, loss, targets):
    result = optimize(model, loss, targets, num_steps=8, lr=0.5)
    assert result.best_loss == min([result.initial_loss, *result.losses])
    model.set_inputs_from_tokens(TEMPLATES, targets)
    _, exact = model.compute_grad_from_embeds(loss, result.best_trigger_emb[None], return_loss=True)
    assert float(exact[0]) == pytest.approx(result.best_loss)
    assert (result.best_trigger_ids, result.best_trigger_str) == (None, None)
    assert (result.verified_loss, result.tokenization_gap) == (None, None)


def test_result_survives_the_disk(model, loss, targets, tmp_path):
    result = optimize(model, loss, targets, num_steps=2)
    result.save(tmp_path / "result.json")
    back = OptimizerResult.load(tmp_path / "result.json")
    assert torch.equal(back.best_trigger_emb, result.best_trigger_emb)


def test_steps_name_the_nearest_allowed_tokens(model, loss, targets):
    constraints = TokenConstraints(disallow_custom_token_ids=list(range(60, 128)))
    optimizer = SoftPromptOptimizer(
        model, loss, DictTracker(), num_steps=3, token_constraints=constraints
    )
    optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    allowed = set(constraints.get_whitelist_ids(model.tokenizer).tolist())
    for record in optimizer.tracker.records:
        assert set(model.tokenizer.encode(record["trigger"])) & allowed
        assert " the" not in record["trigger"]


def test_lowers_the_loss_further_than_tokens_could_round(model, loss, targets):
    result = optimize(model, loss, targets, num_steps=60, lr=0.05)
    assert result.best_loss < result.initial_loss - 0.5


def test_master_copy_is_float32_on_a_half_model(loss, targets):
    model = TinyLM(seed=0, dtype=torch.bfloat16)
    result = optimize(model, loss, targets, num_steps=3, lr=1e-5)
    assert result.best_trigger_emb.dtype == torch.float32
    assert all(map(torch.isfinite, torch.tensor(result.losses)))


def test_no_loss_of_tokens_is_asked_for(loss, targets, monkeypatch):
    model = TinyLM(seed=0)

    def fail(*args, **kwargs):
        raise AssertionError("a soft prompt needs gradients at embeddings, and nothing else")

    for name in ("compute_loss_from_tokens", "compute_loss_from_texts", "compute_grad_from_tokens"):
        monkeypatch.setattr(model, name, fail)
    assert len(optimize(model, loss, targets, num_steps=2).losses) == 2


class EmbedOnlyLM(BaseModel, GradientEmbedAccessMixin):
    """A model that offers the one access, by means of another that offers all."""

    provides: ClassVar = {Flow.EMBEDS: TinyLM.provides[Flow.EMBEDS]}

    def __init__(self):
        self._inner = TinyLM(seed=0)

    @property
    def device(self):
        return self._inner.device

    @property
    def tokenizer(self):
        return self._inner.tokenizer

    @property
    def vocab_size(self):
        return self._inner.vocab_size

    @property
    def embedding_matrix(self):
        return self._inner.embedding_matrix

    def set_inputs_from_tokens(self, templates, targets=None):
        self._inner.set_inputs_from_tokens(templates, targets)
        self._token_input_manager = self._inner._token_input_manager

    def __call__(self, *args, **kwargs):
        return self._inner(*args, **kwargs)

    def invoke_from_tokens(self, input_ids=None, *args, **kwargs):
        return self._inner.invoke_from_tokens(input_ids, *args, **kwargs)

    def compute_grad_from_embeds(self, loss_func, candidate_trigger_embeds, **kwargs):
        return self._inner.compute_grad_from_embeds(loss_func, candidate_trigger_embeds, **kwargs)


def test_gradients_at_embeddings_are_enough(model, loss, targets):
    found = optimize(EmbedOnlyLM(), loss, targets, num_steps=3)
    assert found.losses == optimize(model, loss, targets, num_steps=3).losses


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("setting", [{"lr": 0.0}, {"num_steps": -1}, {"lr": "fast"}])
def test_senseless_settings_are_refused(model, loss, setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        SoftPromptOptimizer(model, loss, **setting)


def test_unknown_setting_and_loss_without_gradient_are_refused(model, loss):
    class Steep(type(loss)):
        is_differentiable = False

    with pytest.raises(NotDifferentiableError, match="Steep has none"):
        SoftPromptOptimizer(model, Steep())
    with pytest.raises(TypeError, match="momentum"):
        SoftPromptOptimizer(model, loss, momentum=0.9)

"""Laws of gradients: they are those of the loss, and one flow's are the other's."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    Flow,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InputsNotSetError,
    PellucidError,
    RequirementError,
    select_topk,
)
from pellucid.testing._flows import TokenFlow
from pellucid.testing._laws import change_loss, expect, expect_close, lack, require_access
from pellucid.testing._model_laws import ModelLaws

_N_CANDIDATES = 3
_N_DIRECTIONS = 4
_K = 8

# How far a finite difference reaches, relative to the point, and how far it may be off: the square
# of the step, or what rounding leaves of a difference that small.
_STEPS = {torch.float64: (1e-5, 1e-6), torch.float32: (1e-2, 3e-2)}


class GradientLaws(ModelLaws):
    """Gradients of the loss with regard to tokens and to embeddings."""

    def test_token_gradient_is_the_slope_of_the_loss(self) -> None:
        """Gradients at one-hot tokens equal finite differences of the loss."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        self._needs_argument(model, "return_loss")
        point = torch.nn.functional.one_hot(ids, model.vocab_size).to(self._dtype(model))

        def slope(probs: Tensor) -> tuple[Tensor, Tensor]:
            return model.compute_grad_from_tokens(
                loss, candidate_trigger_probs=probs, return_loss=True
            )

        grad, _ = slope(point)
        exact = model.compute_grad_from_tokens(loss, ids)
        self._same(grad, exact, "One-hot weights have another gradient than the tokens they are.")
        self._check_slope(slope, point)

    def test_embedding_gradient_is_the_slope_of_the_loss(self) -> None:
        """Gradients at embeddings equal finite differences of the loss."""
        model, loss, ids = self._prepare_gradients(GradientEmbedAccessMixin, Flow.EMBEDS)

        def slope(embeds: Tensor) -> tuple[Tensor, Tensor]:
            return model.compute_grad_from_embeds(loss, embeds, return_loss=True)

        self._check_slope(slope, self._embed(model, ids))

    def test_token_gradient_is_the_embedding_gradient_projected(self) -> None:
        """The gradient at tokens is that at embeddings times the embedding matrix."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        require_access(model, GradientEmbedAccessMixin)
        if not self._provides_for(model, Flow.EMBEDS, loss):
            lack(model, f"does not provide for {type(loss).__name__} in the flow 'embeds'")
        matrix = model.embedding_matrix
        by_token = model.compute_grad_from_tokens(loss, ids)
        by_embedding = model.compute_grad_from_embeds(loss, self._embed(model, ids))
        projected = by_embedding.to(by_token.dtype) @ matrix.to(by_token.dtype).mT
        self._same(by_token, projected, "The gradient at tokens is not that at embeddings.")

    def test_gradients_have_one_value_for_each_token(self) -> None:
        """The gradient at tokens has the shape (n_candidates, trigger_pos, d_vocab), finite."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        grad = model.compute_grad_from_tokens(loss, ids)
        wanted = (*ids.shape, model.vocab_size)
        expect(grad.shape == wanted, f"{tuple(grad.shape)}, expected {wanted}.")
        expect(bool(grad.isfinite().all()), "the gradient is not finite.")
        expect(not grad.requires_grad, "the gradient carries a graph.")
        expect(bool((grad != 0).any()), "the gradient is 0 everywhere.")

    def test_gradient_of_a_candidate_is_its_own(self) -> None:
        """A candidate's gradient depends neither on the others nor on the batch size."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        together = model.compute_grad_from_tokens(loss, ids)
        model._backward_pass_batch_size = 1
        chunked = model.compute_grad_from_tokens(loss, ids)
        self._same(chunked, together, "Chunks of 1 have another gradient.")
        alone = torch.cat([model.compute_grad_from_tokens(loss, row[None]) for row in ids])
        self._same(alone, together, "A candidate alone has another gradient.")

    def test_losses_beside_the_gradient_are_the_losses(self) -> None:
        """With `return_loss`, the losses are those that are computed without gradients."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        self._needs_argument(model, "return_loss")
        _, losses = model.compute_grad_from_tokens(loss, ids, return_loss=True)
        wanted = TokenFlow(model).compute(ids, loss)
        self._same(losses, wanted, "The losses beside the gradient are others.")

    def test_gradients_scale_with_the_loss(self) -> None:
        """Twice the loss has twice the gradient."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        grad = model.compute_grad_from_tokens(loss, ids)
        double = model.compute_grad_from_tokens(change_loss(loss, lambda values: 2 * values), ids)
        self._same(double, 2 * grad, "Twice the loss does not have twice the gradient.")

    def test_topk_is_the_lowest_of_the_gradient(self) -> None:
        """`compute_topk_from_tokens` names the tokens of lowest gradient, lowest first."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        grad = model.compute_grad_from_tokens(loss, ids)
        self._check_topk(model.compute_topk_from_tokens(loss, ids, _K), grad, None)

    def test_topk_of_an_averaged_gradient(self) -> None:
        """The candidates' gradients may be brought to one length, averaged, or both, before."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        grad = model.compute_grad_from_tokens(loss, ids)
        unit = grad / grad.norm(dim=-1, keepdim=True)
        mean, unit_mean = (held.mean(dim=0, keepdim=True) for held in (grad, unit))
        for wanted, options in (
            (mean, {"average": True}),
            (unit, {"normalize": True}),
            (unit_mean, {"average": True, "normalize": True}),
        ):
            self._check_topk(model.compute_topk_from_tokens(loss, ids, _K, **options), wanted, None)

    def test_topk_keeps_to_the_allowed_tokens(self) -> None:
        """With `allowed_ids`, the lowest among those are named."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        allowed = torch.arange(1, model.vocab_size, 2)
        found = model.compute_topk_from_tokens(loss, ids, _K, allowed)
        expect(bool((found.token_ids % 2 == 1).all()), "tokens that are not allowed are named.")
        self._check_topk(found, model.compute_grad_from_tokens(loss, ids), allowed)

    def test_topk_refuses_more_than_there_is(self) -> None:
        """More tokens than there are to choose from cannot be named."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        for k in (0, model.vocab_size + 1):
            with pytest.raises(PellucidError):
                model.compute_topk_from_tokens(loss, ids, k)

    def test_losses_without_gradient_are_refused(self) -> None:
        """The gradient of a loss that says it has none is an error, not zeros."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        flat = change_loss(loss, lambda values: values.detach())
        type(flat).is_differentiable = False
        with pytest.raises((RequirementError, ValueError)):
            model.compute_grad_from_tokens(flat, ids)

    def test_gradients_need_inputs(self) -> None:
        """Gradients before templates are set are an error that says so."""
        model = self._model()
        require_access(model, GradientTokenAccessMixin)
        loss = self._probe(model, Flow.TOKENS, differentiable=True)
        model.reset_inputs_from_tokens()
        with pytest.raises(InputsNotSetError):
            model.compute_grad_from_tokens(loss, TokenFlow(model).make_candidates(1))

    def test_backward_passes_are_counted(self) -> None:
        """Each candidate in each template counts as a sample with a gradient."""
        model, loss, ids = self._prepare_gradients(GradientTokenAccessMixin, Flow.TOKENS)
        model.compute_grad_from_tokens(loss, ids)  # what is prepared at first is not counted here
        model.reset_usage_stats()
        model.compute_grad_from_tokens(loss, ids)
        stats = model.get_usage_stats()
        due = len(ids) * len(self.templates)
        expect(stats["grad_samples"] == due, f"{due} gradients counted as {stats}.")
        expect(1 <= stats["grad_calls"] <= due, f"{due} gradients counted as {stats}.")

    def _prepare_gradients(self, access: type, flow: Flow) -> tuple[Any, BaseLoss, Tensor]:
        """Return the model with inputs set, a differentiable loss, and candidates."""
        model = self._model()
        require_access(model, access)
        loss = self._probe(model, flow, differentiable=True)
        model.set_inputs_from_tokens(list(self.templates), self.make_targets(model))
        return model, loss, TokenFlow(model).make_candidates(_N_CANDIDATES)

    def _check_slope(self, slope: Callable[[Tensor], tuple[Tensor, Tensor]], point: Tensor) -> None:
        """Hold gradients against finite differences in random directions."""
        if point.dtype not in _STEPS:
            lack(self, f"has a model in {point.dtype}, too coarse for finite differences")
        step, tolerance = _STEPS[point.dtype]
        grad, _ = slope(point)
        generator = torch.Generator().manual_seed(0)
        size = point.detach().double().pow(2).mean().sqrt().to(point.dtype)
        for _ in range(_N_DIRECTIONS):
            noise = torch.randn(point.shape, generator=generator, dtype=torch.float64)
            direction = size * noise.to(point)
            ahead, behind = (slope(point + s * step * direction)[1] for s in (1, -1))
            difference = (ahead - behind).double() / (2 * step)
            exact = (grad.double() * direction.double()).sum(dim=(-2, -1))
            typical = (grad.double().norm(dim=(-2, -1)) * size.double()).clamp(min=1e-12)
            expect_close(
                exact / typical,
                difference.to(exact) / typical,
                "The gradient is not the slope of the loss.",
                tolerance=tolerance,
            )

    def _check_topk(self, found: Any, grad: Tensor, allowed: Tensor | None) -> None:
        wanted = select_topk(grad, _K, allowed)
        expect(found.token_ids.shape == wanted.token_ids.shape, "the shape is not (.., .., k).")
        # Tokens of one gradient may come in any order, so their gradients are compared.
        chosen = grad.gather(-1, found.token_ids.to(grad.device))
        self._same(chosen, wanted.scores, "The tokens named do not have the lowest gradients.")
        expect(
            all(len(set(row)) == _K for rows in found.token_ids.tolist() for row in rows),
            "a token is named twice.",
        )
        # Scores may leave out what all tokens of a position share.
        steps = found.scores.double().diff(dim=-1).to(chosen.device)
        self._same(steps, chosen.double().diff(dim=-1), "Scores are not changes of the loss.")

    def _needs_argument(self, model: Any, name: str) -> None:
        if name not in inspect.signature(model.compute_grad_from_tokens).parameters:
            lack(model, f"has no {name} in compute_grad_from_tokens")

    def _dtype(self, model: Any) -> torch.dtype:
        matrix = getattr(model, "embedding_matrix", None)
        return torch.float32 if matrix is None else matrix.dtype

"""Metrics that count: averages, rows and tokens that are right, and nats per token."""

import torch
from jaxtyping import Bool, Float, Integer, Num
from torch import Tensor
from torchmetrics import Metric

from pellucid.core import ArgumentError


class MeanMetricWithComputedValue(Metric):
    """A weighted average that also holds what each sample of the last batch had."""

    is_differentiable = False
    full_state_update = False

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self._last: Tensor | None = None

    @property
    def computed_value(self) -> list[float] | None:
        """The value of each sample of the last batch; None if it had one for all together."""
        return None if self._last is None or self._last.ndim == 0 else self._last.tolist()

    def update(self, value: Num[Tensor, "*rest"], weight: Num[Tensor, "*rest"] | float = 1) -> None:
        """Count values.

        Args:
            value: One of a batch, or one per sample.
            weight: Of the value, or of each of them.
        """
        values = value.detach()
        if values.ndim == 0 and (not isinstance(weight, Tensor) or weight.ndim == 0):
            # What every training step counts: two numbers, without making tensors of them.
            self._last = values
            self.total = self.total + values * weight
            self.weight = self.weight + weight
            return
        weights = torch.as_tensor(weight, device=values.device).expand_as(values)
        self._last = values
        self.total = self.total + (values * weights).sum()
        self.weight = self.weight + weights.sum()

    def compute(self) -> Tensor:
        """Return the average of everything since the last reset, float32; NaN of nothing."""
        return (self.total / self.weight).float()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._last = None


class ExactMatch(MeanMetricWithComputedValue):
    """The share of rows whose every token is right."""

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]  # its own inputs
        self, pred: Integer[Tensor, "batch pos"], target: Integer[Tensor, "batch pos"]
    ) -> None:
        """Count rows; both are compared whole, so bring them to one width first.

        Raises:
            ArgumentError: They have different shapes.
        """
        _check_shapes(pred, target)
        super().update((pred == target).all(dim=1).float())


class TokenAccuracy(MeanMetricWithComputedValue):
    """The share of tokens that are right, of those that are asked for."""

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]  # its own inputs
        self,
        pred: Integer[Tensor, "batch pos"],
        target: Integer[Tensor, "batch pos"],
        pred_mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Count tokens.

        Args:
            pred: Token ids.
            target: What they should be.
            pred_mask: Which of them count; all if None.

        Raises:
            ArgumentError: They have different shapes.
        """
        _check_shapes(pred, target)
        mask = torch.ones_like(pred, dtype=torch.bool) if pred_mask is None else pred_mask
        _check_shapes(mask, target)
        counts = mask.sum(dim=1)
        right = ((pred == target) & mask).sum(dim=1)
        super().update(right / counts.clamp(min=1), weight=counts)


class NatsPerToken(Metric):
    """The negative log-likelihood of a token, or a bound on it, over all tokens of all rows."""

    is_differentiable = False
    full_state_update = False

    nats: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Float[Tensor, " batch"], tokens: Integer[Tensor, " batch"]) -> None:
        """Count rows.

        Args:
            nats: Negative log-likelihood of each row, or a bound on it.
            tokens: How many tokens it is about.
        """
        self.nats = self.nats + nats.detach().double().sum()
        self.tokens = self.tokens + tokens.sum()

    def compute(self) -> Tensor:
        """Return the nats per token of everything since the last reset, float32; NaN of nothing."""
        return (self.nats / self.tokens).float()


class Perplexity(NatsPerToken):
    """The exponential of the nats per token, over all tokens of all rows."""

    def compute(self) -> Tensor:
        """Return the perplexity of everything since the last reset, float32; NaN of nothing."""
        return torch.exp(self.nats / self.tokens).float()


def _check_shapes(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape:
        raise ArgumentError(
            f"predictions have the shape {tuple(pred.shape)} and targets {tuple(target.shape)}; "
            "bring them to one width (an update function does)"
        )

"""An exponential moving average of the weights, used wherever a model is evaluated."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pellucid.core import ArgumentError, CheckpointError

_KEY = "ema"

# One kernel for many weights; what torch's own optimizers are made of.
_FOREACH_LERP: Any = getattr(torch, "_foreach_lerp_")  # noqa: B009
_FOREACH_COPY: Any = getattr(torch, "_foreach_copy_")  # noqa: B009


class EMACallback(Callback):
    """Keeps the average after every optimizer step, and evaluates and predicts with it.

    The average starts at the weights before the first step. Its own copy of the trainable weights
    costs memory once; an update is a handful of fused operations, without a host sync.

    Args:
        decay: Share of the old average that a step keeps.
        use_num_updates: Keep less in the first steps: at most (1 + n) / (10 + n) in step n.
        apply_ema_at_train_end: Leave the average in the model when training ends.

    Raises:
        ArgumentError: `decay` lies outside [0, 1].
    """

    def __init__(
        self,
        decay: float = 0.9999,
        *,
        use_num_updates: bool = True,
        apply_ema_at_train_end: bool = False,
    ) -> None:
        if not 0.0 <= decay <= 1.0:
            raise ArgumentError(f"decay must lie in [0, 1], got {decay!r}")
        self.decay = decay
        self.use_num_updates = use_num_updates
        self.apply_ema_at_train_end = apply_ema_at_train_end
        self._average: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []
        self._raw: list[Tensor] | None = None
        self._num_updates = 0
        self._step = 0

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights by the names of the model's parameters."""
        return self._average

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start at the weights of now, or move what a checkpoint held to the model's device."""
        trained = _trained(pl_module)
        held = self._average
        if held and held.keys() != trained.keys():
            odd = sorted(held.keys() ^ trained.keys())
            raise CheckpointError(
                f"the checkpoint averages other weights than the model has, such as {odd[0]!r}; "
                "resume with the configuration that it was made with"
            )
        source = held or {name: weight.detach() for name, weight in trained.items()}
        self._average = {
            name: source[name].to(weight.device, weight.dtype, copy=True)
            for name, weight in trained.items()
        }
        # The optimizer changes weights in place, so these stay what they are.
        self._weights = [weight.detach() for weight in trained.values()]
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average the weights in, if the optimizer made a step."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._num_updates += 1
        decay = self.decay
        if self.use_num_updates:
            decay = min(decay, (1 + self._num_updates) / (10 + self._num_updates))
        _FOREACH_LERP(list(self._average.values()), self._weights, 1.0 - decay)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave the average in the model if that was asked for."""
        del trainer
        if self.apply_ema_at_train_end and self._average:
            copy_weights(pl_module, self._average)

    def _enter(self, pl_module: nn.Module) -> None:
        if self._average and self._raw is None:
            self._raw = [weight.detach().clone() for weight in _trained(pl_module).values()]
            copy_weights(pl_module, self._average)

    def _leave(self, pl_module: nn.Module) -> None:
        if self._raw is not None:
            copy_weights(pl_module, dict(zip(_trained(pl_module), self._raw, strict=True)))
            self._raw = None

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Validate with the average."""
        del trainer
        self._enter(pl_module)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Go on with the raw weights."""
        del trainer
        self._leave(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Give the raw weights back when an evaluation breaks off."""
        del trainer, exception
        self._leave(pl_module)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep the average beside the weights, and raw weights as the weights."""
        del trainer
        checkpoint[_KEY] = {"average": self._average, "num_updates": self._num_updates}
        if self._raw is not None:
            raw = dict(zip(_trained(pl_module), self._raw, strict=True))
            for name, weight in raw.items():
                checkpoint["state_dict"][f"model.{name}"] = weight

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on from the average of a checkpoint; start anew from one that has none."""
        del trainer, pl_module
        held = checkpoint.get(_KEY)
        if held:
            self._average = held["average"]
            self._num_updates = held["num_updates"]


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the averaged weights that a checkpoint holds, or None."""
    held = checkpoint.get(_KEY)
    return held["average"] if held and held["average"] else None


@torch.no_grad()
def copy_weights(pl_module: nn.Module, source: dict[str, Tensor]) -> None:
    """Write weights into the model of a harness, in place."""
    trained = _trained(pl_module)
    _FOREACH_COPY([weight.data for weight in trained.values()], [source[name] for name in trained])


def _trained(pl_module: nn.Module) -> dict[str, nn.Parameter]:
    model: Any = pl_module.model
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


__all__ = ["EMACallback", "averaged_weights", "copy_weights"]

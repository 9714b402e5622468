"""A metric, and how to get from a family's batch and output to what it counts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from pellucid.core import ArgumentError
from pellucid.xlm._preprocessing import resolve_callable


class MetricWrapper(nn.Module):
    """Feeds a metric from batches and outputs, by a function that knows both.

    Args:
        name: Of the metric.
        metric: What counts.
        update_fn: Called as `f(batch, output, tokenizer, **pass_to_update_fn)`; returns the
            arguments of the metric's `update`. May be given by its dotted name.
        prefix: Such as "val/lm"; the metric is logged as "prefix/name".
        on_step: Log it for each batch.
        on_epoch: Log it for each epoch.
        prog_bar: Show it in the progress bar.
        add_dataloader_idx: Add the number of the loader to its name.
        **pass_to_update_fn: Settings of the update function.

    Raises:
        ArgumentError: There is no update function, or nothing of its name.
    """

    def __init__(
        self,
        name: str,
        metric: Metric,
        update_fn: Callable[..., Mapping[str, Any]] | str,
        prefix: str = "",
        *,
        on_step: bool = False,
        on_epoch: bool = True,
        prog_bar: bool = False,
        add_dataloader_idx: bool = False,
        **pass_to_update_fn: Any,
    ) -> None:
        super().__init__()
        resolved = resolve_callable(update_fn)
        if resolved is None:
            raise ArgumentError(f"the metric {name!r} has no update_fn; name one")
        self.name = name
        self.metric = metric
        self.prefix = prefix
        self.on_step = on_step
        self.on_epoch = on_epoch
        self.prog_bar = prog_bar
        self.add_dataloader_idx = add_dataloader_idx
        self._update_fn = resolved
        self._settings = pass_to_update_fn

    @property
    def log_name(self) -> str:
        """What the metric is logged as."""
        return f"{self.prefix}/{self.name}" if self.prefix else self.name

    @property
    def computed_value(self) -> list[float] | None:
        """The value of each sample of the last batch, where the metric has one."""
        return getattr(self.metric, "computed_value", None)

    @torch.no_grad()
    def update(self, batch: Any, output: Any, tokenizer: Any = None) -> None:
        """Count a batch.

        Args:
            batch: As the family's collator made it.
            output: What the loss or the predictor made of it.
            tokenizer: Of the run.
        """
        self.metric.update(**self._update_fn(batch, output, tokenizer, **self._settings))

    def compute(self) -> Any:
        """Return the value of everything since the last reset."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget everything."""
        self.metric.reset()

    def log(self, pl_module: Any, batch_size: int | None = None) -> None:
        """Let a Lightning module log the metric, which it then computes and resets itself."""
        pl_module.log(
            self.log_name,
            self.metric,
            on_step=self.on_step,
            on_epoch=self.on_epoch,
            prog_bar=self.prog_bar,
            add_dataloader_idx=self.add_dataloader_idx,
            batch_size=batch_size,
        )

"""Blocks of a harness's steps in turn with blocks of a plain loop; needs only Lightning and torch.

`xlm.py` hands the callback to this workspace's harness, and `xlm_peer.py` to xlm-core's.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning
import torch

# A multiple of the batches that a loader makes in a row, so that each block has its share of them.
STEPS_A_BLOCK = 16
# The first steps of a block do not count: what ran before has filled the caches with its own.
STEPS_BEFORE_A_BLOCK = 2


class Alternation(lightning.Callback):
    """Times blocks of the harness's steps, and runs a block of plain steps after each.

    The plain loop has a copy of the harness's model and loss, an optimizer with its settings, and
    batches that were collated beforehand.

    Args:
        pause: Called before or after each block of plain steps, untimed; training ends where it
            returns False.
        warm_up: Blocks that do not count.
    """

    def __init__(self, pause: Callable[[], bool] | None = None, *, warm_up: int = 2) -> None:
        self._pause = pause
        self._warm_up = warm_up
        self._count = self._n_steps = 0
        self._harness_s: list[float] = []
        self._plain_s: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Copy the model for the plain loop, and collate its batches."""
        self._loss = copy.copy(pl_module.loss_function)
        self._loss.model = copy.deepcopy(pl_module.model).train()
        self._loss.generator = torch.Generator(pl_module.device).manual_seed(0)
        decay = [w for _, w in self._loss.model.get_named_params_for_weight_decay()]
        rest = [w for _, w in self._loss.model.get_named_params_for_no_weight_decay()]
        groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
        fused = trainer.optimizers[0].defaults["fused"]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=fused)
        data = trainer.datamodule
        loader = iter(trainer.train_dataloader if data is None else data.train_dataloader())
        self._batches = [
            {name: _to(value, pl_module.device) for name, value in next(loader).items()}
            for _ in range(STEPS_A_BLOCK)
        ]

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two blocks of the harness, run one of the plain loop."""
        del pl_module, batch, batch_idx
        step = self._n_steps % (STEPS_BEFORE_A_BLOCK + STEPS_A_BLOCK)
        self._n_steps += 1
        if step == STEPS_BEFORE_A_BLOCK:
            self._mark = clock()
        if step:
            return
        if self._count > self._warm_up:
            self._harness_s.append((clock() - self._mark) / STEPS_A_BLOCK)
        # In turn, so that of each pair of blocks both come after a pause, or none.
        rests_first = self._count % 2 == 1
        if rests_first:
            self._rest(trainer)
        self._run_plain(STEPS_BEFORE_A_BLOCK)
        start = clock()
        self._run_plain(STEPS_A_BLOCK)
        if self._count > self._warm_up:
            self._plain_s.append((clock() - start) / STEPS_A_BLOCK)
        self._count += 1
        if not rests_first:
            self._rest(trainer)

    def _rest(self, trainer: Any) -> None:
        if self._pause is not None and not self._pause():
            trainer.should_stop = True

    def _run_plain(self, steps: int) -> None:
        for batch in self._batches[:steps]:
            self._optimizer.zero_grad()
            loss = self._loss(batch)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._loss.model.parameters(), 1.0)
            self._optimizer.step()

    def summary(self) -> dict[str, float]:
        """Return medians: milliseconds of both, and of the blocks' ratios."""
        pairs = list(zip(self._harness_s, self._plain_s, strict=False))
        return {
            "plain_ms": 1e3 * statistics.median(plain for _, plain in pairs),
            "harness_ms": 1e3 * statistics.median(harness for harness, _ in pairs),
            "ratio": statistics.median(harness / plain for harness, plain in pairs),
            "blocks": len(pairs),
        }


def clock() -> float:
    """Return seconds: of processor time, or by the clock where an accelerator does the work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value

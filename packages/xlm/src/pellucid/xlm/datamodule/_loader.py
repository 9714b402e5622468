"""A loader that goes on from the middle of an epoch as if it had never stopped."""

import copy
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pellucid.core import ArgumentError, CheckpointError
from pellucid.xlm._addresses import seed_at
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule._plan import BatchPlan
from pellucid.xlm.datamodule._rows import BlockRows, RowSource
from pellucid.xlm.datamodule._table import Table

_Address = tuple[int, int]

# Batches that are made in a row, without workers. Between two steps of a network, the processor has
# forgotten everything that making a batch needs: one at a time takes two to three times as long.
_AHEAD = 8


class BatchLoader:
    """Yields the collated batches of a plan, in order, from any position.

    A batch is a function of its address (seed, epoch, number, rank), its noise included: workers
    may make it ahead, and a run that is resumed sees the same batches as one that never stopped,
    with any number of workers. A pass over the loader is an epoch; the next pass is the next one.

    Args:
        source: Where the rows come from.
        plan: Which rows stand in which batch.
        collator: Makes a batch of rows. A copy is used, whose `generator`, if it has one, is
            seeded before each batch.
        num_workers: Processes that make batches ahead; 0 for none.
        cyclic: Go over the rows again and again in one pass, in a new order each time.
        fixed_epoch: Every pass is epoch 0, with the same order and noise: for evaluation.
        with_row_ids: Add `row_ids`, (batch,), to batches: the number of each row in its source.
        pin_memory: Copy batches to page-locked memory, where there is an accelerator.
        prefetch_factor: Batches that each worker makes ahead; 2 if None.
        persistent_workers: Keep the processes from one pass to the next.
    """

    def __init__(
        self,
        source: RowSource,
        plan: BatchPlan,
        collator: Callable[[list[dict[str, Any]]], Any],
        *,
        num_workers: int = 0,
        cyclic: bool = False,
        fixed_epoch: bool = False,
        with_row_ids: bool = False,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        if num_workers < 0:
            raise ArgumentError(f"num_workers is {num_workers!r}; give 0 or more")
        if plan.n_rows == 0:
            raise ArgumentError("the dataset has no rows; look at its filters and its split")
        self.plan = plan
        self.batch_size = plan.batch_size
        # More processes than cores make torch warn, and the batches are the same with fewer.
        self.num_workers = min(num_workers, os.cpu_count() or 1)
        self._cyclic = cyclic and plan.n_rows is not None
        self._fixed_epoch = fixed_epoch
        self._batches = _Batches(source, plan, collator, with_row_ids=with_row_ids)
        self._addresses = _Addresses()
        self._loader = self._open(pin_memory, prefetch_factor, persistent_workers)
        self._epoch = 0
        self._next = 0
        self._is_begun = False

    def __len__(self) -> int:
        n_batches = self.plan.n_batches()
        if n_batches is None or self._cyclic:
            message = "the rows do not end, so there is no number of batches"
            raise TypeError(message)
        return n_batches

    def __iter__(self) -> Iterator[Any]:
        if self._is_begun:
            # The last pass was left in the middle: what comes next is another one.
            self._epoch, self._next = self._epoch + 1, 0
        self._is_begun = True
        self._addresses.restart(self._remaining())
        for address, batch in self._loader:
            if batch is None:
                break
            self._epoch, self._next = address[0], address[1] + 1
            yield batch
        self._epoch, self._next, self._is_begun = self._epoch + 1, 0, False

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of an epoch; the position stays if it is that one already."""
        if epoch != self._epoch:
            self._epoch, self._next, self._is_begun = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its batches were yielded."""
        return {"epoch": self._epoch, "batch": self._next}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Begin the next pass at a position.

        Raises:
            CheckpointError: It is no position of this loader.
        """
        try:
            epoch, batch = int(state_dict["epoch"]), int(state_dict["batch"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{state_dict!r} is no position in the data; give epoch and batch"
            ) from error
        n_batches = self.plan.n_batches()
        if self._cyclic and n_batches:
            epoch, batch = epoch + batch // n_batches, batch % n_batches
        if epoch < 0 or batch < 0 or (n_batches is not None and batch > n_batches):
            raise CheckpointError(
                f"the position {dict(state_dict)!r} is not in epochs of {n_batches} batches; the "
                "run was made with other data or another batch size"
            )
        self._epoch, self._next, self._is_begun = epoch, batch, False

    def _remaining(self) -> Iterator[_Address]:
        n_batches = self.plan.n_batches()
        epoch, number = 0 if self._fixed_epoch else self._epoch, self._next
        while True:
            while n_batches is None or number < n_batches:
                yield epoch, number
                number += 1
            if not self._cyclic:
                return
            epoch, number = epoch + 1, 0

    def _open(self, pin_memory: bool, prefetch_factor: int | None, persistent_workers: bool) -> Any:
        if self.num_workers == 0:
            return _InProcess(self._batches, self._addresses)
        return DataLoader(
            self._batches,
            batch_size=None,
            sampler=self._addresses,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            pin_memory=pin_memory and torch.accelerator.is_available(),
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            # Without one of its own it would draw from torch's global generator.
            generator=torch.Generator(),
        )


class _Addresses:
    """What the next pass asks for; workers are sent one address at a time."""

    def __init__(self) -> None:
        self._remaining: Iterator[_Address] = iter(())

    def restart(self, remaining: Iterator[_Address]) -> None:
        self._remaining = remaining

    def __iter__(self) -> Iterator[_Address]:
        return self._remaining

    def __getstate__(self) -> dict[str, Any]:
        return {"_remaining": iter(())}


class _Batches(Dataset[Any]):
    """Makes the batch of an address; lives in each worker."""

    def __init__(
        self,
        source: RowSource,
        plan: BatchPlan,
        collator: Callable[[list[dict[str, Any]]], Any],
        *,
        with_row_ids: bool,
    ) -> None:
        self._source = source
        self._plan = plan
        self._with_row_ids = with_row_ids
        self._collator: Callable[[Any], Any] = copy.copy(collator)
        self._draws = hasattr(collator, "generator")
        if self._draws:
            # Made where it is used: a generator is not sent to workers.
            self._collator.generator = None  # pyright: ignore[reportFunctionMemberAccess]
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, address: _Address) -> tuple[_Address, Any]:
        """Return the address and its batch, which is None where the rows have come to an end."""
        epoch, number = address
        plan = self._plan
        if plan.n_rows is None and plan.world_size > 1 and not self._has_step(number):
            return address, None
        numbers = plan.batch(epoch, number, self._order_of(epoch))
        examples = self._read(numbers)
        if not examples or (plan.drop_last and len(examples) < plan.batch_size):
            return address, None
        if self._draws:
            seed = seed_at(plan.seed, "collator", epoch, number, plan.rank)
            generator = torch.Generator().manual_seed(seed)
            self._collator.generator = generator  # pyright: ignore[reportFunctionMemberAccess]
        batch = self._collator(examples)
        if self._with_row_ids and isinstance(batch, Mapping):
            # There are fewer examples than numbers where the rows have come to an end.
            batch = {**batch, "row_ids": torch.from_numpy(numbers[: len(examples)].copy())}
        return address, batch

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_order": None}

    def _read(self, numbers: np.ndarray) -> Sequence[dict[str, Any]]:
        """Return rows: for the collators of families, where it can be, as columns."""
        if isinstance(self._collator, Collator) and isinstance(self._source, (Table, BlockRows)):
            return self._source.select(numbers)
        return self._source.rows(numbers)

    def _has_step(self, number: int) -> bool:
        """Say whether rows of unknown number suffice for all ranks, which must end together."""
        return bool(self._source.rows([(number + 1) * self._plan.step_rows - 1]))

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._plan.order(epoch))
        return self._order[1]


class _InProcess:
    """What a `DataLoader` without workers does, some batches ahead."""

    def __init__(self, batches: _Batches, addresses: _Addresses) -> None:
        self._batches = batches
        self._addresses = addresses

    def __iter__(self) -> Iterator[tuple[_Address, Any]]:
        remaining = iter(self._addresses)
        while made := self._make(itertools.islice(remaining, _AHEAD)):
            yield from made

    def _make(self, addresses: Iterator[_Address]) -> list[tuple[_Address, Any]]:
        made: list[tuple[_Address, Any]] = []
        for address in addresses:
            made.append(self._batches[address])
            if made[-1][1] is None:
                # The rows have come to an end; whoever looks for more may look through all.
                break
        return made


def _as_it_is(batch: Any) -> Any:
    return batch

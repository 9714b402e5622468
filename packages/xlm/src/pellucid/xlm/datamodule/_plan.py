"""Which rows stand in which batch: a function of seed, epoch, batch and rank alone."""

from dataclasses import dataclass

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._addresses import seed_at


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batches of one rank.

    The batches of all ranks together are cut from one order of the rows, so that what is trained
    on in a step depends on the size of all batches together and not on how many ranks share them.

    Attributes:
        n_rows: How many rows there are; None if they do not end, or nobody knows.
        batch_size: Rows of a batch.
        shuffle: Permute the rows, in another way in each epoch.
        seed: Of the permutations.
        drop_last: Leave out a last batch that is not full.
        even: Give all ranks as many rows: the last batch is filled with rows from the beginning
            of the epoch. Otherwise each row stands once, and a rank may have a batch less.
        rank: Which one this is.
        world_size: How many there are.
    """

    n_rows: int | None
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    even: bool = True
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size is {self.batch_size!r}; a batch has at least one row")
        if not 0 <= self.rank < self.world_size:
            raise ArgumentError(f"rank is {self.rank!r} of {self.world_size!r}; give 0 or more")
        if self.shuffle and self.n_rows is None:
            raise ArgumentError(
                "rows without end cannot be permuted; give shuffle_buffer_size, or shuffle=False"
            )
        if self.n_rows is not None and self.n_rows < self.step_rows and self.drop_last:
            raise ArgumentError(
                f"{self.n_rows} rows do not fill one batch of {self.batch_size} on each of "
                f"{self.world_size} ranks, and drop_last is set; give a smaller batch_size"
            )

    @property
    def step_rows(self) -> int:
        """Rows of the batches of all ranks together."""
        return self.batch_size * self.world_size

    def n_batches(self) -> int | None:
        """Return how many batches this rank has in an epoch; None if there is no end."""
        if self.n_rows is None:
            return None
        full, rest = divmod(self.n_rows, self.step_rows)
        if self.drop_last or rest == 0:
            return full
        return full + (self.even or len(self._share(np.arange(rest))) > 0)

    def batch(self, epoch: int, number: int, order: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of a batch, int64.

        Args:
            epoch: Which epoch, from 0.
            number: Which batch of this rank in the epoch, from 0.
            order: What `order(epoch)` returns, where it is at hand.
        """
        start = number * self.step_rows
        if self.n_rows is None:
            return self._share(np.arange(start, start + self.step_rows))
        order = self.order(epoch) if order is None else order
        return self._share(order[start : start + self.step_rows], order)

    def order(self, epoch: int) -> np.ndarray:
        """Return all rows in the order of an epoch."""
        if self.n_rows is None or not self.shuffle:
            return np.arange(self.n_rows or 0)
        return np.random.default_rng(seed_at(self.seed, "order", epoch)).permutation(self.n_rows)

    def _share(self, step: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
        """Return what falls to this rank of the rows of a step."""
        if len(step) == self.step_rows:
            start = self.rank * self.batch_size
            return step[start : start + self.batch_size]
        if self.even and order is not None:
            step = np.concatenate([step, np.resize(order, -len(step) % self.world_size)])
        return np.array_split(step, self.world_size)[self.rank]

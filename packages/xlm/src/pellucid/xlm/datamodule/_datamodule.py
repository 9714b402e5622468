"""All data of a run, by split and by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningDataModule

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._preprocessing import resolve_callable
from pellucid.xlm.contracts import LoaderKind, default_loader_kind
from pellucid.xlm.datamodule._loader import BatchLoader
from pellucid.xlm.datamodule._manager import DatasetManager, Split

SPLIT_NAMES: tuple[Split, ...] = get_args(Split)
"""The splits of a data module."""

_SPLITS_OF: Mapping[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class TextDataModule(LightningDataModule):
    """Gives a trainer the named loaders of each split.

    Args:
        manual_cache_dir: Where prepared datasets lie; None to keep nothing.
        tokenizer: Shared by all loaders.
        dataset_managers: Split (train, val, test, predict) to loader's name to manager. There is at
            most one for training. What has no `kind` goes to the loss if its name holds the word
            "lm", and to the predictor if it holds "prediction".
        noise_schedule: Of the family.
        block_size: Of the rows that a group processor makes.
        global_batch_size: Rows of an optimizer step, over all processes and accumulated batches;
            held for others to read.
        num_dataset_workers: Processes that read a dataset of the hub.
        rewrite_manual_cache: Prepare all datasets even if that was done before.
        print_batch_fn: Called as `f(batch, split, tokenizer, dataloader_name)` by whoever shows
            a batch; may be given by its dotted name.
        debug_overfit: Read what `full_name_debug` says, in its own order.

    Raises:
        ArgumentError: There are several managers for training, or a name stands for no kind.
        UnknownNameError: There is no such split.
    """

    def __init__(
        self,
        manual_cache_dir: str | Path | None,
        tokenizer: Any,
        dataset_managers: Mapping[str, Mapping[str, DatasetManager] | None],
        *,
        noise_schedule: Any = None,
        block_size: int | None = None,
        global_batch_size: int | None = None,
        num_dataset_workers: int | None = None,
        rewrite_manual_cache: bool = False,
        print_batch_fn: Callable[..., Any] | str | None = None,
        debug_overfit: bool = False,
    ) -> None:
        super().__init__()
        self.manual_cache_dir = manual_cache_dir
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.block_size = block_size
        self.global_batch_size = global_batch_size
        self.print_batch_fn = resolve_callable(print_batch_fn)
        self._num_proc = num_dataset_workers
        self._rewrite = rewrite_manual_cache
        self._debug = debug_overfit
        self.dataset_managers = _by_split(dataset_managers)
        self.dataloader_names: dict[str, list[str]] = {
            split: list(named) for split, named in self.dataset_managers.items()
        }
        self.dataloader_kinds: dict[str, list[LoaderKind]] = {
            split: [_kind(name, manager) for name, manager in named.items()]
            for split, named in self.dataset_managers.items()
        }

    # ---- what the harness reads -------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle the training data for an epoch."""
        for manager in self._managers("train"):
            manager.set_epoch(epoch)

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data of a run, for its manifest."""
        return {
            split: {name: manager.fingerprint() for name, manager in named.items()}
            for split, named in self.dataset_managers.items()
            if named
        }

    def print_batch(self, batch: Any, split: str, dataloader_name: str) -> None:
        """Show a batch, if there is a function for it."""
        if self.print_batch_fn is not None:
            self.print_batch_fn(batch, split, self.tokenizer, dataloader_name)

    # ---- what Lightning calls ---------------------------------------------------------------

    def prepare_data(self) -> None:
        """Prepare every dataset; called in one process."""
        for split in SPLIT_NAMES:
            for manager in self._managers(split):
                manager.prepare_data(
                    self.manual_cache_dir,
                    self.tokenizer,
                    num_proc=self._num_proc,
                    rewrite=self._rewrite,
                    debug=self._debug,
                )

    def setup(self, stage: str) -> None:
        """Open the datasets of a stage; called in every process."""
        stage = str(getattr(stage, "value", stage))
        if stage not in _SPLITS_OF:
            raise UnknownNameError("stage", stage, _SPLITS_OF)
        for split in _SPLITS_OF[stage]:
            for manager in self._managers(split):
                manager.setup(
                    stage,
                    self.manual_cache_dir,
                    self.tokenizer,
                    block_size=self.block_size,
                    num_proc=self._num_proc,
                    debug=self._debug,
                )

    def train_dataloader(self) -> BatchLoader:
        """Return the loader of the one dataset for training.

        Raises:
            ArgumentError: There is none.
        """
        loaders = self._loaders("train")
        if not loaders:
            raise ArgumentError("there is nothing to train on; add a manager to the split 'train'")
        return loaders[0]

    def val_dataloader(self) -> list[BatchLoader]:
        """Return the loaders of validation, in the order of their names."""
        return self._loaders("val")

    def test_dataloader(self) -> list[BatchLoader]:
        """Return the loaders of the test, in the order of their names."""
        return self._loaders("test")

    def predict_dataloader(self) -> list[BatchLoader]:
        """Return the loaders of prediction, in the order of their names."""
        return self._loaders("predict")

    def _managers(self, split: str) -> list[DatasetManager]:
        return list(self.dataset_managers[split].values())

    def _loaders(self, split: Split) -> list[BatchLoader]:
        trainer = self.trainer
        world_size = 1 if trainer is None else trainer.world_size
        rank = 0 if trainer is None else trainer.global_rank
        return [
            manager.get_dataloader(split, world_size > 1, rank, world_size)
            for manager in self._managers(split)
        ]


def _kind(name: str, manager: DatasetManager) -> LoaderKind:
    return default_loader_kind(name) if manager.kind is None else manager.kind


def _by_split(
    given: Mapping[str, Mapping[str, DatasetManager] | None],
) -> dict[str, dict[str, DatasetManager]]:
    for split in given:
        if split not in SPLIT_NAMES:
            raise UnknownNameError("split", split, SPLIT_NAMES)
    managers = {split: dict(given.get(split) or {}) for split in SPLIT_NAMES}
    if len(managers["train"]) > 1:
        raise ArgumentError(
            f"the split 'train' has the loaders {list(managers['train'])!r}; give one, and mix "
            "datasets in it"
        )
    return managers

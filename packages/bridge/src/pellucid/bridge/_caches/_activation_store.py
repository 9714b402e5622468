"""Activations of many prompts, written to disk batch by batch and read back without loading them.

A store is a folder: one `.npy` file for each activation, a row a prompt, and `about.json`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.bridge._analysis._directions import read_positions
from pellucid.bridge._errors import CacheFileError
from pellucid.core import ArgumentError

_ABOUT = "about.json"


class ActivationStore(Mapping[str, Any]):
    """A folder of activations, by the names they were asked for.

    Values are memory-mapped arrays of shape (n_prompts, *rest): only what is indexed is read.

    Args:
        folder: What `store_activations` wrote.

    Attributes:
        prompts: The prompts, a row each.
        position: The position of each prompt that the rows are of, counted from its end.

    Raises:
        CacheFileError: (a ValueError) If the folder is no store, or not whole.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
            self.prompts: list[str] = about["prompts"]
            self.position: int = about["position"]
            self._files: dict[str, str] = about["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheFileError(
                f"{str(folder)!r} is no store of activations: {error}. Make one with "
                "store_activations."
            ) from error

    def __getitem__(self, name: str) -> Any:
        if name not in self._files:
            raise KeyError(f"{name!r} is not stored; stored are {', '.join(self._files)}.")
        try:
            return np.load(self.folder / self._files[name], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CacheFileError(
                f"{name!r} cannot be read from {str(self.folder)!r}: {error}"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def store_activations(
    bridge: Any,
    prompts: Sequence[str],
    hook_names: Sequence[Any],
    folder: str | os.PathLike[str],
    *,
    position: int = -1,
    batch_size: int = 16,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> ActivationStore:
    """Run prompts, and write activations of one position of each to a folder.

    No more than one batch of them is in memory. The folder appears when it is complete.

    Args:
        bridge: The model.
        prompts: The prompts.
        hook_names: The activations, of shape (batch, pos, *rest), by any name that they have; what
            is named by a tuple is stored under its canonical name.
        folder: Where to; it must not exist.
        position: Which position, counted from the end of each prompt: -1 is the last.
        batch_size: How many prompts to run at a time.
        prepend_bos: As in `to_tokens`.
        progress: Whether to show a progress bar.

    Raises:
        ArgumentError: (a ValueError) If the folder exists, there is no prompt or no name, or a
            prompt has no such position.
        HookNameError: (a KeyError) If a name names nothing.
    """
    target = Path(folder)
    if target.exists():
        raise ArgumentError(f"{str(folder)!r} exists already. Name another folder.")
    if not prompts or not hook_names:
        raise ArgumentError("give at least one prompt and at least one name of an activation.")
    # Names that are text are kept as they were written: it is by them that rows are asked for.
    names = [name if isinstance(name, str) else bridge.explain(name).name for name in hook_names]
    names = list(dict.fromkeys(names))
    files = {name: f"{number}.npy" for number, name in enumerate(names)}
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        arrays: dict[str, Any] = {}
        batches = read_positions(
            bridge,
            prompts,
            names,
            position=position,
            batch_size=batch_size,
            prepend_bos=prepend_bos,
        )
        n_done = 0
        with tqdm(total=len(prompts), desc="activations", disable=not progress) as bar:
            for rows in batches:
                for name, held in zip(names, rows, strict=True):
                    if name not in arrays:
                        arrays[name] = _open(aside / files[name], len(prompts), held)
                    arrays[name][n_done : n_done + len(held)] = held.cpu().numpy()
                n_done += len(rows[0])
                bar.update(len(rows[0]))
        for array in arrays.values():
            array.flush()
        about = {"prompts": list(prompts), "position": position, "files": files}
        (aside / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return ActivationStore(target)


def _open(path: Path, n_rows: int, like: Tensor) -> Any:
    shape = (n_rows, *like.shape[1:])
    dtype = like[:0].cpu().numpy().dtype
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

"""Activations on disk, as safetensors: written as a whole or not at all, checked when read."""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._errors import CacheFileError

_FORMAT = "pellucid.bridge.ActivationCache"
_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheFile:
    """What a file of activations says of itself.

    Attributes:
        model: The class of the model that they come from.
        has_batch_dim: Whether their first axis is that of the batch.
        order: Their names, in the order of the cache.
        same: Names of activations that are another one, which the file holds once.
        aliases: Other names.
    """

    model: str
    has_batch_dim: bool
    order: list[str]
    same: Mapping[str, str]
    aliases: Mapping[str, str]


def write_cache(path: str | os.PathLike[str], held: Mapping[str, Tensor], about: CacheFile) -> None:
    """Write activations to a file, which appears whole or not at all.

    Args:
        path: Where to; its folder must exist.
        held: By canonical name.
        about: What to say of them; which are the same is found out here.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - few caches are saved

    apart, same = _find_same(held)
    about = dataclasses.replace(about, same=same)
    facts = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(about)}
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(apart, name, metadata={"cache": json.dumps(facts)})
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read_about(path: str | os.PathLike[str]) -> CacheFile:
    """Return what a file says of itself.

    Raises:
        CacheFileError: (a ValueError) If it is no whole file of activations.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - few caches are read

    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("cache", "null"))
            stored = set(opened.keys())
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CacheFileError(f"{os.fspath(path)!r} is damaged: {error}") from error
    if not isinstance(facts, dict) or facts.pop("format", None) != _FORMAT:
        raise CacheFileError(
            f"{os.fspath(path)!r} holds no cache. Caches are written by cache.save(path)."
        )
    version = facts.pop("version", None)
    if version != _VERSION:
        raise CacheFileError(
            f"{os.fspath(path)!r} is of version {version!r}, and this release reads {_VERSION}."
        )
    about = CacheFile(**facts)
    missing = [name for name in about.order if about.same.get(name, name) not in stored]
    if missing:
        raise CacheFileError(f"{os.fspath(path)!r} lacks {missing[0]!r}, which it says it holds.")
    return about


class StoredActivations(MutableMapping[str, Tensor]):
    """Activations in a file, each read when it is asked for and not kept.

    What is set stays in memory, in front of the file.

    Args:
        path: The file.
        about: What it says of itself.
        device: Where to read to.
    """

    def __init__(
        self, path: str | os.PathLike[str], about: CacheFile, device: torch.device | str = "cpu"
    ) -> None:
        self._path = os.fspath(path)
        self._same = about.same
        self._order = dict.fromkeys(about.order)
        self._device = str(device)
        self._changed: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._changed:
            return self._changed[name]
        if name not in self._order:
            raise KeyError(name)
        from safetensors import safe_open  # noqa: PLC0415 - few caches are read

        with safe_open(self._path, framework="pt", device=self._device) as opened:
            return opened.get_tensor(self._same.get(name, name))

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._order[name] = None
        self._changed[name] = value

    def __delitem__(self, name: str) -> None:
        del self._order[name]
        self._changed.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._order

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def _find_same(held: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each activation once, in memory of its own, and which names mean the same one."""
    apart: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[Any, str] = {}
    memory: set[int] = set()
    # All are held until the end, so that no memory is used twice meanwhile.
    seen: list[Tensor] = []
    for name, value in held.items():
        # The stream after a block is the one before the next, in the same memory.
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        seen.append(value)
        if value.numel() and key in first:
            same[name] = first[key]
            continue
        first[key] = name
        storage = value.untyped_storage().data_ptr()
        is_shared = storage in memory or not value.is_contiguous()
        memory.add(storage)
        apart[name] = value.contiguous().clone() if is_shared else value
    return apart, same

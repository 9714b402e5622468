"""What a configuration can compute, and the live objects that it can refer to."""

import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._arithmetic import evaluate


def register_resolvers() -> None:
    """Make the arithmetic resolvers known to OmegaConf; they stay, and depend on nothing."""
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


@contextmanager
def live_resolvers(**objects: Any) -> Generator[None]:
    """Let a configuration refer to live objects within a block.

    Args:
        objects: Each is the resolver `${name:attribute}`, which reads an attribute of the object,
            or an entry of it if it is a mapping (`${global_components:tokenizer}`).
    """
    before = {name: OmegaConf.has_resolver(name) for name in objects}
    for name, target in objects.items():
        OmegaConf.register_new_resolver(name, _reader(name, target), replace=True)
    try:
        yield
    finally:
        for name in objects:
            if not before[name]:
                OmegaConf.clear_resolver(name)


def _reader(name: str, target: Any) -> Any:
    def read(path: str) -> Any:
        value = target
        for part in path.split("."):
            value = _member(name, value, part)
        return value

    return read


def _member(name: str, value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        if part not in value:
            raise UnknownNameError(name, part, [str(key) for key in value])
        return value[part]
    if not hasattr(value, part):
        message = f"${{{name}:{part}}}: {type(value).__name__} has no {part!r}; correct the name"
        raise ArgumentError(message)
    return getattr(value, part)


def _evaluate(*parts: Any) -> int | float | bool:
    # OmegaConf parts a resolver's argument at commas.
    return evaluate(",".join(str(part) for part in parts))


def _div_up(numerator: int, denominator: int) -> int:
    return -(-int(numerator) // int(denominator))


def _find_grad_accum(global_batch: int, per_device: int, devices: Any = 1, nodes: int = 1) -> int:
    """Return the batches that make one optimizer step.

    Raises:
        ArgumentError: The global batch cannot be parted so.
    """
    at_once = int(per_device) * _device_count(devices) * int(nodes)
    if at_once <= 0 or int(global_batch) % at_once:
        message = (
            f"global_batch_size {global_batch!r} is no multiple of {at_once!r}, which is what the "
            "devices take at once; change it or per_device_batch_size"
        )
        raise ArgumentError(message)
    return int(global_batch) // at_once


def _device_count(devices: Any) -> int:
    if isinstance(devices, int):
        return max(devices, 1)
    if isinstance(devices, str):
        return int(devices) if devices.isdigit() else 1
    return len(devices)


def _if_else(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _num_devices() -> int:
    import torch  # noqa: PLC0415 - heavy, and this is asked when a run starts

    return max(torch.accelerator.device_count(), 1) if torch.accelerator.is_available() else 1


def _dict_to_list(mapping: Any) -> list[Any]:
    return list(mapping.values()) if mapping else []


def _replace(text: str, old: str, new: str) -> str:
    return str(text).replace(str(old), str(new))


_RESOLVERS: Mapping[str, Any] = {
    "cwd": os.getcwd,
    "device_count": _num_devices,
    "dict_to_list": _dict_to_list,
    "div_up": _div_up,
    "eval": _evaluate,
    "find_grad_accum": _find_grad_accum,
    "if_else": _if_else,
    "max": lambda *values: max(values),
    "max_int": lambda *values: math.floor(max(values)),
    "min": lambda *values: min(values),
    "min_int": lambda *values: math.floor(min(values)),
    "num_cpus": _num_cpus,
    "replace_str": _replace,
}

__all__ = ["live_resolvers", "register_resolvers"]

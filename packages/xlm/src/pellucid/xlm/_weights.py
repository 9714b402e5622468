"""A model's weights as safetensors, and the configuration that belongs to them."""

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from pellucid.core import ArgumentError, CheckpointError
from pellucid.xlm._checkpoint_io import write_aside


def save_weights(model: nn.Module, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a model's weights; tensors that share memory are written once.

    Raises:
        ArgumentError: The file is there already, and `overwrite` is False.
        CheckpointError: The disk is full.
    """
    place = Path(path)
    if place.exists() and not overwrite:
        raise ArgumentError(f"{str(place)!r} is there already; pass overwrite=True")
    data = safetensors.torch.save(_unshared(model.state_dict()))
    write_aside(place, lambda stream: _write(stream, data))
    return place


def load_weights(model: nn.Module, path: str | Path, *, strict: bool = True) -> None:
    """Read weights into a model, in place.

    Args:
        model: Whose weights are overwritten.
        path: A `.safetensors` file.
        strict: Refuse a file that lacks weights or has others.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model.
    """
    place = Path(path)
    if not place.is_file():
        raise CheckpointError(f"no weights at {str(place)!r}; give a .safetensors file")
    try:
        found = safetensors.torch.load_file(place)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{str(place)!r} is damaged or no safetensors: {error}") from error
    adopt_state(model, found, source=str(place), strict=strict)


def adopt_state(
    model: nn.Module, state: dict[str, Tensor], *, source: str, strict: bool = True
) -> None:
    """Load a state dict; see `check_state` for what is refused."""
    check_state(model, state, source=source, strict=strict)
    model.load_state_dict(state, strict=False)


def check_state(
    model: nn.Module, state: dict[str, Tensor], *, source: str, strict: bool = True
) -> None:
    """Tell in one line what of a state dict does not fit a model.

    Raises:
        CheckpointError: Shapes differ, or names do and `strict` is set.
    """
    wanted = model.state_dict()
    for name, value in state.items():
        if name in wanted and wanted[name].shape != value.shape:
            message = (
                f"{source}: {name!r} has shape {tuple(value.shape)}, the model "
                f"{tuple(wanted[name].shape)}; use the configuration it was trained with"
            )
            raise CheckpointError(message)
    # Of weights that share memory one name is written.
    present = {value.data_ptr() for name, value in wanted.items() if name in state}
    missing = [
        name
        for name, value in wanted.items()
        if name not in state and value.data_ptr() not in present
    ]
    odd = sorted([*missing, *(state.keys() - wanted.keys())])
    if strict and odd:
        message = (
            f"{source} and the model differ in {len(odd)} weights, such as {odd[0]!r}; use the "
            "configuration it was trained with, or strict=False"
        )
        raise CheckpointError(message)


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    kept: dict[int, str] = {}
    for name, value in state.items():
        kept.setdefault(value.data_ptr() if value.numel() else id(value), name)
    return {name: state[name].contiguous() for name in kept.values()}


def _write(stream: Any, data: bytes) -> None:
    stream.write(data)


__all__ = ["adopt_state", "check_state", "load_weights", "save_weights"]

"""Runs of some blocks only: the others are not computed at all."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._engine._execution import Execution, Scratch, Step, active_execution
from pellucid.bridge._errors import StopAtLayerException
from pellucid.core import ArgumentError

_HELD = "_pellucid_detour"
_LOCK = threading.Lock()


def place_layer(layer: int, n_layers: int, name: str) -> int:
    """Return a layer's number, counted from the end if it is negative.

    Raises:
        ArgumentError: (a ValueError) If there is no such layer.
    """
    placed = layer + n_layers if layer < 0 else layer
    if not 0 <= placed <= n_layers:
        raise ArgumentError(f"{name}={layer} lies outside of the {n_layers} blocks.")
    return placed


def stop_before(blocks: list[nn.Module], layer: int) -> Step:
    """Return what leaves the forward pass before a block, or after the last one."""

    def leave(stream: Tensor, scratch: Scratch) -> Tensor:
        raise StopAtLayerException(stream)

    if layer == len(blocks):
        return Step(blocks[-1], "after", leave)
    return Step(blocks[layer], "before", leave)


def start_at(block: nn.Module, residual: Tensor) -> Step:
    """Return what puts a residual stream before a block."""

    def replace(stream: Tensor, scratch: Scratch) -> Tensor:
        return residual

    return Step(block, "before", replace)


def pass_through(
    blocks: list[nn.Module], n_items: int
) -> Callable[[Execution], Callable[[], None]]:
    """Return what makes blocks hand on their input while an execution is active.

    Args:
        blocks: Those to skip.
        n_items: How many items a block of this model returns; 0 if it returns the stream itself.
    """

    def enter(execution: Execution) -> Callable[[], None]:
        with _LOCK:
            for block in blocks:
                _detours(block)[execution] = n_items

        def undo() -> None:
            with _LOCK:
                for block in blocks:
                    _forget(block, execution)

        return undo

    return enter


def _detours(block: Any) -> dict[Execution, int]:
    """Return the executions that skip a block; its forward asks whether it runs in one of them."""
    held = block.__dict__.get(_HELD)
    if held is not None:
        return held["skippers"]
    skippers: dict[Execution, int] = {}
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        n_items = skippers.get(active_execution())  # pyright: ignore[reportArgumentType] - None is no key
        if n_items is None:
            return inner(*args, **kwargs)
        stream = args[0] if args else kwargs["hidden_states"]
        return (stream, *[None] * (n_items - 1)) if n_items else stream

    # Others, accelerate say, may have put a forward of their own on the instance.
    block.__dict__[_HELD] = {"skippers": skippers, "own": block.__dict__.get("forward")}
    block.forward = forward
    return skippers


def _forget(block: Any, execution: Execution) -> None:
    held = block.__dict__[_HELD]
    held["skippers"].pop(execution, None)
    if held["skippers"]:
        return
    del block.__dict__[_HELD]
    if held["own"] is None:
        del block.forward
    else:
        block.forward = held["own"]


def count_items(model: nn.Module, block: nn.Module, ids: Tensor) -> int:
    """Return how many items a block returns, 0 for a bare tensor, by running it on one token."""
    found: list[int] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        found.append(0 if isinstance(output, Tensor) else len(output))

    handle = block.register_forward_hook(look)
    try:
        with torch.no_grad():
            model(ids)
    finally:
        handle.remove()
    return found[0]

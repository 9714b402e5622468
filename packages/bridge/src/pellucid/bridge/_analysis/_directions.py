"""Directions of the residual stream: found from two lists of prompts, added, taken away.

The difference in means as a direction, and its removal wherever the stream is written to:
Arditi et al. 2024, https://arxiv.org/abs/2406.11717; its addition: Turner et al. 2023,
https://arxiv.org/abs/2308.10248.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError


def difference_in_means(
    bridge: Any,
    positive: Sequence[str],
    negative: Sequence[str],
    hook_name: Any,
    *,
    position: int = -1,
    batch_size: int = 16,
    prepend_bos: bool | None = None,
) -> Float[Tensor, " d_model"]:
    """Return how the mean activation of one list of prompts differs from that of another.

    Args:
        bridge: The model.
        positive: Prompts towards which the direction points.
        negative: Prompts away from which it points.
        hook_name: The activation, of shape (batch, pos, d_model), such as
            "blocks.3.hook_resid_post" or ("resid_post", 3).
        position: Which position of each prompt, counted from its end: -1 is the last.
        batch_size: How many prompts to run at a time.
        prepend_bos: As in `to_tokens`; False where prompts are rendered chat templates.

    Returns:
        The mean of the first minus the mean of the second, in float32 or wider.

    Raises:
        ArgumentError: (a ValueError) If a list is empty, or a prompt is shorter than `position`.
        HookNameError: (a KeyError) If the name names nothing.
    """
    means: list[Tensor] = []
    for label, prompts in (("positive", positive), ("negative", negative)):
        if not prompts:
            raise ArgumentError(f"{label} holds no prompt. Give at least one.")
        rows = read_positions(
            bridge,
            prompts,
            [hook_name],
            position=position,
            batch_size=batch_size,
            prepend_bos=prepend_bos,
        )
        means.append(torch.cat([held[0] for held in rows]).mean(dim=0))
    return means[0] - means[1]


def read_positions(
    bridge: Any,
    prompts: Sequence[str],
    hook_names: Sequence[Any],
    *,
    position: int = -1,
    batch_size: int = 16,
    prepend_bos: bool | None = None,
) -> Iterator[list[Tensor]]:
    """Yield, batch by batch, the activations of one position of each prompt.

    Args:
        bridge: The model.
        prompts: The prompts; shorter ones of a batch are padded on the left.
        hook_names: The activations, of shape (batch, pos, *rest).
        position: Which position, counted from the end of each prompt: -1 is the last.
        batch_size: How many prompts to run at a time.
        prepend_bos: As in `to_tokens`.

    Yields:
        For each name, rows of shape (batch, *rest), in float32 or wider.

    Raises:
        ArgumentError: (a ValueError) If a prompt has no such position, or `position` counts from
            the beginning.
        HookNameError: (a KeyError) If a name names nothing.
    """
    if position >= 0:
        raise ArgumentError(
            f"position must be negative, counted from the end of each prompt, got {position}. "
            "-1 is the last."
        )
    names = [bridge.explain(name).name for name in hook_names]
    for start in range(0, len(prompts), batch_size):
        part = list(prompts[start : start + batch_size])
        lengths = [len(bridge.to_tokens(text, prepend_bos=prepend_bos)[0]) for text in part]
        shortest = min(range(len(part)), key=lengths.__getitem__)
        if lengths[shortest] < -position:
            raise ArgumentError(
                f"the prompt {part[shortest]!r} has {lengths[shortest]} tokens, so none at "
                f"position {position}."
            )
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                part,
                names_filter=names,
                pos_slice=[position],
                prepend_bos=prepend_bos,
                padding_side="left",
                return_type=None,
            )
        yield [_widen(cache[name][:, 0]) for name in names]


@contextmanager
def add_direction(
    bridge: Any,
    hook_name: Any,
    direction: Float[Tensor, " d_model"],
    *,
    coefficient: float = 1.0,
    positions: Any = None,
) -> Generator[Any]:
    """Add a direction to an activation while the context is open, in this thread alone.

    Args:
        bridge: The model.
        hook_name: The activation, of shape (batch, pos, d_model).
        direction: What to add.
        coefficient: How many times.
        positions: Which positions: an index, a slice or a list of them; all if None. In
            `generate`, each step has positions of its own, from 0 on.

    Raises:
        ArgumentError: (a ValueError) If the direction has another width than the activation.
        HookNameError: (a KeyError) If the name names nothing.
    """
    places = slice(None) if positions is None else positions

    def add(value: Tensor, hook: Any) -> Tensor:
        vector = _fit(direction, value, hook.name)
        changed = value.clone()
        changed[:, places] += coefficient * vector
        return changed

    with bridge.hooks(fwd_hooks=[(bridge.explain(hook_name).name, add)]):
        yield bridge


@contextmanager
def ablate_direction(
    bridge: Any,
    direction: Float[Tensor, " d_model"],
    *,
    hook_names: Iterable[Any] | None = None,
) -> Generator[Any]:
    """Take a direction away from activations while the context is open, in this thread alone.

    What is left of an activation is orthogonal to the direction.

    Args:
        bridge: The model.
        direction: The direction; its length has no meaning.
        hook_names: The activations, of shape (batch, pos, d_model). When None, the residual stream
            before, within and after every block.

    Raises:
        ArgumentError: (a ValueError) If the direction is zero, or has another width than an
            activation.
        HookNameError: (a KeyError) If a name names nothing.
    """
    if not float(direction.norm()) > 0:
        raise ArgumentError("the direction is zero, so it names nothing to take away.")
    unit = direction / direction.norm()

    def ablate(value: Tensor, hook: Any) -> Tensor:
        vector = _fit(unit, value, hook.name)
        return value - (value @ vector)[..., None] * vector

    chosen = _stream_names(bridge) if hook_names is None else list(hook_names)
    with bridge.hooks(fwd_hooks=[(bridge.explain(name).name, ablate) for name in chosen]):
        yield bridge


def _stream_names(bridge: Any) -> list[str]:
    ends = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
    specs = bridge.hook_table().values()
    return [
        spec.name
        for spec in specs
        if any(name.rpartition(".")[2] in ends for name in (spec.name, *spec.aliases))
    ]


def _fit(direction: Tensor, value: Tensor, name: str) -> Tensor:
    if direction.shape != value.shape[-1:]:
        raise ArgumentError(
            f"the direction has shape {tuple(direction.shape)}, and {name!r} is "
            f"{value.shape[-1]} wide."
        )
    return direction.to(device=value.device, dtype=value.dtype)


def _widen(held: Tensor) -> Tensor:
    return held.to(torch.promote_types(held.dtype, torch.float32))

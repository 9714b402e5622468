"""Reads hidden states and attention patterns where a loss looks, and nowhere else.

transformers returns those of every layer and position or of none. Here the modules are found whose
outputs they are, by watching one short pass, and are hooked for the layers that are read; what is
not read is dropped as soon as it is computed. The pass is both the search and the proof: a model in
which the modules cannot be told gets all that transformers returns, cut afterwards.
"""

import dataclasses
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.core import HeldStates
from pellucid.hf._run_mode import held_in_mode

_N_WATCHED = 2


class Site(NamedTuple):
    """Where a tensor appears: as a module's output, or as an element of it.

    Attributes:
        module: The module; it runs once in a pass.
        element: Which element of its output; None if that is the tensor itself.
        order: How many outputs appear before it.
    """

    module: nn.Module
    element: int | None
    order: int


class Sites(NamedTuple):
    """Where each layer's tensors appear; None where that cannot be told."""

    hidden_states: Sequence[Site] | None
    attentions: Sequence[Site] | None


class StatesRead(Exception):  # noqa: N818 - no error: all that is wanted has been read
    """Ends a pass of which nothing more is wanted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What of hidden states, or of attention patterns, one pass is to return.

    Attributes:
        held: Which layers and positions of the input.
        is_all: Whether nothing else that the pass computes is wanted.
        n_skipped: How many positions of the input come before those of the pass.
    """

    held: HeldStates
    is_all: bool = False
    n_skipped: int = 0

    def after(self, n_skipped: int) -> "Asked":
        """Return the same of a pass that begins later in the input."""
        return dataclasses.replace(self, n_skipped=n_skipped)

    def cut(self, states: Tensor) -> Tensor:
        """Return the positions that are held of those of a pass, positions last but one."""
        rows = states[..., self._shift(self.held.positions), :]
        if states.ndim == 4 and self.held.key_positions is not None:
            rows = rows[..., self.held.key_positions]
        # A view would keep all of it.
        return rows if rows.shape == states.shape else rows.clone()

    def pick(self, layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what is held out of all layers' states."""
        return tuple(self.cut(layers[layer]) for layer in self.held.layers)

    def _shift(self, positions: slice) -> slice:
        return slice(
            max(positions.start - self.n_skipped, 0), max(positions.stop - self.n_skipped, 0)
        )


class Taps:
    """Hooks a model for single passes.

    Args:
        model: A model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._sites: dict[bool, Sites] = {}

    def find(self, *, attentions: bool) -> Sites:
        """Return where hidden states, and attention patterns if they are asked for, appear."""
        if attentions not in self._sites:
            self._sites[attentions] = _watch(self._model, attentions=attentions)
        return self._sites[attentions]

    @contextmanager
    def reading(
        self, hidden_states: Asked | None, attentions: Asked | None, *, stop: bool
    ) -> Generator["Reading | None"]:
        """Hook the model while one pass runs; yields None if its modules cannot be told.

        Args:
            hidden_states: What of them to read; nothing when None.
            attentions: What of the attention patterns to read.
            stop: Whether to raise `StatesRead` once all that is asked for has been read.
        """
        sites = self.find(attentions=attentions is not None)
        pairs = [(hidden_states, sites.hidden_states), (attentions, sites.attentions)]
        if any(asked is not None and found is None for asked, found in pairs):
            yield None
            return
        reading = Reading()
        wanted = [
            (name, layer, found[layer], asked)
            for name, (asked, found) in zip(Reading.NAMES, pairs, strict=True)
            if asked is not None and found is not None
            for layer in asked.held.layers
        ]
        last = max(site.order for _, _, site, _ in wanted) if stop else None
        handles = [
            site.module.register_forward_hook(
                reading.make_hook(name, layer, site, asked, is_last=site.order == last)
            )
            for name, layer, site, asked in wanted
        ]
        try:
            yield reading
        finally:
            for handle in handles:
                handle.remove()


class Reading:
    """What has been read in a pass, by layer."""

    NAMES = ("hidden_states", "attentions")

    def __init__(self) -> None:
        self._read: dict[str, dict[int, Tensor]] = {name: {} for name in self.NAMES}

    def take(self, name: str) -> tuple[Tensor, ...] | None:
        """Return what was read, first layer first; None if nothing was."""
        read = self._read[name]
        return tuple(read[layer] for layer in sorted(read)) or None

    def make_hook(self, name: str, layer: int, site: Site, asked: Asked, *, is_last: bool) -> Any:
        """Return a forward hook that reads one layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            states = output if site.element is None else output[site.element]
            self._read[name][layer] = asked.cut(states)
            if is_last:
                raise StatesRead

        return hook


def _watch(model: Any, *, attentions: bool) -> Sites:
    """Find out whose outputs are what transformers returns for each layer."""
    seen: dict[Any, Site] = {}
    n_calls: Counter[nn.Module] = Counter()
    kept: list[Tensor] = []  # so that no memory is used twice

    def note(module: nn.Module, args: Any, output: Any) -> None:
        del args
        n_calls[module] += 1
        elements = enumerate(output) if isinstance(output, (tuple, list)) else [(None, output)]
        for element, tensor in elements:
            if isinstance(tensor, Tensor):
                kept.append(tensor)
                seen.setdefault(_place_of(tensor), Site(module, element, len(kept)))

    device = model.get_input_embeddings().weight.device
    ids = torch.zeros((1, _N_WATCHED), dtype=torch.int64, device=device)
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad(), held_in_mode(model, train=False):
            result = model(
                input_ids=ids,
                use_cache=False,
                return_dict=True,
                output_hidden_states=True,
                output_attentions=attentions,
            )
    finally:
        for handle in handles:
            handle.remove()

    def find(layers: Sequence[Tensor] | None) -> Sequence[Site] | None:
        sites = [seen.get(_place_of(held)) for held in layers or ()]
        known = [site for site in sites if site is not None and n_calls[site.module] == 1]
        return known if known and len(known) == len(sites) else None

    return Sites(find(result.hidden_states[1:]), find(result.attentions) if attentions else None)


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype

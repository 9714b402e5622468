"""Parts of a bridged model by the names of its activations: `bridge.blocks[0].attn`."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from pellucid.bridge._names._points import HookPoint

_CIRCUITS = ("QK", "OV")
_WEIGHTS = ("W_", "b_")


class Component:
    """A named part of a model.

    Reading an attribute finds a hook point (`bridge.blocks[0].attn.hook_pattern`), else a part of
    this part (`.attn.q`), else a weight (`.attn.W_Q`), else an attribute of the module that stands
    behind it (`.attn.head_dim`).

    Args:
        bridge: The bridge.
        name: Such as "blocks.0.attn".
        module: The original module, None where no single module stands behind the part.
    """

    def __init__(self, bridge: Any, name: str, module: nn.Module | None) -> None:
        self._bridge = bridge
        self.name = name
        self.original_component = module

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        full = f"{self.name}.{attribute}"
        point = self._bridge.get_hook_point(full)
        if point is not None:
            return point
        if self._bridge.has_component(full):
            return self._bridge.get_component(full)
        if attribute in _CIRCUITS:
            return self._bridge.get_circuit(self.name, attribute)
        if attribute.startswith(_WEIGHTS) or full in self._bridge.weight_table():
            return self._bridge.get_weight(full)
        if self.original_component is not None:
            return getattr(self.original_component, attribute)
        raise AttributeError(f"{self.name!r} has no part or activation {attribute!r}.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the original module by itself, without hooks of the bridge."""
        if self.original_component is None:
            raise TypeError(f"{self.name!r} is a group of layers, not one module to call.")
        return self.original_component(*args, **kwargs)

    def __repr__(self) -> str:
        behind = type(self.original_component).__name__ if self.original_component else "layers"
        return f"Component({self.name!r}: {behind})"

    def hooks(self) -> dict[str, HookPoint]:
        """Return the hook points of this part, by their names within it."""
        prefix = self.name + "."
        points = self._bridge.hook_dict
        return {n.removeprefix(prefix): p for n, p in points.items() if n.startswith(prefix)}


class Blocks(Sequence[Component]):
    """The blocks of a stack."""

    def __init__(self, held: Sequence[Component]) -> None:
        self._held = tuple(held)

    def __getitem__(self, index: Any) -> Any:
        return self._held[index]

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Component]:
        return iter(self._held)

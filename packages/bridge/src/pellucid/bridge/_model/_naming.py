"""The methods of a bridge that concern names: activations, parts, blocks and heads."""

from collections.abc import Iterator, Mapping
from typing import Any

from pellucid.bridge._model._state import BridgeState
from pellucid.bridge._names._components import Blocks, Component
from pellucid.bridge._names._points import HookPoint
from pellucid.bridge._names._table import HookKey, HookSpec, HookTable
from pellucid.core import ArgumentError

# What makes the kind of a block, in the order in which a kind is written.
_KINDS = ("attn", "cross_attn", "linear_attn", "mamba", "mixer", "ssm", "conv", "mlp")


class Naming(BridgeState):
    """What a model consists of, by name."""

    def hook_table(self) -> HookTable:
        """Return all activations with their shapes and meanings, in the order of a forward pass."""
        return self._table

    def explain(self, name: HookKey) -> HookSpec:
        """Return what is known of one activation.

        Raises:
            HookNameError: (a KeyError) If there is none of this name; near matches are named.
        """
        return self._table[name]

    @property
    def hook_dict(self) -> Mapping[str, HookPoint]:
        """Every hook point under its canonical name and its aliases; always the same object."""
        return self._hook_dict

    def hook_points(self) -> Iterator[HookPoint]:
        """Return every hook point once, in the order of a forward pass."""
        return iter(self._points.values())

    @property
    def mod_dict(self) -> dict[str, Any]:
        """Every part of the model under its name, and every hook point under its canonical name."""
        held = self._modules_by_name.items()
        parts = {name: Component(self, name, module) for name, module in held}
        return {**parts, **self._points}

    def get_hook_point(self, name: str) -> HookPoint | None:
        """Return the hook point of a canonical name or an alias, None if there is none."""
        found = self._table.find(name)
        return None if found is None else self._points[found]

    def clear_hook_registry(self) -> None:
        """Do nothing: the table of a model is fixed, so that no name can go stale."""

    def has_component(self, name: str) -> bool:
        """Say whether a part of the model has this name."""
        return name in self._modules_by_name

    def get_component(self, name: str) -> Component:
        """Return a part of the model, such as "blocks.0.attn".

        Raises:
            ArgumentError: (a ValueError) If there is none of this name.
        """
        if not self.has_component(name):
            raise ArgumentError(f"the model has no part {name!r}. Known are hook_table()'s names.")
        return Component(self, name, self._modules_by_name[name])

    @property
    def real_components(self) -> dict[str, tuple[str, Any]]:
        """Every part outside of blocks, and every stack: its path in the model and its modules."""
        paths = {id(module): path for path, module in self.original_model.named_modules()}
        stacks = {s.name: (s.path, list(self._stacks[s.name])) for s in self.adapter.stacks}
        parts = {
            name: (paths.get(id(module), ""), module)
            for name, module in self._modules_by_name.items()
            if module is not None and "." not in name
        }
        return {**parts, **stacks}

    # Blocks.

    def blocks_with(self, name: str) -> list[tuple[int, Component]]:
        """Return the blocks that have a part, with their numbers: hybrids have kinds of blocks.

        Args:
            name: Such as "attn", "mlp" or "mixer".
        """
        stack = next(iter(self._stacks))
        return [
            (number, self.get_component(f"{stack}.{number}"))
            for number in range(len(self._stacks[stack]))
            if self.has_component(f"{stack}.{number}.{name}")
        ]

    def block_hooks(self, index: int) -> list[str]:
        """Return the names of a block's activations within it, aliases included, sorted.

        Raises:
            ArgumentError: (a ValueError) If there is no such block.
        """
        prefix = self._block_name(index) + "."
        names = [*self._table, *self._table.aliases]
        return sorted(n.removeprefix(prefix) for n in names if n.startswith(prefix))

    def block_submodules(self, index: int) -> list[str]:
        """Return the names of a block's own parts, in the order of a forward pass.

        Raises:
            ArgumentError: (a ValueError) If there is no such block.
        """
        prefix = self._block_name(index) + "."
        inner = (n.removeprefix(prefix) for n in self._modules_by_name if n.startswith(prefix))
        return list(dict.fromkeys(name.split(".")[0] for name in inner))

    def layer_types(self) -> list[str]:
        """Return the kind of each block, such as "attn+mlp" or "mixer"."""
        return [self._kind_of(number) for number in range(len(self._first_stack()))]

    @property
    def all_head_labels(self) -> list[str]:
        """A label for each head of each block: "L0H0", "L0H1", ..."""
        return [
            f"L{layer}H{head}"
            for layer in range(len(self._first_stack()))
            for head in range(self.cfg.n_heads)
        ]

    @property
    def attn_head_labels(self) -> list[str]:
        """A label for each head of those blocks that have attention."""
        layers = [number for number, _ in self.blocks_with("attn")]
        return [f"L{layer}H{head}" for layer in layers for head in range(self.cfg.n_heads)]

    # Access as attributes.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            held = self.__dict__
            if "_n_items" not in held:  # Not built yet.
                raise
        if name in held["_stacks"]:
            blocks = held["_stacks"][name]
            return Blocks([Component(self, f"{name}.{i}", b) for i, b in enumerate(blocks)])
        if name in held["_modules_by_name"]:
            return self.get_component(name)
        point = self.get_hook_point(name)
        return getattr(self.original_model, name) if point is None else point

    def __str__(self) -> str:
        """Return the parts as a tree; of blocks of one kind that follow each other, the first."""
        paths = {id(module): path for path, module in self.original_model.named_modules()}
        lines = [f"{type(self).__name__}({type(self.original_model).__name__})"]
        shown = [name for name in self._modules_by_name if not self._repeats(name)]

        def grow(prefix: str, depth: int) -> None:
            for name in shown:
                rest = name.removeprefix(prefix)
                stem = rest.split(".")[0]
                width = 2 if rest.partition(".")[2].split(".")[0].isdigit() else 1
                if not name.startswith(prefix) or rest.count(".") != width - 1:
                    continue
                module = self._modules_by_name[name]
                behind = "layers" if module is None else type(module).__name__
                where = f" -> {paths[id(module)]}" if id(module) in paths else ""
                lines.append(f"{'  ' * depth}{rest if width == 2 else stem}: {behind}{where}")
                grow(name + ".", depth + 1)

        grow("", 1)
        return "\n".join(lines)

    def _repeats(self, name: str) -> bool:
        """Say whether a part belongs to a block that is like the one before it."""
        stack, _, rest = name.partition(".")
        number = rest.split(".")[0]
        if not number.isdigit() or number == "0":
            return False
        if stack != next(iter(self._stacks)):
            return True
        return self._kind_of(int(number)) == self._kind_of(int(number) - 1)

    def _kind_of(self, number: int) -> str:
        parts = self.block_submodules(number)
        has_experts = self.has_component(f"{self._block_name(number)}.mlp.experts")
        kinds = [kind for kind in _KINDS if kind in parts]
        return "+".join("moe" if k == "mlp" and has_experts else k for k in kinds) or "other"

    def _block_name(self, index: int) -> str:
        stack, blocks = next(iter(self._stacks.items()))
        placed = index + len(blocks) if index < 0 else index
        if not 0 <= placed < len(blocks):
            raise ArgumentError(f"there is no block {index!r}; the model has {len(blocks)}.")
        return f"{stack}.{placed}"

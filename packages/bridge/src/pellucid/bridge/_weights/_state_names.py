"""State dictionaries under the names of TransformerLens, and back, without losing anything.

Under these names a parameter that the weight table covers is there as its weights, such as
"blocks.0.attn.W_Q"; every other parameter and buffer is there as it is, by the name of the part of
the model that it belongs to, such as "blocks.0.mlp.router.e_score_correction_bias".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._errors import StateDictError
from pellucid.bridge._weights._table import WeightSpec
from pellucid.bridge._weights._views import StackedViews, WeightView

_N_SHOWN = 6


class StateNames:
    """How the entries of a model's state dictionary are called.

    Args:
        model: The model.
        parts: Its parts by name.
        weights: Its weights by name.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, nn.Module | None],
        weights: Mapping[str, WeightSpec],
    ) -> None:
        self._model = model
        self._paths = {module: path for path, module in model.named_modules()}
        self._state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self._names = self._rename(parts)
        self._places = {name: self._place(spec) for name, spec in weights.items()}
        self._covered = self._find_covered()

    def export(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """Return the model's state under the names of TransformerLens.

        Args:
            keep_vars: Whether tensors keep their graph, as torch's `state_dict` has it.
        """
        held: dict[str, Any] = {}
        for name, places in self._places.items():
            if all(key in self._covered for key, _ in places):
                parts = [view.read(self._state[key]) for key, view in places]
                held[name] = parts[0] if len(parts) == 1 else torch.stack(parts)
        for key, value in self._state.items():
            if key not in self._covered:
                held[self._names[key]] = value
        if keep_vars:
            return held
        return {k: v.detach() if isinstance(v, Tensor) else v for k, v in held.items()}

    def translate(self, given: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
        """Return a state dictionary in the model's own names.

        Args:
            given: A dictionary in the model's names, those of TransformerLens, or both.
            strict: Whether it must have all there is, and nothing else.

        Raises:
            StateDictError: (a RuntimeError) If a weight's shape is not the model's, if two entries
                contradict each other, or, if strict, if entries are missing or unknown.
        """
        by_name = {name: key for key, name in self._names.items()}
        keys = {name: name if name in self._state else by_name.get(name) for name in given}
        made = {key: given[name] for name, key in keys.items() if key is not None}
        counts = {key: self._state[key].numel() for key in made}
        unknown: list[str] = []
        for name in (name for name, key in keys.items() if key is None):
            if name in self._places:
                self._put(name, given[name], made, counts)
            else:
                unknown.append(name)
        missing = [
            self._names[key]
            for key, whole in self._state.items()
            if counts.get(key, 0) < whole.numel()
        ]
        if strict and (missing or unknown):
            raise StateDictError(
                f"missing: {_show(missing)}; unknown: {_show(unknown)}. Pass strict=False to load "
                "what there is."
            )
        self._check_shared(made)
        return made

    def _put(self, name: str, value: Tensor, made: dict[str, Any], counts: dict[str, int]) -> None:
        places = self._places[name]
        values = [value] if len(places) == 1 else list(value)
        for (key, view), part in zip(places, values, strict=True):
            whole = made.get(key, self._state[key]).detach()
            expected = view.read(whole).shape
            if part.shape != expected:
                raise StateDictError(
                    f"{name} is of shape {tuple(part.shape)}, the model's is {tuple(expected)}."
                )
            made[key] = view.place(whole, part.to(whole.device, whole.dtype))
            counts[key] = counts.get(key, 0) + part.numel()

    def _check_shared(self, made: Mapping[str, Any]) -> None:
        """Refuse two values for one parameter: that which comes last would win."""
        first: dict[int, str] = {}
        for key, value in made.items():
            owner = first.setdefault(id(self._state[key]), key)
            if owner != key and not torch.equal(value.cpu(), made[owner].cpu()):
                raise StateDictError(
                    f"{owner} and {key} are one parameter of the model, and the values given for "
                    "them differ. Untie the model's embeddings first, or give one of them."
                )

    def _rename(self, parts: Mapping[str, nn.Module | None]) -> dict[str, str]:
        """Return each key's name by the innermost part that it belongs to."""
        by_path: dict[str, str] = {}
        for name, module in parts.items():
            if module is not None and module in self._paths:
                by_path.setdefault(self._paths[module], name)
        names: dict[str, str] = {}
        for key in self._state:
            stem, rest = key, ""
            while stem and stem not in by_path:
                stem, _, last = stem.rpartition(".")
                rest = f".{last}{rest}"
            name = by_path[stem] + rest if stem else key
            # Two parts may hold entries of one name: the second keeps its own.
            names[key] = key if name in names.values() else name
        return names

    def _place(self, spec: WeightSpec) -> list[tuple[str, WeightView]]:
        source = spec.source
        views = source.views if isinstance(source, StackedViews) else (source,)
        return [
            (f"{self._paths[view.module]}.{view.parameter}", view)
            for view in views
            if isinstance(view, WeightView)
        ]

    def _find_covered(self) -> set[str]:
        """Return the keys whose every number is in a weight."""
        counts: dict[str, int] = {}
        for places in self._places.values():
            for key, view in places:
                if key in self._state:
                    counts[key] = counts.get(key, 0) + view.read(self._state[key]).numel()
        return {key for key, n in counts.items() if n == self._state[key].numel()}


def _show(names: list[str]) -> str:
    shown = ", ".join(names[:_N_SHOWN]) or "nothing"
    return shown if len(names) <= _N_SHOWN else f"{shown} and {len(names) - _N_SHOWN} more"

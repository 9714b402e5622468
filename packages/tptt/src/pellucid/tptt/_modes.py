"""The recurrent modes: what each is made of, and the grammar of their names."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from pellucid.core import ArgumentError

GATE_TYPES = ("k", "v", "kv")
TRICKS = ("derivative", "rotative", "combined", "cte")

_TRICK_ALIASES = MappingProxyType({"dt": "derivative", "rot": "rotative", "rdt": "combined"})
_RULE = re.compile(r"delta_rule(?:_(?P<gate>k|v|kv))?(?P<gelu>_gelu)?")
_PRODUCT = re.compile(
    r"delta_product(?:_(?P<order>\d+))?(?:_(?P<gate>k|v|kv))?(?P<gelu>_gelu)?(?:_(?P<trick>[rc]))?"
)
_TRICK_LETTERS = MappingProxyType({"r": "rotative", "c": "combined", None: "derivative"})


class ModeError(ArgumentError):
    """A recurrent mode is misspelt, or one of its parts is."""


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModeError(f"{what} {value!r} is not known. Use one of {', '.join(known)}.")


@dataclass(frozen=True)
class RecurrentMode:
    """What the recurrence does at each token.

    Args:
        order: Updates of the state for each token, at least 1.
        gate_type: Whether the gate is made of keys, of values, or of both.
        linear: Whether the state stays as it is between chunks; else gelu is applied to it.
        trick: How the further updates of a token are derived from its key and value.

    Raises:
        ModeError: (a ValueError) If one of them is not known.
    """

    order: int = 1
    gate_type: str = "k"
    linear: bool = True
    trick: str = "derivative"

    def __post_init__(self) -> None:
        object.__setattr__(self, "trick", _TRICK_ALIASES.get(self.trick, self.trick))
        if self.order < 1:
            raise ModeError(f"order must be 1 or more, got {self.order!r}.")
        _check_known("gate_type", self.gate_type, GATE_TYPES)
        _check_known("trick", self.trick, TRICKS)


RECURRENT_MODES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "delta_product": MappingProxyType(asdict(RecurrentMode(order=2))),
        "delta_product_c": MappingProxyType(asdict(RecurrentMode(order=2, trick="combined"))),
        "delta_product_r": MappingProxyType(asdict(RecurrentMode(order=2, trick="rotative"))),
        "delta_rule": MappingProxyType(asdict(RecurrentMode())),
        "delta_rule_gelu": MappingProxyType(asdict(RecurrentMode(linear=False))),
        "delta_rule_kv": MappingProxyType(asdict(RecurrentMode(gate_type="kv"))),
        "delta_rule_v": MappingProxyType(asdict(RecurrentMode(gate_type="v"))),
    }
)
"""The modes that have been published, by name."""


def parse_mode_name(name: str) -> dict[str, Any]:
    """Return what a mode is made of: `order`, `gate_type`, `linear` and `trick`.

    Args:
        name: `delta_rule[_GATE][_gelu]` or `delta_product[_ORDER][_GATE][_gelu][_r|_c]`, the gate
            being k, v or kv; order 2 when omitted, `_r` for rotative and `_c` for combined.

    Raises:
        ModeError: (a ValueError) If the name is not of that form.
    """
    product = _PRODUCT.fullmatch(name)
    matched = product or _RULE.fullmatch(name)
    if matched is None:
        near = difflib.get_close_matches(name, RECURRENT_MODES, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ModeError(
            f"Unknown mode {name!r}. {hint}A mode is delta_rule[_GATE][_gelu] or "
            "delta_product[_ORDER][_GATE][_gelu][_r|_c], with GATE one of k, v, kv."
        )
    parts = matched.groupdict()
    order = int(parts["order"] or 2) if product else 1
    mode = RecurrentMode(
        order=order,
        gate_type=parts["gate"] or "k",
        linear=parts["gelu"] is None,
        trick=_TRICK_LETTERS[parts.get("trick")],
    )
    return asdict(mode)


def get_mode_name(
    order: int = 1, gate_type: str = "k", linear: bool = True, trick: str = "derivative"
) -> str:
    """Return the name that `parse_mode_name` reads as these parts.

    Raises:
        ModeError: (a ValueError) If a part is not known.
    """
    mode = RecurrentMode(order=order, gate_type=gate_type, linear=linear, trick=trick)
    parts = ["delta_rule"] if order == 1 else ["delta_product"]
    if order > 2:
        parts.append(str(order))
    if gate_type != "k":
        parts.append(gate_type)
    if not linear:
        parts.append("gelu")
    if order > 1 and mode.trick in ("rotative", "combined"):
        parts.append(mode.trick[0])
    return "_".join(parts)


def resolve_mode(operator_mode: str, recurrent_config: Mapping[str, Any] | None) -> RecurrentMode:
    """Return the mode that a name stands for; its parts, where given, go before it.

    Raises:
        ModeError: (a ValueError) If there is no such mode, or no such part.
    """
    parts = dict(recurrent_config) if recurrent_config else parse_mode_name(operator_mode)
    known = tuple(RecurrentMode.__dataclass_fields__)
    for part in parts:
        _check_known("part of a recurrent_config", part, known)
    return RecurrentMode(**parts)

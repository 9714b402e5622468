"""Functions under the names that tptt 0.12 gave them."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.core import ArgumentError
from pellucid.tptt._chunks import fast_invert_matrix
from pellucid.tptt._modes import RecurrentMode

construct_causal_forward_solver = fast_invert_matrix

_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "out_proj",
    "c_attn",
    "c_proj",
    "query",
    "key",
    "value",
)
_SHORT = {"derivative": "dt", "rotative": "rot", "combined": "rdt", "cte": "cte"}


def set_trainable_parameters(
    model: nn.Module, trainable_patterns: Sequence[str] | None = None
) -> nn.Module:
    """Train the weights whose names match a pattern, and no others.

    Args:
        model: Whose weights are meant; those without floats, as of quantized layers, stay frozen.
        trainable_patterns: Regular expressions, found anywhere in a name; those of the projections
            of attention when omitted.

    Returns:
        The model.

    Raises:
        ArgumentError: (a ValueError) If no weight matches.
    """
    patterns = _PROJECTIONS if trainable_patterns is None else tuple(trainable_patterns)
    matched = False
    for name, weight in model.named_parameters():
        is_trained = weight.is_floating_point() and any(re.search(each, name) for each in patterns)
        weight.requires_grad_(is_trained)
        matched = matched or is_trained
    if not matched:
        raise ArgumentError(f"no weight has a name that matches one of {list(patterns)!r}.")
    return model


def get_model_name(
    lora: bool = True,
    cross_gate: bool = False,
    bidirectional: bool = False,
    order: int = 1,
    alpha_gate: str = "c",
    beta_gate: str = "k",
    linear: bool = True,
    trick: str = "dt",
    prefix: str = "liza",
    add_date: bool = True,
) -> str:
    """Return a name that says what a model was made with.

    Args:
        lora: Whether it has adapters.
        cross_gate: Whether the product of both branches is added.
        bidirectional: Whether it reads in both directions.
        order: Updates of the state for each token.
        alpha_gate: How its state decays; "c" where it does not.
        beta_gate: What its gates are made of.
        linear: Whether no gelu is applied to the state.
        trick: How further updates of a token are derived.
        prefix: What the name begins with.
        add_date: Whether it ends with today's date.

    Raises:
        ModeError: (a ValueError) If there is no such mode.
    """
    mode = RecurrentMode(order=order, gate_type=beta_gate, linear=linear, trick=trick)
    parts = [
        prefix,
        *(["lora"] if lora else []),
        "cross" if cross_gate else "mag",
        "bidirectional" if bidirectional else "causal",
        f"alpha-{alpha_gate}",
        f"beta-{beta_gate}",
        f"order-{order}",
        "linear" if linear else "gelu",
        f"trick-{_SHORT[mode.trick]}",
    ]
    return "_".join([*parts, date.today().isoformat()] if add_date else parts)


def render_template(template_path: str, variables: Mapping[str, Any]) -> str:
    """Fill in a template of Jinja2; variables that are not given are empty.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - only here

    text = Path(template_path).read_text(encoding="utf-8")
    return SandboxedEnvironment().from_string(text).render(**variables)

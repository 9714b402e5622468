"""The config of a converted model: that of its base, and what its linear attention is."""

import copy
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from pellucid.core import ArgumentError
from pellucid.tptt._kernels import BACKENDS
from pellucid.tptt._linear_attention import PADDING_SIDES
from pellucid.tptt._liza import resolve_dtype
from pellucid.tptt._modes import RECURRENT_MODES, RecurrentMode, get_mode_name, resolve_mode

_LOGGER = logging.getLogger(__name__)

# What says which config it is, rather than what is in it.
_OF_BASE_ALONE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "model_type",
        "name_or_path",
        "torch_dtype",
        "transformers_version",
    }
)
_SUFFIXES = ("attn", "self_attn", "attention")
_MODE = "delta_rule"
_NO_DECAY = (None, "1", "c")

MODEL_TASKS = ("causal_lm", "feature_extraction")


def convert_sets_to_lists(obj: Any) -> Any:
    """Return what was given with every set and tuple in it as a list, for JSON."""
    if isinstance(obj, (set, frozenset)):
        return sorted((convert_sets_to_lists(item) for item in obj), key=repr)
    if isinstance(obj, (list, tuple)):
        return [convert_sets_to_lists(item) for item in obj]
    if isinstance(obj, Mapping):
        return {key: convert_sets_to_lists(value) for key, value in obj.items()}
    return obj


class TpttConfig(PretrainedConfig):
    """What a model with linear attention is made of.

    The fields of the base model's config can be read here as well; it is kept whole in
    `base_model_config`, so that nothing needs to be fetched when the model is loaded again.

    Args:
        base_model_config: The base model's config; read from `base_model_name` when omitted, at
            once if that is a directory, else when the model is made.
        base_model_name: The name or directory of the base model.
        name_or_path: A name; "Titans-" and the base model's when omitted.
        target_modules_names: How the names of attention modules end.
        force_attn_implementation: What the base model computes attention with.
        operator_mode: The name of a recurrent mode, for this and what follows see `LiZAttention`.
        max_self_attn_length: How many tokens softmax attention sees.
        base_scale_attn: Whether to scale the linear branch by the base's.
        mag_weight: The share of the linear branch.
        cross_gate: Whether to add the product of the branches.
        max_chunk_size: See `LinearAttentionOp`.
        linear_precision: A dtype, or its name.
        lora_config: What `peft.LoraConfig` takes, as `to_dict` gives it.
        padding_side: Where a tokenizer pads; "right" when omitted.
        bidirectional: Whether to read in both directions.
        pooling_config: Of the gates.
        compat: "upstream" for the operator of adapters trained with tptt 0.8.1 to 0.12.1.
        gate_granularity: One gate for each "channel" or "head".
        backend: "auto", "torch" or "fla", see `linear_attention`.
        recurrent_config: The parts of a mode, in place of its name.
        order: A part of a mode, as in tptt 0.12, like the four that follow; what is not given is
            that of "delta_rule".
        alpha_gate: How the state decays: "1" or "c", since it does not.
        beta_gate: What the gate is made of.
        linear: Whether no gelu is applied to the state.
        trick: How further updates of a token are derived.
        model_task: "causal_lm", or "feature_extraction" for a base model without a head.
        base_model_subfolder: Where the base model lies in its directory or repository.
        use_linear_checkpoint: Whether linear attention is computed again in the backward pass, to
            save memory.
        **kwargs: Fields that every config has.

    Raises:
        ModeError: (a ValueError) If there is no such mode.
        ArgumentError: (a ValueError) If another field has no meaning.
    """

    model_type = "tptt"
    architectures: ClassVar[list[str]] = ["TpttModel"]
    auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_tptt.TpttConfig",
        "AutoModelForCausalLM": "modeling_tptt.TpttModel",
    }
    has_no_defaults_at_init = True
    RECURRENT_MODES: ClassVar[dict[str, dict[str, Any]]] = {
        name: dict(parts) for name, parts in RECURRENT_MODES.items()
    }

    def __init__(
        self,
        base_model_config: Mapping[str, Any] | PretrainedConfig | None = None,
        base_model_name: str = "meta-llama/Llama-3.2-1B",
        name_or_path: str | os.PathLike[str] | None = None,
        target_modules_names: Sequence[str] | None = None,
        force_attn_implementation: str | None = "eager",
        operator_mode: str | None = _MODE,
        max_self_attn_length: int | None = None,
        base_scale_attn: bool = False,
        mag_weight: float = 0.5,
        cross_gate: bool = False,
        max_chunk_size: int = 64,
        linear_precision: str | torch.dtype = "float32",
        lora_config: Mapping[str, Any] | None = None,
        padding_side: str | None = None,
        bidirectional: bool = False,
        pooling_config: Mapping[str, Any] | None = None,
        *,
        compat: str | None = None,
        gate_granularity: str = "channel",
        backend: str = "auto",
        recurrent_config: Mapping[str, Any] | None = None,
        order: int | None = None,
        alpha_gate: str | None = None,
        beta_gate: str | None = None,
        linear: bool | None = None,
        trick: str | None = None,
        model_task: str = "causal_lm",
        base_model_subfolder: str | None = None,
        use_linear_checkpoint: bool | None = None,
        **kwargs: Any,
    ) -> None:
        base = as_dict(base_model_config)
        if base is None and os.path.isdir(base_model_name):
            place = {"subfolder": base_model_subfolder or ""}
            base = as_dict(AutoConfig.from_pretrained(base_model_name, **place))
        merged = _mergeable(base)
        for name in ("architectures", "auto_map", "model_type", *merged):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        for name, value in merged.items():
            setattr(self, name, copy.deepcopy(value))
        self.base_model_config = base
        self.base_model_name = base_model_name
        self.name_or_path = (
            str(name_or_path or "") or f"Titans-{base_model_name.rpartition('/')[2]}"
        )
        self.target_modules_names = list(target_modules_names or _SUFFIXES)
        self.force_attn_implementation = force_attn_implementation
        _check_known("alpha_gate", alpha_gate, _NO_DECAY)
        parts = {"order": order, "gate_type": beta_gate, "linear": linear, "trick": trick}
        self.operator_mode, mode = _choose_mode(operator_mode, recurrent_config, parts)
        self.recurrent_config = dict(vars(mode))
        _check_known("model_task", model_task, MODEL_TASKS)
        self.model_task = model_task
        self.base_model_subfolder = base_model_subfolder
        self.use_linear_checkpoint = bool(use_linear_checkpoint)
        self.max_self_attn_length = max_self_attn_length
        self.base_scale_attn = base_scale_attn
        self.mag_weight = float(mag_weight)
        self.cross_gate = cross_gate
        self.max_chunk_size = max_chunk_size
        self.linear_precision = str(resolve_dtype(linear_precision)).removeprefix("torch.")
        self.lora_config = _plain_lora(lora_config)
        self.padding_side = _choose_side(padding_side)
        self.bidirectional = bidirectional
        self.pooling_config = convert_sets_to_lists(pooling_config)
        self.compat = compat
        self.gate_granularity = gate_granularity
        _check_known("backend", backend, BACKENDS)
        self.backend = backend
        self.architectures = ["TpttModel"]  # pyright: ignore[reportAttributeAccessIssue, reportIncompatibleVariableOverride]
        if bidirectional:
            _LOGGER.info("Bidirectional is enabled: tokens see those that follow them.")

    def read_base(self) -> PretrainedConfig:
        """Return the base model's config, fetched by name if it is not here yet.

        Raises:
            OSError: If it cannot be fetched.
        """
        if self.base_model_config is None:
            place = {"subfolder": self.base_model_subfolder or ""}
            base = AutoConfig.from_pretrained(self.base_model_name, **place)
            self.base_model_config = as_dict(base) or {}
        parts = dict(self.base_model_config)
        return AutoConfig.for_model(parts.pop("model_type"), **parts)


def as_dict(config: Mapping[str, Any] | PretrainedConfig | None) -> dict[str, Any] | None:
    """Return a base model's config as its file would give it back.

    Raises:
        ArgumentError: (a ValueError) If it does not say what it is of.
    """
    if config is None:
        return None
    plain = config.to_dict() if isinstance(config, PretrainedConfig) else dict(config)
    if "model_type" not in plain:
        raise ArgumentError(
            "base_model_config has no model_type, so nobody can tell what it is of. Give the "
            "config of a model of transformers."
        )
    # As a file would give it back: keys become strings, tuples lists.
    return json.loads(json.dumps(convert_sets_to_lists(plain), default=str))


def _mergeable(base: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what can be read of a base config as if it were the model's own."""
    if base is None:
        return {}
    merged = {name: value for name, value in base.items() if name not in _OF_BASE_ALONE}
    kind = base["model_type"]
    # not its get, which knows nothing of what is imported on demand
    known = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401
    for name, own in getattr(known, "attribute_map", {}).items():
        if own in merged:
            merged.setdefault(name, merged[own])
    return merged


def _plain_lora(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the config of adapters, as JSON can hold it."""
    if config is None:
        return None
    values = {key: getattr(value, "value", value) for key, value in config.items()}
    return convert_sets_to_lists(values)


def _choose_mode(
    name: str | None, recurrent_config: Mapping[str, Any] | None, parts: Mapping[str, Any]
) -> tuple[str, RecurrentMode]:
    """Return the name of a mode and what it is made of, of what says so."""
    given = {part: value for part, value in parts.items() if value is not None}
    if not given:
        name = name or _MODE
        return name, resolve_mode(name, recurrent_config)
    if recurrent_config or name not in (None, _MODE):
        raise ArgumentError(
            f"{', '.join(given)} of a mode cannot be given beside operator_mode {name!r} and "
            f"recurrent_config {recurrent_config!r}. Give one of the three."
        )
    mode = resolve_mode(_MODE, given)
    return get_mode_name(**vars(mode)), mode


def _check_known(what: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        names = ", ".join(each for each in known if each is not None)
        raise ArgumentError(f"{what} must be one of {names}, got {value!r}.")


def _choose_side(side: str | None) -> str:
    if side is None:
        _LOGGER.info("padding_side is not given, defaulting to 'right'.")
        return "right"
    if side not in PADDING_SIDES:
        raise ArgumentError(f"padding_side must be left or right, got {side!r}.")
    return side

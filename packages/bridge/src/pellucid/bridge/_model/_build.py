"""A bridge over any module."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pellucid.bridge._architectures._record import Architecture
from pellucid.bridge._architectures._registry import known_architectures
from pellucid.bridge._model._bridge import TransformerBridge
from pellucid.bridge._names._config import TransformerBridgeConfig
from pellucid.core import ArgumentError


def build_bridge_from_module(
    model: nn.Module,
    architecture: Architecture | str | None = None,
    *,
    hf_config: Any = None,
    tl_config: TransformerBridgeConfig | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    model_name: str = "custom",
    post_adapter_hook: Callable[[TransformerBridge], None] | None = None,
) -> TransformerBridge:
    """Return a bridge over a module, which need not be one of transformers.

    Args:
        model: Anything with a list of blocks. It stays as it is unless `dtype` or `device` say
            otherwise.
        architecture: Its record, or the name of a class that has one; found by its class, else by
            its structure, if None.
        hf_config: Its configuration, in the words of transformers.
        tl_config: Its configuration as a `TransformerBridgeConfig`, or a dictionary of its fields.
            One of the two is needed for a module without a `config` of its own.
        tokenizer: For inputs that are text.
        dtype: Converts the module.
        device: Moves the module.
        model_name: What it is called.
        post_adapter_hook: Called with the bridge before it is returned.

    Raises:
        ArgumentError: (a ValueError) If there is no configuration, or two, or no such record.
        ArchitectureError: (a ValueError) If no blocks can be found.
    """
    if hf_config is not None and tl_config is not None:
        raise ArgumentError("hf_config and tl_config exclude each other: pass one of them.")
    config = hf_config if hf_config is not None else _read(tl_config)
    record = None if isinstance(architecture, str) else architecture
    if isinstance(architecture, str):
        record = known_architectures().get(architecture)
        if record is None:
            raise ArgumentError(
                f"no record describes {architecture!r}. register_architecture(...) adds one."
            )
    if dtype is not None or device is not None:
        model = model.to(device=device, dtype=dtype)
    bridge = TransformerBridge(model, record, tokenizer, config=config)
    bridge.cfg.model_name = model_name
    if post_adapter_hook is not None:
        post_adapter_hook(bridge)
    return bridge


def _read(
    config: TransformerBridgeConfig | Mapping[str, Any] | None,
) -> TransformerBridgeConfig | None:
    if config is None:
        return None
    if isinstance(config, TransformerBridgeConfig):
        return dataclasses.replace(config)
    return TransformerBridgeConfig.from_dict(config)

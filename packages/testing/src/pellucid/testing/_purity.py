"""Takes down what belongs to the caller, so that a change to it can be named."""

import copy
import random
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import jaxtyping
import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core import as_tokenizer

_SAMPLE = "The red cat is here, and 7 dogs."
_TOKENIZER_SETTINGS = ("chat_template", "padding_side", "truncation_side", "pad_token", "bos_token")


_UNLIKELY_SEED = 780_291_637


@contextmanager
def watched() -> Generator[None]:
    """Make a change to a global generator visible, and undo it afterwards.

    The generators begin in a state that nobody seeds them to: one who seeds with 0 where another
    one did so before would go unseen. Runtime checks are off: to look at an element of a list,
    beartype draws one from the generator of `random`.
    """
    was_off = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(_UNLIKELY_SEED)
    np.random.seed(_UNLIKELY_SEED)
    torch.manual_seed(_UNLIKELY_SEED)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", was_off)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


def global_state() -> dict[str, Any]:
    """Return the state of the process: generators, gradient mode, defaults, warning filters."""
    return {
        "torch's generator": torch.random.get_rng_state().clone(),
        "random's generator": random.getstate(),
        "numpy's generator": _plain(np.random.get_state()),
        "the gradient mode": torch.is_grad_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the warning filters": list(warnings.filters),
    }


def tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer does, and how it is set."""
    state: dict[str, Any] = {
        "encoding": list(tokenizer.encode(_SAMPLE)),
        "the number of tokens": as_tokenizer(tokenizer).vocab_size,
        "the special ids": list(as_tokenizer(tokenizer).all_special_ids),
    }
    settings = {name: getattr(tokenizer, name, None) for name in _TOKENIZER_SETTINGS}
    return {f"the tokenizer's {name}": held for name, held in {**state, **settings}.items()}


def module_state(model: Any) -> dict[str, Any]:
    """Return weights, flags and modes of the modules that a model holds."""
    state: dict[str, Any] = {}
    for attribute, module in vars(model).items():
        if isinstance(module, nn.Module):
            for name, weight in module.named_parameters():
                state[f"{attribute}.{name}"] = weight.detach().clone()
                state[f"{attribute}.{name}.requires_grad"] = weight.requires_grad
                state[f"{attribute}.{name}.grad"] = weight.grad
            for name, inner in module.named_modules():
                state[f"{attribute}.{name} training"] = inner.training
                state[f"{attribute}.{name} hooks"] = _count_hooks(inner)
    return state


def copy_value(value: Any) -> Any:
    """Return a copy that shares nothing with a value."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if hasattr(value, "to_dict"):
        return {name: copy_value(held) for name, held in value.to_dict().items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: copy_value(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {name: copy_value(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_value(held) for held in value]
    return copy.deepcopy(value)


def find_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not as it was."""
    return sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not same(before[name], after[name])
    )


def same(left: Any, right: Any) -> bool:
    """Say whether two copied values are equal, tensors by dtype, shape and bits."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        alike = left.shape == right.shape and left.dtype == right.dtype
        return alike and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def _plain(state: Any) -> list[Any]:
    return [held.tolist() if isinstance(held, np.ndarray) else held for held in state]


def _count_hooks(module: nn.Module) -> int:
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, table)) for table in tables)

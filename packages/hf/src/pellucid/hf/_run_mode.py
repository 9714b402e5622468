"""Puts a model into the mode that a computation needs, and back."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def held_in_mode(model: nn.Module, *, train: bool) -> Generator[None]:
    """Evaluate with dropout off and frozen weights, or train with both on; restore it at the end.

    Gradients are only ever taken at the embeddings; weights that asked for one would keep every
    activation alive for nothing.

    Args:
        model: Whose modules and weights are switched; those that are right already stay untouched.
        train: Whether modules train and weights need gradients.
    """
    held = list_modules(model)
    modules = [module for module in held if module.training != train]
    weights = [
        weight
        for weight in list_weights(held)
        if weight.requires_grad != train and weight.is_floating_point()
    ]
    try:
        for module in modules:
            module.training = train
        for weight in weights:
            weight.requires_grad = train
        yield
    finally:
        for module in modules:
            module.training = not train
        for weight in weights:
            weight.requires_grad = not train


def list_modules(model: nn.Module) -> list[nn.Module]:
    """Return a module and all within it, each once; several times as fast as `modules()`.

    Every step of an optimizer looks at all of them, and on a small model that would be felt.
    """
    found: dict[nn.Module, None] = {model: None}
    waiting: list[Any] = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def list_weights(modules: Iterable[Any]) -> list[nn.Parameter]:
    """Return the parameters of some modules; one that several modules have comes several times."""
    return [w for module in modules for w in module._parameters.values() if w is not None]

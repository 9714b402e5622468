"""Puts a model into the mode that a computation needs, and back."""

from collections.abc import Generator
from contextlib import contextmanager

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
    modules = [module for module in model.modules() if module.training != train]
    weights = [
        weight
        for weight in model.parameters()
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

"""Running a network without training it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """Turn off gradients, dropout and whatever else training does, and restore it afterwards.

    Args:
        model: A network; anything that is no module is left as it is.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    trained = [module for module in modules if module.training]
    for module in trained:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in trained:
            module.training = True

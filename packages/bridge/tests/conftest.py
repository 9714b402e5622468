"""Tiny models, and what a model looks like from outside."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.bridge import TransformerBridge
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer

# The import mode of this workspace keeps test folders off the path.
sys.path.append(str(Path(__file__).parent))

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture
def llama(tokenizer: Any) -> TransformerBridge:
    return TransformerBridge(tiny_llama(), tokenizer=tokenizer)


@pytest.fixture
def gpt2(tokenizer: Any) -> TransformerBridge:
    return TransformerBridge(tiny_gpt2(), tokenizer=tokenizer)


@pytest.fixture(params=["llama", "gpt2"])
def bridge(request: pytest.FixtureRequest, tokenizer: Any) -> TransformerBridge:
    model = {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param]()
    return TransformerBridge(model, tokenizer=tokenizer)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(3))


def appearance(model: Any) -> dict[str, Any]:
    """What of a model could be left behind: modules, their hooks and dictionaries, configs."""
    seen: dict[str, Any] = {"keys": tuple(model.state_dict()), "training": model.training}
    for name, module in model.named_modules():
        held = module.__dict__
        seen[f"{name} identity"] = (id(module), type(module), id(held.get("config")))
        seen[f"{name} names"] = tuple(sorted(held))
        seen[f"{name} forward"] = held.get("forward")
        seen[f"{name} hooks"] = tuple(len(held[hooks]) for hooks in HOOKS)
    seen["config"] = model.config.to_dict()
    seen["implementation"] = model.config._attn_implementation
    return seen


@pytest.fixture
def unchanged() -> Callable[[Any], Any]:
    """A context in and after which a model must be what it was before."""

    @contextmanager
    def hold(model: Any) -> Iterator[None]:
        before = appearance(model)
        with torch.no_grad():
            weights = {name: weight.clone() for name, weight in model.named_parameters()}
        yield
        assert appearance(model) == before
        assert all(torch.equal(weights[name], weight) for name, weight in model.named_parameters())

    return hold

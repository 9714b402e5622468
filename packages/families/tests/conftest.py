"""A tokenizer of few words, and networks of milliseconds."""

import sys
from pathlib import Path

import pytest
import torch

from pellucid.families.arlm import RotaryTransformerARLMModel
from pellucid.families.mlm import RotaryTransformerMLMModel
from pellucid.xlm.datamodule import SimpleSpaceTokenizer

# The import mode of this workspace keeps test folders off the path.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def tokenizer():
    return SimpleSpaceTokenizer.for_numbers(12)


@pytest.fixture
def make_model(tokenizer):
    def make(kind, *, seed=0, **settings):
        settings = {"dropout": 0.0, "max_length": 64, "mix_neighbours": True, **settings}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = kind(len(tokenizer), 16, 2, 2, **settings)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if "norm" in name or "bias" in name:
                        weight.add_(0.3 * torch.randn_like(weight))
        return model

    return make


@pytest.fixture
def arlm_model(make_model):
    return make_model(RotaryTransformerARLMModel)


@pytest.fixture
def mlm_model(make_model):
    return make_model(RotaryTransformerMLMModel)


@pytest.fixture
def pairs(tokenizer):
    """Prompts and suffixes of several lengths."""
    texts = [("1 2 3", "4 5"), ("6", "7"), ("8 9 10 11", "0 1 2")]
    return [
        {"prompt_ids": tokenizer.encode(prompt), "input_ids": tokenizer.encode(suffix)}
        for prompt, suffix in texts
    ]


@pytest.fixture
def texts(tokenizer):
    return [{"input_ids": tokenizer.encode(text)} for text in ("1 2 3", "4", "5 6 7 8 9")]

"""Tiny models for every kind of recipe, and what it takes to run each on them for two steps."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.recipes import ModelKind, Recipe

sys.path.insert(0, str(Path(__file__).parent))

from recipe_samples import SMALL, TEMPLATES, make_targets

Task = dict[str, Any]
MakeTask = Callable[[Recipe], Task]


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    """Random models with every access there is, made once."""
    from pellucid.hf import ClassifierHFModel, EncoderHFModel, LMHFModel
    from pellucid.testing import tiny_bert, tiny_llama, tiny_tokenizer, tiny_wordpiece_tokenizer

    words = tiny_wordpiece_tokenizer()
    return {
        "plain": LMHFModel(tiny_llama(seed=1), tokenizer=tiny_tokenizer()),
        "seen": LMHFModel(
            tiny_llama(seed=1, attn_implementation="eager"),
            tokenizer=tiny_tokenizer(),
            use_eager_attention=True,
            use_prefix_cache=False,
        ),
        "other": LMHFModel(tiny_llama(seed=2), tokenizer=tiny_tokenizer()),
        ModelKind.ENCODER: EncoderHFModel(tiny_bert(seed=1), tokenizer=words),
        ModelKind.CLASSIFIER: ClassifierHFModel(_tiny_classifier(words), tokenizer=words),
    }


def _tiny_classifier(tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=3,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BertForSequenceClassification(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * 0.3 + (weight.ndim == 1) * 0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def make_task(models: dict[str, Any]) -> MakeTask:
    """Returns the arguments of a run of two steps, for a recipe."""

    def make(recipe: Recipe) -> Task:
        is_language_model = recipe.model_kind is ModelKind.LANGUAGE_MODEL
        options = models["seen" if recipe.model_options else "plain"]
        return {
            "model": options if is_language_model else models[recipe.model_kind],
            "templates": TEMPLATES,
            "targets": make_targets(recipe),
            "seed": 5,
            "initial_trigger": "the cat and the dog",
            "num_steps": 2,
            "overrides": SMALL[recipe.optimizer],
            **{role.argument: models["other"] for role in recipe.roles},
        }

    return make

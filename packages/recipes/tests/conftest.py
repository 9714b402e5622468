"""Tiny models for every kind of recipe, and what it takes to run each on them for two steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pellucid.core import Targets
from pellucid.recipes import ModelKind, Recipe

TEMPLATES = ["I see {{OPTIMIZED_TRIGGER}} in the garden.", "We like {{OPTIMIZED_TRIGGER}} a lot."]
RESPONSES = ["a cat", "the dog"]

SMALL: dict[str, dict[str, Any]] = {
    "arca": {"n_candidates": 6, "n_grad_avg": 2, "use_retokenize": True},
    "auto-prompt": {"n_candidates": 6},
    "beam-search": {"beam_size": 2, "branching_factor": 2, "top_k": None},
    "gaslite": {"n_grad": 2, "n_flip": 2, "n_candidates": 6},
    "gaslite-plus": {"n_grad": 2, "n_flip": 2, "n_bulk_flips": 1, "n_candidates": 6},
    "gbda": {"n_grad_samples": 2, "n_final_gumbel_samples": 2},
    "gcg": {"n_candidates": 8, "sample_topk": 8},
    "gcg-plus": {"n_candidates": 8, "sample_topk": 8},
    "hot-flip": {},
    "pal": {"n_candidates": 8, "sample_topk": 8},
    "pez": {},
    "pgd": {},
    "probe-sampling-gcg": {"n_candidates": 16, "sample_topk": 8},
    "qcg": {"n_proxy_candidates": 16, "n_target_candidates": 4},
    "random-search": {"n_candidates": 6},
    "raslite-plus": {"n_candidates": 6},
    "soft-prompt": {},
}
"""Settings of each optimizer under which a step takes milliseconds."""

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


def make_targets(recipe: Recipe) -> Targets:
    """Return benign targets of every kind that a recipe may need."""
    generator = torch.Generator().manual_seed(0)
    width = torch.randn(2, 32, generator=generator)
    if recipe.model_kind is ModelKind.ENCODER:
        return Targets(target_vectors=width)
    if recipe.model_kind is ModelKind.CLASSIFIER:
        return Targets(target_class_idx=[1, 1], true_class_idx=[0, 2])
    return Targets(target_response_strs=RESPONSES, target_directions=width)

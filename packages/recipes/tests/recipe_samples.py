"""Benign tasks, and settings under which a step takes milliseconds."""

from typing import Any

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


def make_targets(recipe: Recipe) -> Targets:
    """Return benign targets of every kind that a recipe may need."""
    generator = torch.Generator().manual_seed(0)
    width = torch.randn(2, 32, generator=generator)
    if recipe.model_kind is ModelKind.ENCODER:
        return Targets(target_vectors=width)
    if recipe.model_kind is ModelKind.CLASSIFIER:
        return Targets(target_class_idx=[1, 1], true_class_idx=[0, 2])
    return Targets(target_response_strs=RESPONSES, target_directions=width)

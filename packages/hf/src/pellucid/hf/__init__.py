"""Hugging Face transformers as Pellucid models.

`LMHFModel` wraps a causal language model, `EncoderHFModel` an encoder or a pipeline of
sentence-transformers, `CLIPTextEncoderHFModel` the text side of CLIP and `ClassifierHFModel` a
classifier, in memory or by name, for optimization from tokens and from texts.
`HuggingFaceBackendModel` and the inputs managers are what they are built from, and what a model of
another kind can be built on.
"""

from pellucid.hf._backend import HuggingFaceBackendModel
from pellucid.hf._casting import cast_to_model_tokenizer
from pellucid.hf._classifier import ClassifierHFModel
from pellucid.hf._clip import CLIPTextEncoderHFModel
from pellucid.hf._encoder import EncoderHFModel
from pellucid.hf._errors import ModelLoadError
from pellucid.hf._inputs import (
    EncoderHFTokenInputManager,
    HuggingFaceTokenInputManager,
    LMHFTokenInputManager,
)
from pellucid.hf._lm import LMHFModel
from pellucid.hf._prefix import PrefixReport
from pellucid.hf._sharding import shard_candidates

__all__ = [
    "CLIPTextEncoderHFModel",
    "ClassifierHFModel",
    "EncoderHFModel",
    "EncoderHFTokenInputManager",
    "HuggingFaceBackendModel",
    "HuggingFaceTokenInputManager",
    "LMHFModel",
    "LMHFTokenInputManager",
    "ModelLoadError",
    "PrefixReport",
    "cast_to_model_tokenizer",
    "shard_candidates",
]

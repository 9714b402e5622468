"""Hugging Face transformers as Pellucid models.

`LMHFModel` wraps a causal language model, in memory or by name, for optimization from tokens and
from texts. `HuggingFaceBackendModel` and the inputs managers are what it is built from, and what a
model of another kind can be built on.
"""

from pellucid.hf._backend import HuggingFaceBackendModel
from pellucid.hf._errors import ModelLoadError
from pellucid.hf._inputs import HuggingFaceTokenInputManager, LMHFTokenInputManager
from pellucid.hf._lm import LMHFModel

__all__ = [
    "HuggingFaceBackendModel",
    "HuggingFaceTokenInputManager",
    "LMHFModel",
    "LMHFTokenInputManager",
    "ModelLoadError",
]

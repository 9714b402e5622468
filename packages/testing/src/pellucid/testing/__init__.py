"""What it takes to test anything built on Pellucid.

Conformance suites, one class for each contract, to subclass; `checked`, which holds any object to a
contract's signatures; seeded tiny models and tokenizers that need no download. The pytest plugin,
active wherever this package is installed, turns the runtime type checks on and the network off.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The plugin lives in this package, and pytest imports it before anything else. Were the names below
# imported here, so would be `pellucid.core`, before the plugin has asked it to check its functions.
if TYPE_CHECKING:
    from pellucid.testing._checked import checked
    from pellucid.testing._loss_contract import LossContract
    from pellucid.testing._model_contracts import (
        ClassifierContract,
        EncoderContract,
        LMContract,
    )
    from pellucid.testing._network_error import NetworkAccessError
    from pellucid.testing._optimizer_contract import OptimizerContract
    from pellucid.testing._tiny_encoder import TinyEncoder
    from pellucid.testing._tiny_hf_models import tiny_bert, tiny_gpt2, tiny_llama
    from pellucid.testing._tiny_hf_tokenizers import tiny_tokenizer, tiny_wordpiece_tokenizer
    from pellucid.testing._tiny_inputs import TinyTokenInputManager
    from pellucid.testing._tiny_lm import TinyLM
    from pellucid.testing._tiny_losses import TinyResponseLoss, TinyVectorLoss
    from pellucid.testing._tiny_tokenizer import TinyTokenizer
    from pellucid.testing._tokenizer_contract import TokenizerContract
    from pellucid.testing._tracker_contract import TrackerContract

_HOMES = {
    "ClassifierContract": "_model_contracts",
    "EncoderContract": "_model_contracts",
    "LMContract": "_model_contracts",
    "LossContract": "_loss_contract",
    "NetworkAccessError": "_network_error",
    "OptimizerContract": "_optimizer_contract",
    "TinyEncoder": "_tiny_encoder",
    "TinyLM": "_tiny_lm",
    "TinyResponseLoss": "_tiny_losses",
    "TinyTokenInputManager": "_tiny_inputs",
    "TinyTokenizer": "_tiny_tokenizer",
    "TinyVectorLoss": "_tiny_losses",
    "TokenizerContract": "_tokenizer_contract",
    "TrackerContract": "_tracker_contract",
    "checked": "_checked",
    "tiny_bert": "_tiny_hf_models",
    "tiny_gpt2": "_tiny_hf_models",
    "tiny_llama": "_tiny_hf_models",
    "tiny_tokenizer": "_tiny_hf_tokenizers",
    "tiny_wordpiece_tokenizer": "_tiny_hf_tokenizers",
}

__all__ = [
    "ClassifierContract",
    "EncoderContract",
    "LMContract",
    "LossContract",
    "NetworkAccessError",
    "OptimizerContract",
    "TinyEncoder",
    "TinyLM",
    "TinyResponseLoss",
    "TinyTokenInputManager",
    "TinyTokenizer",
    "TinyVectorLoss",
    "TokenizerContract",
    "TrackerContract",
    "checked",
    "tiny_bert",
    "tiny_gpt2",
    "tiny_llama",
    "tiny_tokenizer",
    "tiny_wordpiece_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

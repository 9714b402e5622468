"""A tokenizer, models, losses, trackers and an optimizer that the tests of core share.

They are small on purpose, and none of the models calls `super().__init__()`.
"""

import dataclasses
import inspect
import os
import subprocess
import sys
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import (
    BaseLoss,
    BaseOptimizer,
    BaseTokenizer,
    BaseTracker,
    ClassifierBaseModel,
    EncoderBaseModel,
    Flow,
    LMBaseModel,
    LossTextAccessMixin,
    ModelOutput,
    OptimizerResult,
    Provides,
    TokenAccessMixin,
)

TEMPLATE = "Say {{OPTIMIZED_TRIGGER}} now"


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def unhooked(function: Any) -> Any:
    """The function as users have it: without the checks that the import hook adds in test runs.

    They would refuse an argument of a wrong type before the function can say what is wrong.
    """
    return inspect.unwrap(function)


def run_python(code: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; an environment value of None unsets the variable."""
    merged: dict[str, str | None] = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


class CharTokenizer(BaseTokenizer):
    """One id for each character, its code point; code points below 3 are special."""

    def __init__(self, name: str = "unknown") -> None:
        self._name = name

    @property
    def vocab_size(self) -> int:
        return 0x110000

    @property
    def name_or_path(self) -> str:
        return self._name

    @property
    def all_special_ids(self) -> list[int]:
        return [0, 1, 2]

    def __call__(self, texts, return_tensors="list", **kwargs):
        del return_tensors, kwargs
        return {"input_ids": [self.encode(text) for text in texts]}

    def encode(self, text):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids)

    def batch_decode(self, ids):
        return [self.decode(row) for row in ids]


@dataclasses.dataclass
class LengthLoss(BaseLoss):
    """The length of the input text, times a factor."""

    factor: float = 1.0

    def __call__(self, input_texts: list[str]) -> Float[Tensor, " batch"]:
        return torch.tensor([self.factor * len(text) for text in input_texts])


class EmbeddingSumLoss(BaseLoss):
    def __call__(self, output_embeddings: Float[Tensor, "batch d_embed"]) -> Tensor:
        return output_embeddings.sum(dim=-1)


class LetterEncoder(EncoderBaseModel, LossTextAccessMixin):
    """Embeds a text as the counts of some letters."""

    provides: ClassVar[Provides] = {Flow.TEXTS: {"output_embeddings": ()}}

    def __init__(self, letters: str = "abc") -> None:
        self.letters = letters
        self.calls: list[list[str]] = []

    @property
    def d_model(self) -> int:
        return len(self.letters)

    def invoke_from_texts(self, input_texts: list[str], **kwargs: Any) -> ModelOutput:
        del kwargs
        self.calls.append(list(input_texts))
        self._update_invoke_stats(n_tokens=sum(map(len, input_texts)), n_samples=len(input_texts))
        counts = [[float(text.count(letter)) for letter in self.letters] for text in input_texts]
        return ModelOutput(output_embeddings=torch.tensor(counts))


class EchoLM(LMBaseModel, LossTextAccessMixin, TokenAccessMixin):
    """Answers every text with itself in upper case."""

    def __init__(self, name: str | None = None) -> None:
        self.model_name = name
        self.tokenizer_ = CharTokenizer()

    @property
    def tokenizer(self) -> BaseTokenizer:
        return self.tokenizer_

    def set_inputs_from_tokens(self, templates, targets=None):
        from pellucid.core import DefaultTokenInputManager

        ids = [self.tokenizer.encode(template) for template in templates]
        self._token_input_manager = DefaultTokenInputManager(self.tokenizer, ids, targets)

    def invoke_from_texts(
        self,
        input_texts,
        message_targets=None,
        require_target_prefill=False,
        require_generation=False,
        **kwargs,
    ) -> ModelOutput:
        del message_targets, require_target_prefill, kwargs
        self._update_invoke_stats(n_tokens=sum(map(len, input_texts)), n_samples=len(input_texts))
        answers = [text.upper() for text in input_texts] if require_generation else None
        return ModelOutput(generated_response_strs=answers, full_strs=list(input_texts))


class ParityClassifier(ClassifierBaseModel):
    @property
    def n_classes(self) -> int:
        return 2

    def invoke_from_texts(self, input_texts: list[str], **kwargs: Any) -> ModelOutput:
        del kwargs
        rows = [[float(len(text) % 2), 1.0 - len(text) % 2] for text in input_texts]
        return ModelOutput(output_class_logits=torch.tensor(rows))


class ListTracker(BaseTracker):
    """Keeps every call, in order."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def _init(self, config):
        self.events.append(("init", dict(config)))

    def _log(self, data):
        self.events.append(("log", dict(data)))

    def _finish(self, summary):
        self.events.append(("finish", dict(summary)))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


class AppendOptimizer(BaseOptimizer):
    """Appends one of a few letters at each step, the one with the lowest loss."""

    model_requirements = (LossTextAccessMixin,)

    def __init__(self, model, loss, tracker=None, seed=None, *, num_steps=2, letters="abc"):
        super().__init__(model, loss, tracker, seed)
        self.num_steps = num_steps
        self.letters = letters

    def optimize_trigger(self, templates, initial_trigger=None, targets=None):
        self.model.set_inputs_from_texts(templates, targets)
        trigger = initial_trigger or ""
        result = OptimizerResult(best_trigger_str=trigger, seed=self.seed)
        for _ in self.track_steps(range(self.num_steps), disable=True):
            candidates = [trigger + letter for letter in self.letters]
            losses = self.model.compute_loss_from_texts(candidates, self.loss)
            best = int(losses.argmin())
            trigger = candidates[best]
            result.losses.append(float(losses[best]))
            self.log(losses[best], trigger)
        result.best_loss = min(result.losses, default=float("inf"))
        result.best_trigger_str = trigger
        return result

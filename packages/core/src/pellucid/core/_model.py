"""The bases of all models. None of them needs `super().__init__()` to be called."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from pellucid.core._errors import ArgumentError, ContractError
from pellucid.core._flops import FlopCounterBase, ManualFlopCounter
from pellucid.core._flow import Flow
from pellucid.core._model_io import ModelOutput
from pellucid.core._targets import MessageTargets
from pellucid.core._template import Template
from pellucid.core._usage import UsageStats

Provides = Mapping[Flow, Mapping[str, tuple[str, ...]]]
"""By flow: each field that a model sets, and the `require_*` options it sets it under."""


class BaseModel(ABC):
    """What every model has: a device, a name, batch sizes and usage statistics.

    Attributes:
        provides: Which fields of `ModelOutput` and `ModelInput` the model sets in each flow, and
            the `require_*` options a field depends on. None means undeclared: then what a loss
            reads is checked when the loss is computed, not before.
        optional_fields: By name, the fields that a class provides only in objects made with an
            option, and the option; an object without it leaves the field out of its `provides`.
    """

    provides: Provides | None = None
    optional_fields: ClassVar[Mapping[str, str]] = {}

    _model: Any = None
    _forward_pass_batch_size: int = 4096
    _backward_pass_batch_size: int = 512
    _flop_counter: FlopCounterBase | None = None
    _usage: UsageStats | None = None

    @abstractmethod
    def __call__(self, input_texts: Any, **kwargs: Any) -> Any:
        """Answer texts in the model's most natural form."""

    @property
    def device(self) -> torch.device:
        """Where tensors for this model belong; local models say where their weights are."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def get_model_name(self) -> str:
        """Return the model's name, or its class name when it has none."""
        for attribute in ("_model_name", "model_name"):
            name = getattr(self, attribute, None)
            if name:
                return str(name)
        return type(self).__name__

    def set_flop_counting(self, mode: str = "manual") -> None:
        """Turn FLOP counting on or off.

        Args:
            mode: "manual" counts 2NT a forward pass (see `ManualFlopCounter`), "none" nothing.

        Raises:
            RequirementError: (a TypeError) If the model is not a Hugging Face one.
            ArgumentError: If the mode is unknown.
        """
        if mode not in ("manual", "none"):
            raise ArgumentError(f"unknown mode {mode!r}. Use 'manual' or 'none'.")
        self._flop_counter = ManualFlopCounter(self._counted_module()) if mode == "manual" else None

    def get_usage_stats(self) -> dict[str, int]:
        """Return tokens, calls and samples since the last reset, and FLOPs when counted."""
        return self._counters().to_dict(with_flops=self._flop_counter is not None)

    def reset_usage_stats(self) -> None:
        """Set all counters to zero."""
        self._usage = UsageStats()

    def restore_usage_stats(self, stats: Mapping[str, int]) -> None:
        """Set the counters to what `get_usage_stats` returned in an earlier process.

        Raises:
            ArgumentError: If a counter is unknown.
        """
        try:
            self._usage = UsageStats(**stats)
        except TypeError as error:
            raise ArgumentError(f"unknown usage counters in {dict(stats)!r}.") from error

    def _counted_module(self) -> Any:
        return self._model

    def _counters(self) -> UsageStats:
        if self._usage is None:
            self._usage = UsageStats()
        return self._usage

    def _update_usage_stats(
        self,
        tokens: int = 0,
        forward_calls: int = 0,
        forward_samples: int = 0,
        grad_calls: int = 0,
        grad_samples: int = 0,
        flops: int = 0,
    ) -> None:
        """Add to the counters; called where the raw call is made."""
        counters = self._counters()
        counters.total_tokens += tokens
        counters.forward_calls += forward_calls
        counters.forward_samples += forward_samples
        counters.grad_calls += grad_calls
        counters.grad_samples += grad_samples
        counters.total_flops += flops

    def _update_invoke_stats(
        self, *, n_tokens: int, n_samples: int, count_backward: bool = False
    ) -> None:
        """Count one forward pass, and the backward pass through it if there is one."""
        self._update_usage_stats(
            tokens=n_tokens,
            forward_calls=1,
            forward_samples=n_samples,
            grad_calls=int(count_backward),
            grad_samples=n_samples if count_backward else 0,
            flops=self._count_flops(n_tokens, count_backward=count_backward),
        )

    def _count_flops(self, n_tokens: int, *, count_backward: bool) -> int:
        if self._flop_counter is None:
            return 0
        forward = self._flop_counter.count_forward(n_tokens)
        return forward + (self._flop_counter.count_backward(n_tokens) if count_backward else 0)


class _TextModel(BaseModel):
    """A model whose call answers texts with one field of its output."""

    _answer_field: ClassVar[str]
    _call_options: ClassVar[Mapping[str, bool]] = {}

    @abstractmethod
    def invoke_from_texts(self, input_texts: Any, **kwargs: Any) -> ModelOutput:
        """Run one forward pass, or make one request, over texts."""

    def __call__(
        self, input_texts: Sequence[Template], return_full_output: bool = False, **kwargs: Any
    ) -> Any:
        """Answer texts.

        Args:
            input_texts: The texts; conversations, too, where the model knows them.
            return_full_output: Whether to return the whole `ModelOutput`.
            **kwargs: Passed to `invoke_from_texts`.

        Raises:
            ContractError: If the model did not set the field that this kind of model answers with.
        """
        output = self.invoke_from_texts(input_texts, **{**self._call_options, **kwargs})
        if return_full_output:
            return output
        answer = getattr(output, self._answer_field)
        if answer is None:
            raise ContractError(
                f"{type(self).__name__}.invoke_from_texts must set {self._answer_field!r} in its "
                f"ModelOutput, it set {list(output.to_dict())}."
            )
        return answer


class LMBaseModel(_TextModel):
    """A language model: answers texts with generated responses."""

    _answer_field = "generated_response_strs"
    _call_options = {"require_generation": True}  # noqa: RUF012 - never changed

    @abstractmethod
    def invoke_from_texts(
        self,
        input_texts: Sequence[Template],
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Run the model on texts, each of them a prompt or a conversation.

        Args:
            input_texts: The prompts.
            message_targets: The targets of the template that the prompts come from.
            require_target_prefill: Whether to return the logits that predict the target response.
            require_generation: Whether to generate responses.
            **kwargs: Further `require_*` options and what the backend knows.
        """


class EncoderBaseModel(_TextModel):
    """An encoder: answers texts with vectors, of shape (batch, d_embed)."""

    _answer_field = "output_embeddings"

    @property
    @abstractmethod
    def d_model(self) -> int:
        """The width of the vectors."""


class ClassifierBaseModel(_TextModel):
    """A classifier: answers texts with class logits, of shape (batch, n_classes)."""

    _answer_field = "output_class_logits"

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """The number of classes."""

"""Laws that every model keeps, whatever its access: answers, names, usage, declarations."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pellucid.core import (
    BaseLoss,
    Flow,
    ModelInput,
    ModelOutput,
    set_fields,
)
from pellucid.testing._laws import expect, lack
from pellucid.testing._model_laws import ModelLaws, batch_size_of

_COUNTERS = {"total_tokens", "forward_calls", "forward_samples", "grad_calls", "grad_samples"}

# What each flow has by its nature, declared or not, and what a backend hands to itself.
_GIVEN: Mapping[Flow, frozenset[str]] = {
    Flow.TEXTS: frozenset({"input_texts", "input_trigger_strs", "message_targets"}),
    Flow.TOKENS: frozenset(
        {
            "input_prefix_cache_kwargs",
            "input_trigger_ids",
            "input_trigger_strs",
            "message_targets",
        }
    ),
    Flow.EMBEDS: frozenset({"input_prefix_cache_kwargs", "message_targets"}),
}


class BasicLaws(ModelLaws):
    """Answers, names and usage."""

    _answer_field: ClassVar[str]

    def test_base_facilities_work(self) -> None:
        """Name, device and usage are there, whether or not `super().__init__()` was called."""
        model = self._model()
        expect(model.get_model_name() != "", "get_model_name() must not be empty.")
        expect(isinstance(model.device, torch.device), "device must be a torch.device.")
        stats = model.get_usage_stats()
        expect(set(stats) - {"total_flops"} == _COUNTERS, f"usage counters are {sorted(stats)}.")

    def test_call_answers_each_text(self) -> None:
        """Calling the model answers with one field of its output, one entry for each text."""
        model = self._model()
        answer = self._answer_field
        declared = (model.provides or {}).get(Flow.TEXTS)
        if declared is not None and answer not in declared:
            lack(model, f"does not declare {answer!r} in the flow 'texts'")
        answers = model(list(self.texts))
        expect(len(answers) == len(self.texts), f"{len(answers)} answers, not {len(self.texts)}.")
        whole = model(list(self.texts), return_full_output=True)
        expect(isinstance(whole, ModelOutput), f"return_full_output gave {type(whole).__name__}.")
        expect(getattr(whole, answer) is not None, f"the full output lacks {answer!r}.")

    def test_usage_counts_and_resets(self) -> None:
        """Raw calls are counted where they are made, and forgotten on reset."""
        model = self._model()
        model.reset_usage_stats()
        expect(not any(model.get_usage_stats().values()), "counters are not 0 after a reset.")
        n_texts = len(self.texts)
        self._invoke(model, self.texts)
        first = model.get_usage_stats()
        expect(first["forward_calls"] >= 1, f"an invoke counted no forward call: {first}.")
        expect(first["total_tokens"] >= n_texts, f"too few tokens counted: {first}.")
        expect(
            first["forward_samples"] >= n_texts and first["forward_samples"] % n_texts == 0,
            f"an invoke over {n_texts} texts counted {first['forward_samples']} samples.",
        )
        expect(first["grad_calls"] == 0, f"an invoke counted a backward pass: {first}.")
        self._invoke(model, self.texts)
        grown = all(model.get_usage_stats()[name] >= first[name] for name in first)
        expect(grown, "a counter went down.")
        model.restore_usage_stats(first)
        expect(model.get_usage_stats() == first, "restore_usage_stats did not restore.")
        model.reset_usage_stats()
        expect(not any(model.get_usage_stats().values()), "counters are not 0 after a reset.")

    def test_an_answer_does_not_depend_on_its_batch(self) -> None:
        """A text is answered the same alone and in company."""
        model = self._model()
        together = self._comparable(self._invoke(model, self.texts))
        for row, text in enumerate(self.texts):
            alone = self._comparable(self._invoke(model, [text]))
            for name in together.keys() & alone.keys():
                self._compare(name, alone[name][0], together[name][row])

    def test_provides_is_truthful_for_texts(self) -> None:
        """What is declared for texts is set, and nothing else is."""
        self._check_provides(Flow.TEXTS)

    def test_provides_is_truthful_for_tokens(self) -> None:
        """What is declared for tokens is set, and nothing else is."""
        self._check_provides(Flow.TOKENS)

    def test_provides_is_truthful_for_embeddings(self) -> None:
        """What is declared for embeddings is set, and nothing else is."""
        self._check_provides(Flow.EMBEDS)

    def _check_provides(self, flow: Flow) -> None:
        model = self._model()
        if model.provides is None or flow not in model.provides:
            lack(model, f"declares nothing for the flow {flow.value!r}")
        declared = model.provides[flow]
        for options in sorted(set(declared.values())):
            held = self._record(flow, model, options)
            due = {name for name, under in declared.items() if set(under) <= set(options)}
            expect(
                due <= held,
                f"{sorted(due - held)} are declared for {flow.value!r} under {options}, "
                f"and not set; set are {sorted(held)}.",
            )
            undeclared = held - declared.keys() - _GIVEN[flow]
            expect(not undeclared, f"{sorted(undeclared)} are set, and not declared for {flow!r}.")

    def _record(self, flow: Flow, model: Any, options: tuple[str, ...]) -> set[str]:
        """Return the names of the fields that a loss with some options finds set."""
        recorder = _Recorder(options)
        if flow is Flow.EMBEDS:
            loss_flow = self._set_flow(Flow.TOKENS, model)
            ids = loss_flow.make_candidates(2)
            model.compute_grad_from_embeds(recorder, self._embed(model, ids))
        else:
            loss_flow = self._set_flow(flow, model)
            loss_flow.compute(loss_flow.make_candidates(2), recorder)
        return recorder.held

    def _comparable(self, output: ModelOutput) -> dict[str, Any]:
        """Return the fields that mean the same whatever the other rows' lengths."""
        names = (
            "output_embeddings",
            "prefill_response_logits",
            "output_class_logits",
            "generated_response_strs",
            "response_first_token_logprobs",
        )
        return {name: held for name, held in set_fields(output).items() if name in names}

    def _compare(self, name: str, alone: Any, together: Any) -> None:
        message = f"{name} of a text depends on the texts beside it."
        if isinstance(alone, torch.Tensor):
            difference = (alone - together).abs().max()
            scale = together.abs().max().clamp(min=1)
            expect(bool(difference <= self.tolerance * scale), f"{message} {difference:.3g}")
        elif isinstance(alone, dict):
            gaps = [abs(alone[key] - together[key]) for key in alone.keys() & together.keys()]
            expect(bool(gaps) and max(gaps) < 10 * self.tolerance, message)
        else:
            expect(alone == together, f"{message} {alone!r} and {together!r}.")


class _Recorder(BaseLoss):
    """Notes which fields there are; its value is made of the first one that has a gradient."""

    def __init__(self, options: tuple[str, ...]) -> None:
        self.held: set[str] = set()
        for option in options:
            setattr(self, option, True)

    def __call__(self, model_output: ModelOutput, model_input: ModelInput) -> torch.Tensor:
        fields = {**set_fields(model_output), **set_fields(model_input)}
        self.held.update(fields)
        for value in fields.values():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                return value.flatten(1).float().mean(dim=1)
        return torch.zeros(batch_size_of(model_output, model_input))

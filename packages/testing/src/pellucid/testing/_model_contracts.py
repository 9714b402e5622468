"""The conformance suites of models."""

from typing import Any, ClassVar

import torch

from pellucid.core import (
    BaseLoss,
    ClassifierBaseModel,
    EncoderBaseModel,
    Flow,
    LMBaseModel,
    LossTextAccessMixin,
    ModelInput,
    ModelOutput,
    Targets,
)
from pellucid.testing._basic_laws import BasicLaws
from pellucid.testing._gradient_laws import GradientLaws
from pellucid.testing._laws import expect, expect_close, lack
from pellucid.testing._loss_flow_laws import LossFlowLaws
from pellucid.testing._model_laws import batch_size_of
from pellucid.testing._purity_laws import PurityLaws
from pellucid.testing._tiny_losses import (
    TinyClassLoss,
    TinyFirstTokenLoss,
    TinyLogitLoss,
    TinyResponseLoss,
    TinyTextLoss,
    TinyVectorLoss,
)
from pellucid.testing._token_laws import TokenLaws


class LMContract(BasicLaws, LossFlowLaws, TokenLaws, GradientLaws, PurityLaws):
    """What every language model keeps; name a subclass `Test...` and give `make_model`.

    A law about an access that the model lacks is skipped, and the reason names the mixin.
    """

    _base = LMBaseModel
    _answer_field = "generated_response_strs"
    _probes: ClassVar[tuple[BaseLoss, ...]] = (
        TinyResponseLoss(),
        TinyLogitLoss(),
        TinyFirstTokenLoss(),
        TinyTextLoss(),
    )

    def test_prefill_logits_predict_the_target(self) -> None:
        """The target's logits are those of the positions before its tokens."""
        model = self._model()
        due = {"full_logits", "prefill_response_logits", "input_slices"}
        if not due <= set((model.provides or {}).get(Flow.TOKENS) or {}):
            lack(model, f"does not declare {sorted(due)} in the flow 'tokens'")
        subject, recorder = self._set_flow(Flow.TOKENS, model), _Recorder()
        subject.compute(subject.make_candidates(3), recorder)
        for output, given in recorder.passes:
            place = given.input_slices["appended"]
            target = given.message_targets.target_response_toks
            expect(place.stop - place.start == len(target), f"{len(target)} tokens lie at {place}.")
            if place.start > 0:  # else what predicts the first token lies in a cached prefix
                expect_close(
                    output.prefill_response_logits,
                    output.full_logits[:, place.start - 1 : place.stop - 1],
                    "The target's logits are not those of the positions before its tokens.",
                    tolerance=self.tolerance,
                )

    def test_conversations_are_templates(self) -> None:
        """A conversation is a template, too, and means the same in both flows."""
        model = self._model()
        conversation = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Say {{OPTIMIZED_TRIGGER}} now."},
        ]
        targets = self.make_targets(model).select_indices([0])
        subject, loss = self._flow(Flow.TOKENS, model), self._probe(model, Flow.TOKENS)
        subject.set_inputs([conversation], targets)
        ids = self._any_ids(model)
        ids = ids[model.retokenization_mask(ids)][:3]
        losses = subject.compute(ids, loss)
        expect(losses.shape == (len(ids),), f"losses have shape {tuple(losses.shape)}.")
        takes_texts = issubclass(type(model), LossTextAccessMixin)
        if takes_texts and self._provides_for(model, Flow.TEXTS, loss):
            model.set_inputs_from_texts([conversation], targets)
            by_text = model.compute_loss_from_texts(model.decode_triggers(ids), loss)
            self._same(by_text, losses, "A conversation has another loss as text.")


class EncoderContract(BasicLaws, LossFlowLaws, TokenLaws, GradientLaws, PurityLaws):
    """What every encoder keeps; name a subclass `Test...` and give `make_model`.

    A law about an access that the model lacks is skipped, and the reason names the mixin.
    """

    _base = EncoderBaseModel
    _answer_field = "output_embeddings"
    _probes: ClassVar[tuple[BaseLoss, ...]] = (TinyVectorLoss(),)

    def make_targets(self, model: Any) -> Targets:
        """Return a random target vector for each template."""
        generator = torch.Generator().manual_seed(0)
        shape = (len(self.templates), model.d_model)
        return Targets(target_vectors=torch.randn(shape, generator=generator))

    def test_vectors_have_the_declared_width(self) -> None:
        """A text becomes one float vector of width `d_model`."""
        model = self._model()
        vectors = model(list(self.texts))
        wanted = (len(self.texts), model.d_model)
        expect(vectors.shape == wanted, f"vectors are {tuple(vectors.shape)}, expected {wanted}.")
        expect(vectors.is_floating_point(), f"vectors are {vectors.dtype}.")
        expect(bool(vectors.isfinite().all()), "vectors are not finite.")
        expect(not torch.allclose(vectors[0], vectors[1]), "different texts have one vector.")


class ClassifierContract(BasicLaws, LossFlowLaws, TokenLaws, GradientLaws, PurityLaws):
    """What every classifier keeps; name a subclass `Test...` and give `make_model`.

    A law about an access that the model lacks is skipped, and the reason names the mixin.
    """

    _base = ClassifierBaseModel
    _answer_field = "output_class_logits"
    _probes: ClassVar[tuple[BaseLoss, ...]] = (TinyClassLoss(),)

    def make_targets(self, model: Any) -> Targets:
        """Return a class for each template, not the same for all."""
        return Targets(target_class_idx=[i % model.n_classes for i in range(len(self.templates))])

    def test_each_class_has_a_logit(self) -> None:
        """A text becomes a finite float for each of at least two classes, in float32 or wider."""
        model = self._model()
        expect(model.n_classes >= 2, f"n_classes is {model.n_classes}, expected at least 2.")
        logits = model(list(self.texts))
        wanted = (len(self.texts), model.n_classes)
        expect(logits.shape == wanted, f"logits are {tuple(logits.shape)}, expected {wanted}.")
        is_wide = logits.dtype in (torch.float32, torch.float64)
        expect(is_wide, f"logits are {logits.dtype}, expected float32 or wider.")
        expect(bool(logits.isfinite().all()), "logits are not finite.")
        expect(not torch.allclose(logits[0], logits[1]), "different texts have the same logits.")

    def test_classes_are_told_apart(self) -> None:
        """Each class has a logit of its own, and its loss is that of no other class."""
        model = self._model()
        logits = model(list(self.texts)).double()
        for i in range(model.n_classes - 1):
            expect(
                not torch.allclose(logits[:, i], logits[:, i + 1]),
                f"classes {i} and {i + 1} have the same logits, whatever the text.",
            )


class _Recorder(BaseLoss):
    """Keeps what went into each forward pass and what came out."""

    require_target_prefill = True

    def __init__(self) -> None:
        self.passes: list[tuple[Any, Any]] = []

    def __call__(self, model_output: ModelOutput, model_input: ModelInput) -> torch.Tensor:
        self.passes.append((model_output, model_input))
        return torch.zeros(batch_size_of(model_output, model_input))

import dataclasses
from typing import ClassVar

import pytest
import torch
from core_samples import EchoLM, EmbeddingSumLoss, LengthLoss, LetterEncoder, ParityClassifier

from pellucid.core import (
    BaseLoss,
    CombinedLoss,
    Flow,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    InvokeTokenAccessMixin,
    Lack,
    LogitsTokenAccessMixin,
    LossReads,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    NotDifferentiableError,
    Provides,
    RequirementError,
    Role,
    TextAccessMixin,
    TokenAccessMixin,
    Verdict,
    check_compatibility,
    flows_of,
    needs_gradient,
)


def optimizer(*requirements, name="SomeOptimizer"):
    return type(name, (), {"model_requirements": requirements})


class AttentionLoss(BaseLoss):
    def __call__(self, full_attentions, input_slices):
        return torch.zeros(1)


class AskingAttentionLoss(AttentionLoss):
    require_attentions = True


class TextJudgeLoss(BaseLoss):
    is_differentiable = False

    def __call__(self, input_texts, model_output, target_class_idx=None):
        return torch.zeros(1)


class WhiteBox(EchoLM, GradientTokenAccessMixin, LossTokenAccessMixin):
    """Declares what it sets; never computes anything."""

    provides: ClassVar[Provides] = {
        Flow.TOKENS: {"full_attentions": ("require_attentions",), "input_slices": ()},
        Flow.TEXTS: {"generated_response_strs": ("require_generation",)},
    }

    def invoke_from_tokens(self, *args, **kwargs): ...

    def compute_loss_from_tokens(self, *args, **kwargs): ...

    def compute_grad_from_tokens(self, *args, **kwargs): ...


GRADIENT = optimizer(GradientTokenAccessMixin, LossTokenAccessMixin, name="GradientOptimizer")
TEXT = optimizer(LossTextAccessMixin, name="TextOptimizer")


@pytest.mark.parametrize(
    ("model", "chosen", "loss"),
    [
        (LetterEncoder, TEXT, EmbeddingSumLoss),
        (LetterEncoder, TEXT, LengthLoss),
        (LetterEncoder, TEXT, TextJudgeLoss),
        (LetterEncoder, TEXT, None),
        (WhiteBox, GRADIENT, AskingAttentionLoss),
        (WhiteBox, optimizer(TokenAccessMixin), AttentionLoss),
    ],
)
def test_what_goes_together_as_class_and_as_object(model, chosen, loss):
    for pair in ((model, loss), (model(), loss() if loss else None)):
        report = check_compatibility(pair[0], chosen, pair[1])
        assert report.compatible
        assert report.reasons == ()
        report.raise_if_incompatible()


def test_a_missing_access_is_named_with_a_backend_that_has_it(register):
    register(
        "pellucid.models",
        echo="core_samples:EchoLM",
        encoder="core_samples:LetterEncoder",
        broken="no_such_module_xyz:Model",
        empty="core_samples:NoSuchModel",
        function="core_samples:seeded",
    )
    report = check_compatibility(LetterEncoder(), optimizer(TokenAccessMixin), None)
    assert report.reasons == (
        (
            "SomeOptimizer requires TokenAccessMixin, which LetterEncoder does not offer. "
            "Backends that do: core_samples.EchoLM."
        ),
    )
    with pytest.raises(RequirementError, match=r"core_samples.EchoLM") as caught:
        report.raise_if_incompatible()
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)


def test_without_a_registered_backend_the_one_to_install_is_named(register):
    report = check_compatibility(LetterEncoder, GRADIENT, EmbeddingSumLoss)
    assert len(report.reasons) == 2
    assert "GradientOptimizer requires GradientTokenAccessMixin" in report.reasons[0]
    assert "pellucid.hf.LMHFModel (pip install pellucid-hf)" in report.reasons[0]
    with pytest.raises(RequirementError, match=r"GradientTokenAccessMixin.*LossTokenAccessMixin"):
        report.raise_if_incompatible()


def test_a_field_that_the_flow_does_not_provide_is_named():
    report = check_compatibility(LetterEncoder(), TEXT, AttentionLoss())
    assert report.reasons == (
        (
            "AttentionLoss reads 'full_attentions', which LetterEncoder does not provide in the "
            "flow 'texts' (it provides output_embeddings)."
        ),
        (
            "AttentionLoss reads 'input_slices', which LetterEncoder does not provide in the flow "
            "'texts' (it provides output_embeddings)."
        ),
    )
    assert not report.compatible


@pytest.mark.parametrize("loss", [AttentionLoss, AttentionLoss()])
def test_an_option_that_the_loss_does_not_set_is_named(loss):
    report = check_compatibility(WhiteBox, GRADIENT, loss)
    assert report.reasons == (
        (
            "AttentionLoss reads 'full_attentions', which WhiteBox provides only under "
            "require_attentions. Set require_attentions = True on the loss."
        ),
    )


def test_a_flow_that_is_not_declared_is_noted_and_left_to_the_first_computation():
    for model in (ParityClassifier, EchoLM(), WhiteBox):
        chosen = optimizer(GradientEmbedAccessMixin if model is WhiteBox else TextAccessMixin)
        report = check_compatibility(model, chosen, AttentionLoss())
        assert "declares nothing for the flow" in report.notes[0]
        assert not any("full_attentions" in reason for reason in report.reasons)


def test_flows_may_be_declared_by_plain_strings():
    class Plain(LetterEncoder):
        provides: ClassVar = {"texts": {"output_embeddings": ()}}

    assert check_compatibility(Plain(), TEXT, EmbeddingSumLoss()).compatible
    assert not check_compatibility(Plain(), TEXT, AttentionLoss()).compatible


def test_a_loss_without_gradient_cannot_be_differentiated():
    report = check_compatibility(WhiteBox(), GRADIENT, NonDifferentiable())
    assert len(report.reasons) == 1
    assert "RandomSearchOptimizer" in report.reasons[0]
    with pytest.raises(NotDifferentiableError, match="NonDifferentiable has none") as caught:
        report.raise_if_incompatible()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RequirementError)
    assert check_compatibility(WhiteBox(), optimizer(LossTokenAccessMixin), NonDifferentiable())


class NonDifferentiable(AskingAttentionLoss):
    is_differentiable = False


def test_a_combined_loss_has_a_gradient_if_every_component_has():
    mixed = CombinedLoss([AskingAttentionLoss(), NonDifferentiable()])
    assert not check_compatibility(WhiteBox(), GRADIENT, mixed).compatible
    pure = CombinedLoss([AskingAttentionLoss(), CombinedLoss([AskingAttentionLoss()])])
    assert check_compatibility(WhiteBox(), GRADIENT, pure).compatible


def test_the_options_of_one_component_serve_the_others():
    # The forward pass does what any component asks, so the fields are there for all.
    combined = CombinedLoss([AttentionLoss(), AskingAttentionLoss()])
    assert check_compatibility(WhiteBox(), GRADIENT, combined).compatible


def test_other_lacks_outweigh_a_missing_gradient():
    report = check_compatibility(LetterEncoder(), GRADIENT, TextJudgeLoss())
    assert len(report.reasons) == 3
    with pytest.raises(RequirementError) as caught:
        report.raise_if_incompatible()
    assert not isinstance(caught.value, NotDifferentiableError)


class ChosenField(AttentionLoss):
    """Reads what it is told to read, and cannot be made without being told."""

    def __init__(self, field):
        self.field = field

    def reads(self):
        return LossReads(required=frozenset({self.field}))


@pytest.mark.parametrize("loss", [CombinedLoss, ChosenField])
def test_a_class_that_says_what_it_reads_once_made_is_noted(loss):
    report = check_compatibility(LetterEncoder, TEXT, loss)
    assert "only once it is made" in report.notes[0]


def test_of_such_a_class_the_fields_that_its_call_names_are_checked():
    assert not check_compatibility(LetterEncoder, TEXT, ChosenField).compatible
    assert check_compatibility(LetterEncoder, TEXT, ChosenField("output_embeddings")).compatible


def test_a_class_that_needs_no_arguments_reads_what_its_object_reads():
    class Own(AttentionLoss):
        def __init__(self, field="output_embeddings"):
            self.field = field

        def reads(self):
            return LossReads(required=frozenset({self.field}))

    report = check_compatibility(LetterEncoder, TEXT, Own)
    assert report == check_compatibility(LetterEncoder(), TEXT, Own())
    assert report.compatible
    assert not report.notes


def test_a_differentiability_that_depends_on_the_object_is_left_open_for_its_class():
    @dataclasses.dataclass
    class Sometimes(AskingAttentionLoss):
        is_exact: bool = True

        @property
        def is_differentiable(self):
            return self.is_exact

    assert check_compatibility(WhiteBox, GRADIENT, Sometimes).compatible
    assert check_compatibility(WhiteBox, GRADIENT, Sometimes(True)).compatible
    assert not check_compatibility(WhiteBox, GRADIENT, Sometimes(False)).compatible


@pytest.mark.parametrize(
    ("requirements", "flows", "takes_gradient"),
    [
        ((), (), False),
        ((TokenAccessMixin,), (), False),
        ((TextAccessMixin,), (Flow.TEXTS,), False),
        ((LossTextAccessMixin, TokenAccessMixin), (Flow.TEXTS,), False),
        ((InvokeTokenAccessMixin,), (Flow.TOKENS,), False),
        ((LogitsTokenAccessMixin, LossTextAccessMixin), (Flow.TEXTS, Flow.TOKENS), False),
        ((GradientTokenAccessMixin,), (Flow.TOKENS,), True),
        ((LossTokenAccessMixin, GradientEmbedAccessMixin), (Flow.TOKENS, Flow.EMBEDS), True),
    ],
)
def test_flows_and_gradients_follow_from_requirements(requirements, flows, takes_gradient):
    assert flows_of(requirements) == flows
    assert needs_gradient(requirements) is takes_gradient


class Switched(WhiteBox):
    optional_fields: ClassVar = {"full_attentions": "with_attentions"}

    def __init__(self, *, with_attentions=False):
        if not with_attentions:
            self.provides = {Flow.TOKENS: {"input_slices": ()}}


def test_an_optional_field_is_a_condition_of_the_class_and_a_fact_of_the_object():
    report = check_compatibility(Switched, GRADIENT, AskingAttentionLoss)
    assert report.verdict is Verdict.CONDITIONAL
    assert report.compatible
    assert [str(condition) for condition in report.conditions] == [
        (
            "Switched needs with_attentions=, True, because AskingAttentionLoss reads "
            "'full_attentions'."
        )
    ]
    without = check_compatibility(Switched(), GRADIENT, AskingAttentionLoss())
    assert without.verdict is Verdict.NO
    assert without.lacks == (Lack.FIELD,)
    assert "make it with with_attentions=True" in without.reasons[0]
    made = check_compatibility(Switched(with_attentions=True), GRADIENT, AskingAttentionLoss())
    assert made.verdict is Verdict.YES


SCOUT = Role(
    argument="scout",
    access=(GradientTokenAccessMixin,),
    part="a model with gradients",
    loss_argument="scout_loss",
    otherwise="use_scout=False",
)


def scouted(requirement, role=SCOUT):
    return type("Scouted", (), {"model_requirements": (requirement,), "roles": (role,)})


def test_a_target_that_can_play_a_role_needs_nobody_else():
    report = check_compatibility(WhiteBox, scouted(LossTokenAccessMixin), AskingAttentionLoss)
    assert report.verdict is Verdict.YES


def test_a_role_that_the_target_cannot_play_is_a_condition_of_the_optimizers_class():
    report = check_compatibility(LetterEncoder, scouted(LossTextAccessMixin), EmbeddingSumLoss)
    assert [str(condition) for condition in report.conditions] == [
        (
            "Scouted needs scout=, a model with gradients, or use_scout=False instead, because "
            "LetterEncoder offers no GradientTokenAccessMixin."
        )
    ]
    # An object has been made with what it needs.
    made = check_compatibility(LetterEncoder, scouted(LossTextAccessMixin)(), EmbeddingSumLoss)
    assert made.verdict is Verdict.YES


def test_a_required_role_is_a_condition_whatever_the_target_can_do():
    needed = dataclasses.replace(SCOUT, is_required=True)
    chosen = scouted(LossTokenAccessMixin, needed)
    report = check_compatibility(WhiteBox, chosen, AskingAttentionLoss)
    assert [condition.argument for condition in report.conditions] == ["scout"]


@pytest.mark.parametrize(
    ("model", "loss", "arguments"),
    [
        (WhiteBox, "NonDifferentiable", ["scout_loss"]),
        (LetterEncoder, "ReadsTexts", ["scout", "scout_loss"]),
        (WhiteBox, "ReadsTexts", ["scout_loss"]),
    ],
)
def test_a_loss_that_the_role_cannot_compute_needs_another_one(model, loss, arguments):
    class ReadsTexts(BaseLoss):
        def __call__(self, input_texts):
            return torch.zeros(1)

    kind = {"ReadsTexts": ReadsTexts, "NonDifferentiable": NonDifferentiable}[loss]
    chosen = scouted(LossTextAccessMixin if kind is ReadsTexts else LossTokenAccessMixin)
    if model is WhiteBox and kind is ReadsTexts:
        chosen = scouted(TokenAccessMixin)
    report = check_compatibility(model, chosen, kind)
    assert [condition.argument for condition in report.conditions] == arguments


def test_what_is_refused_has_no_conditions():
    report = check_compatibility(LetterEncoder, scouted(LossTextAccessMixin), AttentionLoss)
    assert report.verdict is Verdict.NO
    assert report.conditions == ()
    assert report.lacks == (Lack.FIELD, Lack.FIELD)

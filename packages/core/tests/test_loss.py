import dataclasses

import pytest
import torch
from core_samples import EmbeddingSumLoss, LengthLoss
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    CombinedLoss,
    LossReads,
    ModelInput,
    ModelOutput,
    RequirementError,
    resolve_and_compute_loss,
)
from pellucid.core._loss import reads_of_signature

OPTIONS = (
    "require_target_prefill",
    "require_generation",
    "require_hidden_states",
    "require_attentions",
    "require_first_token_logprobs",
)


@dataclasses.dataclass
class PrefillLoss(BaseLoss):
    """Reads a mix of required and optional fields, and wants a prefilled target."""

    require_target_prefill = True
    is_differentiable = False

    def __call__(self, full_logits, *, target_class_idx=0):
        return full_logits[:, 0, target_class_idx]


class GreedyLoss(BaseLoss):
    require_gradients = True
    require_hidden_states = True

    def __call__(self, model_output, *args, **kwargs):
        return torch.zeros(2)


class BuiltinCallLoss(BaseLoss):
    __call__ = dict.get  # a C function without a readable signature


def test_a_loss_reads_what_its_call_names():
    assert LengthLoss().reads() == LossReads(required=frozenset({"input_texts"}))
    reads = PrefillLoss().reads()
    assert reads.required == {"full_logits"}
    assert reads.optional == {"target_class_idx"}
    assert reads.fields == {"full_logits", "target_class_idx"}
    assert not reads.takes_all
    assert GreedyLoss().reads() == LossReads(required=frozenset({"model_output"}), takes_all=True)


def test_flags_are_off_unless_a_loss_sets_them():
    assert LengthLoss().options() == dict.fromkeys(OPTIONS, False)
    assert LengthLoss.is_differentiable
    assert not LengthLoss.require_gradients
    assert PrefillLoss().options() == {**dict.fromkeys(OPTIONS, False), OPTIONS[0]: True}


def test_a_flag_may_depend_on_a_hyperparameter():
    @dataclasses.dataclass
    class Optional(LengthLoss):
        with_attentions: bool = False

        @property
        def require_attentions(self):
            return self.with_attentions

    assert not Optional().options()["require_attentions"]
    assert Optional(with_attentions=True).options()["require_attentions"]


def test_a_signature_that_cannot_be_read_is_a_type_error():
    def call(self):
        return torch.zeros(1)

    call.__signature__ = "not a signature"
    unreadable = type("UnreadableLoss", (BaseLoss,), {"__call__": call})
    with pytest.raises(RequirementError, match=r"UnreadableLoss.__call__ cannot be read") as caught:
        reads_of_signature(unreadable)
    assert isinstance(caught.value, TypeError)


def test_call_is_asked_for():
    with pytest.raises(TypeError, match="abstract"):
        BaseLoss()


def test_the_lowest_loss_of_the_latest_batch_is_logged():
    loss = LengthLoss()
    assert loss.get_loss_log_dict() == {}
    resolve_and_compute_loss(ModelOutput(), ModelInput(input_texts=["abc", "d"]), loss)
    assert loss.get_loss_log_dict() == {"LengthLoss": 1.0}
    resolve_and_compute_loss(ModelOutput(), ModelInput(input_texts=["abc"]), loss)
    assert loss.get_loss_log_dict() == {"LengthLoss": 3.0}
    more = ModelInput(input_texts=["abcd"])
    resolve_and_compute_loss(ModelOutput(), more, loss, is_continued=True)
    assert loss.get_loss_log_dict() == {"LengthLoss": 3.0}
    assert LengthLoss().get_loss_log_dict() == {}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.integers(1, 4))
def test_a_combined_loss_is_the_weighted_sum(weights, n_batch):
    combined = CombinedLoss([LengthLoss() for _ in weights], weights)
    values = torch.arange(len(weights) * n_batch, dtype=torch.float64).reshape(-1, n_batch)
    expected = torch.stack([w * row for w, row in zip(weights, values, strict=True)]).sum(dim=0)
    torch.testing.assert_close(combined(values), expected)


def test_equal_shares_when_weights_are_omitted_and_no_normalisation_otherwise():
    losses = [LengthLoss(), EmbeddingSumLoss()]
    assert CombinedLoss(losses).weights == (0.5, 0.5)
    assert CombinedLoss(losses, [3, 1]).weights == (3.0, 1.0)
    assert CombinedLoss(losses, (0, 0.25)).weights == (0.0, 0.25)
    assert CombinedLoss(losses, [0, 0]).weights == (0.0, 0.0)


def test_a_combined_loss_holds_its_components():
    losses = [LengthLoss(), PrefillLoss()]
    combined = CombinedLoss(losses)
    assert list(combined) == losses
    assert len(combined) == 2
    assert repr(combined) == (
        "CombinedLoss([LengthLoss(factor=1.0), PrefillLoss()], weights=[0.5, 0.5])"
    )
    losses.clear()
    assert len(combined) == 2


def test_a_combined_loss_asks_what_any_component_asks():
    combined = CombinedLoss([LengthLoss(), CombinedLoss([PrefillLoss(), GreedyLoss()])])
    assert combined.reads() == LossReads(
        required=frozenset({"input_texts", "full_logits", "model_output"}),
        optional=frozenset({"target_class_idx"}),
        takes_all=True,
    )
    asked = {name for name, value in combined.options().items() if value}
    assert asked == {"require_target_prefill", "require_hidden_states"}
    assert combined.require_gradients
    assert combined.require_target_prefill
    assert not combined.require_generation
    assert not combined.is_differentiable
    assert CombinedLoss([LengthLoss(), GreedyLoss()]).is_differentiable


def test_components_are_found_by_type_however_deep():
    combined = CombinedLoss([CombinedLoss([LengthLoss()]), GreedyLoss()])
    for held in (LengthLoss, GreedyLoss, CombinedLoss, BaseLoss):
        assert combined.contains_loss_type(held)
    assert not combined.contains_loss_type(PrefillLoss)
    assert LengthLoss().contains_loss_type(BaseLoss)
    assert not LengthLoss().contains_loss_type(GreedyLoss)


def test_components_of_one_class_are_numbered_in_the_log():
    inner = CombinedLoss([LengthLoss(3.0), LengthLoss(4.0)], [1, 1])
    combined = CombinedLoss([LengthLoss(1.0), LengthLoss(2.0), inner], [1, 1, 1])
    resolve_and_compute_loss(ModelOutput(), ModelInput(input_texts=["a"]), combined)
    assert combined.get_loss_log_dict() == {
        "CombinedLoss": 10.0,
        "LengthLoss": 1.0,
        "LengthLoss#2": 2.0,
        "CombinedLoss#2": 7.0,
        "LengthLoss#3": 3.0,
        "LengthLoss#2#2": 4.0,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ArgumentError, "at least one loss"),
        (([LengthLoss(), "ce"],), RequirementError, "holds BaseLoss objects, got 'ce'"),
        (([LengthLoss],), RequirementError, "holds BaseLoss objects"),
        (([LengthLoss()], [1, 2]), ArgumentError, r"one weight for each of 1 losses, got \[1, 2\]"),
        (([LengthLoss()], []), ArgumentError, "one weight for each of 1"),
    ],
)
def test_bad_components_are_refused(arguments, error, message):
    from core_samples import unhooked

    with pytest.raises(error, match=message):
        unhooked(CombinedLoss.__init__)(object.__new__(CombinedLoss), *arguments)

import dataclasses
import math

import pytest
import torch
from core_samples import EmbeddingSumLoss, LengthLoss
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    BaseLoss,
    CombinedLoss,
    ContractError,
    LossResolutionError,
    MessageTargets,
    ModelInput,
    ModelOutput,
    replace_nan,
    resolve_and_compute_loss,
)

VECTOR = torch.tensor([1.0, 2.0])
OUTPUT = ModelOutput(output_embeddings=torch.eye(2), full_strs=["out a", "out b"])
INPUT = ModelInput(
    input_texts=["a", "bbb"],
    message_targets=MessageTargets(target_vectors=VECTOR, target_class_idx=1),
)


def returning(value):
    class FixedLoss(BaseLoss):
        def __call__(self):
            return value

    return FixedLoss()


def recording(call):
    """A loss whose call is a function of no self, which returns what it was given."""
    seen = {}

    class RecordingLoss(BaseLoss):
        def __call__(self):
            raise AssertionError("replaced below")

    RecordingLoss.__call__ = call(seen)
    resolve_and_compute_loss(OUTPUT, INPUT, RecordingLoss())
    return seen


def test_fields_come_from_output_input_and_targets():
    def call(seen):
        def __call__(self, output_embeddings, input_texts, target_vectors, target_class_idx):
            seen.update(locals())
            return output_embeddings @ target_vectors

        return __call__

    seen = recording(call)
    assert seen["output_embeddings"] is OUTPUT.output_embeddings
    assert seen["input_texts"] == ["a", "bbb"]
    assert seen["target_vectors"] is VECTOR
    assert seen["target_class_idx"] == 1


def test_the_output_goes_before_the_input_and_the_input_before_the_targets(monkeypatch):
    # No two containers share a field name today; the order is what keeps them apart tomorrow.
    from pellucid.core import _resolution

    held = {id(OUTPUT): {"x": 3}, id(INPUT): {"x": 2, "y": 2}}
    held[id(INPUT.message_targets)] = {"x": 1, "y": 1, "z": 1}
    monkeypatch.setattr(_resolution, "set_fields", lambda container: held[id(container)])
    merged = _resolution._merge_fields(OUTPUT, INPUT)
    assert (merged["x"], merged["y"], merged["z"]) == (3, 2, 1)


def test_whole_containers_are_handed_over_on_request():
    def call(seen):
        def __call__(self, model_output, model_input):
            seen.update(locals())
            return torch.zeros(2)

        return __call__

    seen = recording(call)
    assert seen["model_output"] is OUTPUT
    assert seen["model_input"] is INPUT


def test_a_parameter_with_a_default_is_left_out_when_its_field_is_not_there():
    def call(seen):
        def __call__(self, true_class_idx=-7, target_class_idx=-7, *, full_ids=None):
            seen.update(locals())
            return torch.zeros(2)

        return __call__

    seen = recording(call)
    assert (seen["true_class_idx"], seen["target_class_idx"], seen["full_ids"]) == (-7, 1, None)


def test_a_loss_with_kwargs_gets_every_field_there_is():
    def call(seen):
        def __call__(self, **fields):
            seen.update(fields)
            return torch.zeros(2)

        return __call__

    assert set(recording(call)) == {
        "full_strs",
        "input_texts",
        "message_targets",
        "model_input",
        "model_output",
        "output_embeddings",
        "target_class_idx",
        "target_vectors",
    }


@pytest.mark.parametrize("name", ["copy", "to_dict", "select_message", "__class__"])
def test_only_fields_are_resolved_never_methods(name):
    scope = {}
    exec(f"def call(self, {name}): return None", scope)
    loss = type("OddLoss", (BaseLoss,), {"__call__": scope["call"]})()
    with pytest.raises(LossResolutionError, match=f"OddLoss reads '{name}'"):
        resolve_and_compute_loss(OUTPUT, INPUT, loss)


def test_what_is_missing_and_what_is_there_are_both_told():
    class NeedyLoss(BaseLoss):
        def __call__(self, full_attentions, output_embeddings):
            return torch.zeros(2)

    with pytest.raises(LossResolutionError, match="full_attentions") as caught:
        resolve_and_compute_loss(OUTPUT, INPUT, NeedyLoss())
    assert caught.value.loss_name == "NeedyLoss"
    assert caught.value.parameter == "full_attentions"
    assert caught.value.available == {
        "output": ["output_embeddings", "full_strs"],
        "input": ["input_texts", "message_targets"],
        "targets": ["target_vectors", "target_class_idx"],
    }


def test_without_targets_none_are_listed():
    with pytest.raises(LossResolutionError) as caught:
        resolve_and_compute_loss(ModelOutput(), ModelInput(), LengthLoss())
    assert caught.value.available == {"output": [], "input": [], "targets": []}


def test_an_error_of_the_loss_is_passed_on_unchanged():
    class FailingLoss(BaseLoss):
        def __call__(self, input_texts):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        resolve_and_compute_loss(OUTPUT, INPUT, FailingLoss())


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.tensor(1.0), r"float32 with shape \(\)"),
        (torch.zeros(2, 1), r"shape \(2, 1\)"),
        (torch.zeros(2, dtype=torch.int64), "int64"),
        (torch.zeros(1), r"for each of 2 samples, got .* shape \(1,\)"),
        (torch.zeros(3), r"for each of 2 samples, got .* shape \(3,\)"),
        ([0.0, 0.0], "got list"),
        (0.0, "got float"),
        (None, "got NoneType"),
    ],
)
def test_anything_but_one_float_for_each_sample_is_refused(value, got):
    with pytest.raises(ContractError, match=rf"FixedLoss must return .*{got}"):
        resolve_and_compute_loss(OUTPUT, INPUT, returning(value))


def test_samples_are_counted_by_the_input_where_there_is_no_output():
    with pytest.raises(ContractError, match="of 2 samples"):
        resolve_and_compute_loss(ModelOutput(), INPUT, returning(torch.zeros(3)))
    losses = resolve_and_compute_loss(ModelOutput(), ModelInput(), returning(torch.zeros(3)))
    assert losses.shape == (3,)


def test_a_frozen_loss_can_be_used():
    @dataclasses.dataclass(frozen=True)
    class FrozenLoss(BaseLoss):
        factor: float = 2.0

        def __call__(self, input_texts):
            return torch.tensor([self.factor * len(text) for text in input_texts])

    loss = FrozenLoss()
    assert resolve_and_compute_loss(OUTPUT, INPUT, loss).tolist() == [2.0, 6.0]
    assert loss.get_loss_log_dict() == {"FrozenLoss": 2.0}


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_combined_losses_are_resolved_component_by_component_however_nested(a, b, c):
    inner = CombinedLoss([EmbeddingSumLoss(), LengthLoss()], [a, b])
    outer = CombinedLoss([LengthLoss(10.0), inner], [c, 1.0])
    losses = resolve_and_compute_loss(OUTPUT, INPUT, outer)
    expected = torch.tensor([c * 10 + a + b, c * 30 + a + 3 * b])
    torch.testing.assert_close(losses, expected)
    assert not losses.requires_grad


def test_components_keep_their_own_losses():
    parts = [LengthLoss(1.0), LengthLoss(2.0)]
    resolve_and_compute_loss(OUTPUT, INPUT, CombinedLoss(parts))
    assert [part.get_loss_log_dict() for part in parts] == [
        {"LengthLoss": 1.0},
        {"LengthLoss": 2.0},
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_components_are_summed_in_float32_or_wider(first, second, expected):
    parts = [returning(torch.ones(2, dtype=dtype)) for dtype in (first, second)]
    assert resolve_and_compute_loss(OUTPUT, INPUT, CombinedLoss(parts)).dtype == expected


def test_components_are_brought_to_the_first_ones_device():
    parts = [returning(torch.ones(2, device="meta")), returning(torch.ones(2))]
    assert resolve_and_compute_loss(OUTPUT, INPUT, CombinedLoss(parts)).device.type == "meta"


def test_gradients_flow_through_a_combined_loss():
    leaf = torch.eye(2, requires_grad=True)
    output = ModelOutput(output_embeddings=leaf)
    combined = CombinedLoss([EmbeddingSumLoss(), EmbeddingSumLoss()], [0.5, 2.0])
    losses = resolve_and_compute_loss(output, INPUT, combined)
    losses.sum().backward()
    assert leaf.grad.tolist() == [[2.5, 2.5], [2.5, 2.5]]
    assert not combined._last_loss_vals.requires_grad


def test_a_nan_never_wins():
    losses = replace_nan(torch.tensor([math.nan, 1.0, math.inf, -math.inf]))
    assert losses.tolist() == [math.inf, 1.0, math.inf, -math.inf]
    assert int(replace_nan(torch.tensor([math.nan, 1.0])).argmin()) == 1

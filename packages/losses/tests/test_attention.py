import pytest
import torch
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ArgumentError, ModelOutput
from pellucid.losses import AttentionBasedLoss, AttentionEnhLoss

PATTERNS = seeded(2, 3, 2, 6, 6).softmax(dim=-1)
SLICES = {"trigger": slice(1, 3), "input_after": slice(3, 6), "appended": slice(5, 6)}


def naive_attention(patterns, layers, dst, src):
    rows = []
    for sample in patterns:
        values = [
            float(sample[layer, head, i, j])
            for layer in layers
            for head in range(2)
            for i in dst
            for j in src
        ]
        rows.append(-sum(values) / len(values))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("layers", [None, [1], [-1, 0]], ids=str)
def test_attention_formula(layers):
    chosen = range(3) if layers is None else layers
    losses = AttentionEnhLoss(layers)(PATTERNS, SLICES)
    torch.testing.assert_close(losses, naive_attention(PATTERNS, chosen, [3, 4, 5], [1, 2]))


def test_other_parts_may_attend_and_be_attended_to():
    loss = AttentionEnhLoss(src_slc_name="input_after", dst_slc_name="appended")
    expected = naive_attention(PATTERNS, range(3), [5], [3, 4, 5])
    torch.testing.assert_close(loss(PATTERNS, SLICES), expected)


def test_full_attention_is_minus_one_and_none_is_zero():
    patterns = torch.zeros(1, 1, 1, 4, 4)
    slices = {"trigger": slice(0, 1), "input_after": slice(1, 4)}
    assert AttentionEnhLoss()(patterns, slices).tolist() == [0.0]
    patterns[..., 0] = 1.0
    assert AttentionEnhLoss()(patterns, slices).tolist() == [-1.0]


def test_attention_gradient_and_precision():
    loss = AttentionEnhLoss([0, 2])
    assert_gradient_is_that_of_finite_differences(lambda a: loss(a, SLICES), PATTERNS)
    assert_low_precision_is_computed_in_float32(lambda a: loss(a, SLICES), PATTERNS)


@pytest.mark.parametrize("missing", ["trigger", "input_after"])
def test_a_part_that_is_not_there_is_refused(missing):
    slices = {name: part for name, part in SLICES.items() if name != missing}
    with pytest.raises(ArgumentError, match=f"no part '{missing}'"):
        AttentionEnhLoss()(PATTERNS, slices)


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(ArgumentError, match="the 3 there are"):
        AttentionEnhLoss([5])(PATTERNS, SLICES)


def test_what_attention_declares():
    loss = AttentionEnhLoss()
    assert isinstance(loss, AttentionBasedLoss)
    assert loss.reads().required == {"full_attentions", "input_slices"}
    assert [name for name, asked in loss.options().items() if asked] == ["require_attentions"]


def test_it_is_resolved_from_output_and_input():
    losses = resolve(AttentionEnhLoss(), ModelOutput(full_attentions=PATTERNS), input_slices=SLICES)
    assert torch.equal(losses, AttentionEnhLoss()(PATTERNS, SLICES))


@pytest.mark.parametrize("layers", [None, [0], [-1, 1]], ids=str)
def test_the_part_that_is_read_is_all_it_takes(layers):
    loss = AttentionEnhLoss(layers)
    (selection,) = loss.selections().values()
    held = selection.locate(n_layers=3, n_pos=PATTERNS.shape[-1], input_slices=SLICES)
    kept = PATTERNS[:, list(held.layers)][:, :, :, held.positions, held.key_positions]
    assert kept.numel() < PATTERNS.numel()
    output = ModelOutput(full_attentions=kept, held_attentions=held)
    found = resolve(loss, output, input_slices=SLICES)
    torch.testing.assert_close(found, loss(PATTERNS, SLICES))

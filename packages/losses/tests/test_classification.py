import math

import pytest
import torch
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ArgumentError, LossResolutionError, MessageTargets, ModelOutput
from pellucid.losses import ClassificationBasedLoss, MisclassCELoss

LOGITS = seeded(4, 3)


def test_targeted_is_the_cross_entropy_of_the_target_and_untargeted_minus_that_of_the_truth():
    nll = -LOGITS.log_softmax(dim=-1)
    torch.testing.assert_close(MisclassCELoss(True)(LOGITS, target_class_idx=2), nll[:, 2])
    torch.testing.assert_close(MisclassCELoss()(LOGITS, true_class_idx=0), -nll[:, 0])


def test_only_the_class_that_is_asked_for_is_read():
    assert torch.equal(MisclassCELoss(True)(LOGITS, 1, 2), MisclassCELoss(True)(LOGITS, 1))
    assert torch.equal(MisclassCELoss()(LOGITS, 1, 2), MisclassCELoss()(LOGITS, None, 2))


def test_equal_logits_give_the_log_of_the_number_of_classes():
    losses = MisclassCELoss(targeted=True)(torch.zeros(2, 5), target_class_idx=4)
    torch.testing.assert_close(losses, torch.full((2,), math.log(5)))


@pytest.mark.parametrize("loss", [MisclassCELoss(), MisclassCELoss(targeted=True)], ids=str)
def test_misclassification_gradient_and_precision(loss):
    assert_gradient_is_that_of_finite_differences(lambda z: loss(z, 1, 2), LOGITS)
    assert_low_precision_is_computed_in_float32(lambda z: loss(z, 1, 2), LOGITS)


@pytest.mark.parametrize(
    ("targeted", "given", "message"),
    [
        (True, {"true_class_idx": 1}, "needs target_class_idx from 0 to 2, got None"),
        (False, {"target_class_idx": 1}, "needs true_class_idx from 0 to 2, got None"),
        (False, {"true_class_idx": 3}, "got 3"),
        (True, {"target_class_idx": -1}, "got -1"),
    ],
)
def test_a_class_that_is_not_there_is_refused(targeted, given, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        MisclassCELoss(targeted)(LOGITS, **given)
    assert isinstance(caught.value, AssertionError)


def test_what_misclassification_declares_and_how_it_is_resolved():
    loss = MisclassCELoss()
    assert isinstance(loss, ClassificationBasedLoss)
    assert loss.reads().required == {"output_class_logits", "true_class_idx"}
    assert loss.reads().optional == {"target_class_idx"}
    assert MisclassCELoss(targeted=True).reads().required >= {"target_class_idx"}
    with pytest.raises(LossResolutionError, match="true_class_idx"):
        resolve(loss, ModelOutput(output_class_logits=LOGITS))
    losses = resolve(
        loss,
        ModelOutput(output_class_logits=LOGITS),
        message_targets=MessageTargets(true_class_idx=1),
    )
    assert torch.equal(losses, loss(LOGITS, true_class_idx=1))

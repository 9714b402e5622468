"""Each law of the suite of losses catches a defect that was planted for it."""

import random

import pytest
import torch
from law_runner import failure_of, laws_of

from pellucid.core import BaseLoss, CombinedLoss, LossReads
from pellucid.testing import LossContract


class VectorLoss(BaseLoss):
    """The sound loss that the defects are planted in."""

    def __call__(self, output_embeddings, target_vectors=None):
        values = output_embeddings.to(torch.promote_types(output_embeddings.dtype, torch.float32))
        target = 1.0 if target_vectors is None else target_vectors.to(values)
        return self.finish((torch.sin(values) * target).sum(dim=-1))

    def finish(self, losses):
        return losses


class KeepsWidth(VectorLoss):
    def finish(self, losses):
        return losses.unsqueeze(0).mean(dim=1) if len(losses) > 1 else losses


class ReturnsInfinity(VectorLoss):
    def finish(self, losses):
        return losses / 0


class StaysNarrow(BaseLoss):
    def __call__(self, output_embeddings, target_vectors=None):
        return torch.sin(output_embeddings).sum(dim=-1)


class Sorts(VectorLoss):
    def finish(self, losses):
        return losses.sort().values


class CentresTheBatch(VectorLoss):
    def finish(self, losses):
        return losses - losses.max() + losses


class IsConstant(VectorLoss):
    def finish(self, losses):
        return losses * 0


class Drifts(VectorLoss):
    steps = 0

    def finish(self, losses):
        self.steps += 1
        return losses + self.steps


class CutsTheGraph(VectorLoss):
    def finish(self, losses):
        return losses.detach()


class HasAnotherGradient(VectorLoss):
    def finish(self, losses):
        return losses.detach() + 2 * (losses - losses.detach())


class ReadsLessThanItTakes(VectorLoss):
    def reads(self):
        return LossReads(required=frozenset({"output_embeddings"}))


class HidesWhatIsMissing(BaseLoss):
    def __call__(self, output_embeddings=None, target_vectors=None):
        return output_embeddings.float().sum(dim=-1)

    def reads(self):
        return LossReads(required=frozenset({"output_embeddings", "full_ids"}))


class ClaimsMore(CombinedLoss):
    def __init__(self):
        super().__init__([VectorLoss()])

    def reads(self):
        return LossReads(required=frozenset({"output_embeddings", "full_ids"}))


class NeedsTheOptional(VectorLoss):
    def __call__(self, output_embeddings, target_vectors=None):
        return super().__call__(output_embeddings, target_vectors[None][0])


class OptionIsText(VectorLoss):
    def options(self):
        return {**super().options(), "require_generation": "yes"}


class LogsNothing(VectorLoss):
    def get_loss_log_dict(self):
        return {}


class WritesIntoFields(BaseLoss):
    def __call__(self, output_embeddings, target_vectors=None):
        losses = torch.sin(output_embeddings.float()).sum(dim=-1)
        output_embeddings *= 2
        return losses


class DrawsFromTheWorld(VectorLoss):
    def finish(self, losses):
        random.random()
        return losses


DEFECTS = [
    (KeepsWidth, "test_each_sample_has_a_finite_loss", "3 samples"),
    (ReturnsInfinity, "test_each_sample_has_a_finite_loss", "not finite"),
    (StaysNarrow, "test_arithmetic_is_wide", "bfloat16"),
    (Sorts, "test_order_of_samples_changes_nothing", "do not follow"),
    (CentresTheBatch, "test_samples_are_independent", "another loss alone"),
    (IsConstant, "test_losses_differ_between_samples", "every sample has"),
    (Drifts, "test_losses_repeat", "differs from the first"),
    (CutsTheGraph, "test_gradient_is_the_slope", "is 0"),
    (HasAnotherGradient, "test_gradient_is_the_slope", "not the slope"),
    (ReadsLessThanItTakes, "test_reads_name_the_fields", "target_vectors"),
    (HidesWhatIsMissing, "test_reads_name_the_fields", "full_ids"),
    (ClaimsMore, "test_a_missing_field_is_named", "DID NOT RAISE"),
    (NeedsTheOptional, "test_optional_fields_are_optional", "NoneType"),
    (OptionIsText, "test_options_are_flags", "dict[str, bool]"),
    (LogsNothing, "test_latest_losses_are_logged", "not among {}"),
    (WritesIntoFields, "test_fields_are_not_changed", "output_embeddings"),
    (DrawsFromTheWorld, "test_fields_are_not_changed", "random's generator"),
]


def make_fields(suite):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 4, generator=generator)
    return {"output_embeddings": vectors, "target_vectors": torch.tensor([1.0, 2.0, -1.0, 0.5])}


class TestSoundLoss(LossContract):
    make_fields = make_fields

    def make_loss(self):
        return VectorLoss()


@pytest.mark.parametrize(
    ("loss", "law", "says"), DEFECTS, ids=[f"{loss.__name__}-{law}" for loss, law, _ in DEFECTS]
)
def test_planted_defect_is_caught(loss, law, says):
    said = failure_of(LossContract, law, make_loss=lambda self: loss(), make_fields=make_fields)
    assert said is not None, f"{law} passes on {loss.__name__}"
    assert says in said


def test_every_law_has_a_defect():
    assert set(laws_of(LossContract)) == {law for _, law, _ in DEFECTS}

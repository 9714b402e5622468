import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ContractError, MessageTargets, ModelOutput
from pellucid.losses import EmbeddingBasedLoss, SimilarityLoss

EMBEDDINGS = seeded(5, 6)
TARGET = seeded(6, seed=1)


def test_similarity_is_the_negated_cosine():
    expected = [
        -(row @ TARGET) / (row @ row).sqrt() / (TARGET @ TARGET).sqrt() for row in EMBEDDINGS
    ]
    torch.testing.assert_close(SimilarityLoss()(EMBEDDINGS, TARGET), torch.stack(expected))


def test_same_opposite_and_orthogonal_vectors():
    target = torch.tensor([3.0, 0.0])
    embeddings = torch.tensor([[2.0, 0.0], [-5.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert SimilarityLoss()(embeddings, target).tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_similarity_gradient():
    assert_gradient_is_that_of_finite_differences(lambda e: SimilarityLoss()(e, TARGET), EMBEDDINGS)


def test_similarity_computes_in_float32():
    assert_low_precision_is_computed_in_float32(lambda e: SimilarityLoss()(e, TARGET), EMBEDDINGS)


def test_half_precision_norms_do_not_overflow():
    embeddings = torch.full((1, 64), 1000.0, dtype=torch.float16)
    losses = SimilarityLoss()(embeddings, torch.ones(64, dtype=torch.float16))
    torch.testing.assert_close(losses, torch.tensor([-1.0]))


@given(st.integers(0, 2**16), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_have_no_influence_and_the_loss_is_bounded(seed, a, b):
    embeddings, target = seeded(4, 5, seed=seed), seeded(5, seed=seed + 1)
    losses = SimilarityLoss()(embeddings, target)
    torch.testing.assert_close(SimilarityLoss()(a * embeddings, b * target), losses)
    torch.testing.assert_close(SimilarityLoss()(-embeddings, target), -losses)
    assert (losses.abs() <= 1 + 1e-12).all()


def test_widths_that_disagree_are_refused_by_axis_name():
    with pytest.raises(ContractError, match="d_embed"):
        SimilarityLoss()(EMBEDDINGS, TARGET[:5])


def test_what_similarity_declares():
    loss = SimilarityLoss()
    assert isinstance(loss, EmbeddingBasedLoss)
    assert loss.is_differentiable
    assert loss.reads().required == {"output_embeddings", "target_vectors"}
    assert not any(loss.options().values())


def test_similarity_is_resolved_from_output_and_targets():
    losses = resolve(
        SimilarityLoss(),
        ModelOutput(output_embeddings=EMBEDDINGS),
        message_targets=MessageTargets(target_vectors=TARGET),
    )
    assert torch.equal(losses, SimilarityLoss()(EMBEDDINGS, TARGET))

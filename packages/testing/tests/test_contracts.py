"""The suites pass on the reference implementations."""

import torch
from hypothesis import strategies as st
from planted_models import TinyClassifier
from reference_optimizer import ListTracker, ReferenceOptimizer

from pellucid.core import CombinedLoss, DummyTracker
from pellucid.testing import (
    ClassifierContract,
    EncoderContract,
    LMContract,
    LossContract,
    OptimizerContract,
    TinyEncoder,
    TinyLM,
    TinyResponseLoss,
    TinyTokenizer,
    TinyVectorLoss,
    TokenizerContract,
    TrackerContract,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)
from pellucid.testing._tiny_losses import TinyFirstTokenLoss, TinyLogitLoss, TinyTextLoss


def seeded(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


class TestTinyLM(LMContract):
    def make_model(self):
        return TinyLM(seed=1)


class TestTinyLMInDouble(LMContract):
    def make_model(self):
        return TinyLM(seed=2, dtype=torch.float64, padded_rows=3)


class TestTinyEncoder(EncoderContract):
    def make_model(self):
        return TinyEncoder(seed=1)


class TestTinyClassifier(ClassifierContract):
    def make_model(self):
        return TinyClassifier(seed=1)


class TestTinyResponseLoss(LossContract):
    def make_loss(self):
        return TinyResponseLoss()

    def make_fields(self):
        tokens = torch.tensor([4, 1, 2])
        return {"prefill_response_logits": seeded(3, 3, 9), "target_response_toks": tokens}


class TestTinyVectorLoss(LossContract):
    def make_loss(self):
        return TinyVectorLoss()

    def make_fields(self):
        return {"output_embeddings": seeded(3, 8), "target_vectors": seeded(8)}


class TestTinyLogitLoss(LossContract):
    def make_loss(self):
        return TinyLogitLoss()

    def make_fields(self):
        return {"full_logits": seeded(2, 4, 9)}


class TestTinyFirstTokenLoss(LossContract):
    def make_loss(self):
        return TinyFirstTokenLoss()

    def make_fields(self):
        return {"response_first_token_logprobs": [{"a": -1.0, "b": -2.0}, {"a": -0.5}]}


class TestTinyTextLoss(LossContract):
    def make_loss(self):
        return TinyTextLoss()

    def make_fields(self):
        return {"generated_response_strs": ["yes", None, "no"]}


class TestCombinedLoss(LossContract):
    def make_loss(self):
        inner = CombinedLoss([TinyVectorLoss(), TinyResponseLoss()])
        return CombinedLoss([inner, TinyLogitLoss()], weights=[2.0, -0.5])

    def make_fields(self):
        return {
            "full_logits": seeded(2, 4, 9),
            "output_embeddings": seeded(2, 8),
            "prefill_response_logits": seeded(2, 3, 9),
            "target_response_toks": torch.tensor([4, 1, 2]),
        }


class TestReferenceOptimizer(OptimizerContract):
    def make_optimizer(self, model, loss, seed):
        return ReferenceOptimizer(model, loss, seed=seed)


class TestTinyTokenizer(TokenizerContract):
    texts = st.text("\n" + "".join(map(chr, range(32, 127))), max_size=20) | st.text(
        " \nab", max_size=8
    )

    def make_tokenizer(self):
        return TinyTokenizer()


class TestTinyBPETokenizer(TokenizerContract):
    def make_tokenizer(self):
        return tiny_tokenizer()


class TestTinyWordPieceTokenizer(TokenizerContract):
    is_exact = False

    def make_tokenizer(self):
        return tiny_wordpiece_tokenizer()


class TestListTracker(TrackerContract):
    def make_tracker(self):
        return ListTracker()


class TestDummyTracker(TrackerContract):
    def make_tracker(self):
        return DummyTracker()

"""The suites of models pass on the reference models."""

import torch

from pellucid.testing import EncoderContract, LMContract, TinyEncoder, TinyLM


class TestTinyLM(LMContract):
    def make_model(self):
        return TinyLM(seed=1)


class TestTinyLMInDouble(LMContract):
    def make_model(self):
        return TinyLM(seed=2, dtype=torch.float64, padded_rows=3)


class TestTinyEncoder(EncoderContract):
    def make_model(self):
        return TinyEncoder(seed=1)

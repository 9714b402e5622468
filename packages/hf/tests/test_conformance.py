"""The conformance suite of language models, on two architectures."""

from pellucid.hf import LMHFModel
from pellucid.testing import LMContract, tiny_gpt2, tiny_llama, tiny_tokenizer


class TestLlama(LMContract):
    def make_model(self):
        return LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())


class TestGPT2(LMContract):
    def make_model(self):
        return LMHFModel(tiny_gpt2(), tokenizer=tiny_tokenizer())

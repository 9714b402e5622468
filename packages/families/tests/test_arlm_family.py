"""The family arlm against the kit that every family is held to."""

import pytest
import torch

from pellucid.families.arlm import (
    ARLMLoss,
    ARLMPredictor,
    ARLMSeq2SeqCollator,
    ARLMSeq2SeqPredCollator,
    DefaultARLMCollator,
    RotaryTransformerARLMModel,
)
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.testing import (
    EXAMPLES,
    BaseCollatorTests,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
    FamilyContract,
    FamilyParts,
)

LAYOUT = {"input_block_size": 8, "add_bos": "output", "add_eos": True}


class TestARLMModel(BaseModelTests):
    @pytest.fixture
    def model(self, tiny_model_kwargs):
        return RotaryTransformerARLMModel(**tiny_model_kwargs)

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        def run(batch_size=2, seq_len=16, partial_mask=False):
            ids = torch.randint(7, len(simple_tokenizer), (batch_size, seq_len))
            mask = torch.ones(batch_size, seq_len, dtype=torch.bool)
            if partial_mask:
                mask[:, -4:] = False
            causal = mask[:, None, :] & torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
            return model(ids, causal)

        return run


class TestARLMLoss(BaseLossTests):
    @pytest.fixture
    def loss_fn(self, tiny_model_kwargs, simple_tokenizer):
        return ARLMLoss(RotaryTransformerARLMModel(**tiny_model_kwargs), simple_tokenizer)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return ARLMSeq2SeqCollator(simple_tokenizer, 6, **LAYOUT)(EXAMPLES)


class TestDefaultARLMCollator(BaseCollatorTests):
    @pytest.fixture
    def collator(self, simple_tokenizer, block_size):
        return DefaultARLMCollator(simple_tokenizer, block_size)

    @pytest.fixture
    def raw_examples(self):
        return EXAMPLES


class TestARLMPredictor(BasePredictorTests):
    @pytest.fixture
    def predictor(self, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerARLMModel(**tiny_model_kwargs)
        return ARLMPredictor(None, 14, simple_tokenizer, model=model)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return ARLMSeq2SeqPredCollator(simple_tokenizer, 6, **LAYOUT)(EXAMPLES)


class TestARLMFamily(FamilyContract):
    overfit_steps = 120

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        torch.manual_seed(seed)
        model = RotaryTransformerARLMModel(
            len(tokenizer), 32, 2, 2, dropout=0.0, max_length=32, mix_neighbours=True
        )
        wider = {**LAYOUT, "input_block_size": 8 + extra_padding}
        return FamilyParts(
            tokenizer=tokenizer,
            model=model,
            loss=ARLMLoss(),
            predictor=ARLMPredictor(max_steps=6, temperature=0.0),
            collator=ARLMSeq2SeqCollator(tokenizer, 6, **LAYOUT),
            prediction_collator=ARLMSeq2SeqPredCollator(tokenizer, 6, **wider),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts):
        return ARLMPredictor(max_steps=6)

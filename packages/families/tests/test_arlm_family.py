"""The family arlm against the kit that every family is held to."""

import pytest
import torch
from family_tools import CollatorTests, forward_of

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
        def call(ids, mask):
            n_pos = ids.shape[1]
            past = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
            return model(ids, mask[:, None, :] & past)

        return forward_of(call, simple_tokenizer)


class TestARLMLoss(BaseLossTests):
    @pytest.fixture
    def loss_fn(self, tiny_model_kwargs, simple_tokenizer):
        return ARLMLoss(RotaryTransformerARLMModel(**tiny_model_kwargs), simple_tokenizer)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return ARLMSeq2SeqCollator(simple_tokenizer, 6, **LAYOUT)(EXAMPLES)


class TestDefaultARLMCollator(CollatorTests):
    @pytest.fixture
    def collator(self, simple_tokenizer, block_size):
        return DefaultARLMCollator(simple_tokenizer, block_size)


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

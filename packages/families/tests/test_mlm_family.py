"""The family mlm against the kit that every family is held to."""

import pytest
import torch
from family_tools import CollatorTests, forward_of

from pellucid.families.mlm import (
    DefaultMLMCollator,
    MLMLoss,
    MLMPredictor,
    MLMSeq2SeqFullPredCollator,
    MLMSeq2SeqPredCollator,
    MLMSeq2SeqTrainCollator,
    RotaryTransformerMLMModel,
)
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.sampling import Remasking
from pellucid.xlm.testing import (
    EXAMPLES,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
    FamilyContract,
    FamilyParts,
)

WAYS = {
    "surest first": {"confidence": "top_prob"},
    "as many as are sure": {"confidence": "entropy", "threshold": 0.5},
    "in random order": {"remasking": Remasking(count=1, budget=2), "top_k": 20},
    "by blocks": {"confidence": "prob_diff", "block_length": 2},
}


class TestMLMModel(BaseModelTests):
    @pytest.fixture
    def model(self, tiny_model_kwargs):
        return RotaryTransformerMLMModel(**tiny_model_kwargs)

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        return forward_of(model, simple_tokenizer)


class TestMLMLoss(BaseLossTests):
    @pytest.fixture
    def loss_fn(self, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerMLMModel(**tiny_model_kwargs)
        return MLMLoss(model=model, tokenizer=simple_tokenizer)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return MLMSeq2SeqTrainCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestDefaultMLMCollator(CollatorTests):
    @pytest.fixture
    def collator(self, simple_tokenizer, block_size):
        return DefaultMLMCollator(simple_tokenizer, block_size)


class TestMLMPredictor(BasePredictorTests):
    @pytest.fixture(params=WAYS.values(), ids=WAYS)
    def predictor(self, request, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerMLMModel(**tiny_model_kwargs)
        return MLMPredictor(6, 6, simple_tokenizer, model=model, **request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return MLMSeq2SeqPredCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestMLMFamily(FamilyContract):
    overfit_steps = 120
    way = WAYS["surest first"]
    way_of_sampler = WAYS["in random order"]

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        torch.manual_seed(seed)
        model = RotaryTransformerMLMModel(
            len(tokenizer), 32, 2, 2, dropout=0.0, max_length=32, mix_neighbours=True
        )
        return FamilyParts(
            tokenizer=tokenizer,
            model=model,
            loss=MLMLoss(),
            predictor=self.predictor(),
            collator=MLMSeq2SeqTrainCollator(tokenizer, 6, input_block_size=8),
            prediction_collator=self.collator(tokenizer, 8 + extra_padding),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts):
        return MLMPredictor(6, parts.predictor.max_new_tokens, **self.way_of_sampler)

    def predictor(self):
        return MLMPredictor(6, 6, temperature=0.0, **self.way)

    def collator(self, tokenizer, width):
        return MLMSeq2SeqPredCollator(tokenizer, 6, input_block_size=width)


class TestMLMFamilyByBlocks(TestMLMFamily):
    way = way_of_sampler = WAYS["by blocks"]


class TestMLMFamilyInAWholeBlock(TestMLMFamily):
    """The masks are in the batch, and the predictor adds none."""

    way = way_of_sampler = WAYS["as many as are sure"]

    def predictor(self):
        return MLMPredictor(6, None, temperature=0.0, **self.way)

    def collator(self, tokenizer, width):
        return MLMSeq2SeqFullPredCollator(tokenizer, 6, input_block_size=width)

    def generated(self, parts, preds):
        # A filled text is given whole, prompts included: the last block was generated.
        return super().generated(parts, {**preds, "output_start_idx": preds["ids"].shape[1] - 6})

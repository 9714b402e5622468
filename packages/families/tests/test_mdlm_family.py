"""The family mdlm against the kit that every family is held to."""

import pytest
import torch
from family_tools import CollatorTests, forward_of

from pellucid.families.mdlm import (
    DefaultMDLMCollator,
    MDLMInfillPredCollator,
    MDLMLoss,
    MDLMModel,
    MDLMPredictor,
    MDLMSeq2SeqPredCollator,
    MDLMSeq2SeqTrainCollator,
)
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.noise import ContinuousTimeCosine, ContinuousTimeLogLinear
from pellucid.xlm.testing import (
    EXAMPLES,
    BaseLossTests,
    BaseModelTests,
    BasePredictorTests,
    FamilyContract,
    FamilyParts,
)

WAYS = {
    "ancestral": {"noise_schedule": ContinuousTimeLogLinear()},
    "surest first": {"confidence": "top_prob"},
    "as many as are sure": {"confidence": "entropy", "threshold": 0.5},
}


class TestMDLMModel(BaseModelTests):
    @pytest.fixture
    def model(self, tiny_model_kwargs):
        model = MDLMModel(**tiny_model_kwargs, d_cond=16)
        # A new network answers nothing but zeros, through which no gradient flows.
        torch.nn.init.normal_(model.final_layer.linear.weight)
        return model

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        return forward_of(
            lambda ids, mask: model(ids, torch.linspace(0.1, 2, len(ids)), mask), simple_tokenizer
        )


class TestMDLMLoss(BaseLossTests):
    @pytest.fixture(params=["bound", "even"])
    def loss_fn(self, request, tiny_model_kwargs, simple_tokenizer):
        model = MDLMModel(**tiny_model_kwargs)
        return MDLMLoss(model=model, tokenizer=simple_tokenizer, weighting=request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return MDLMSeq2SeqTrainCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestDefaultMDLMCollator(CollatorTests):
    @pytest.fixture(params=["number", "each"])
    def collator(self, request, simple_tokenizer, block_size, real_loglinear_schedule):
        return DefaultMDLMCollator(
            simple_tokenizer, block_size, real_loglinear_schedule, noising=request.param
        )


class TestMDLMSeq2SeqTrainCollator(TestDefaultMDLMCollator):
    @pytest.fixture
    def collator(self, simple_tokenizer):
        return MDLMSeq2SeqTrainCollator(simple_tokenizer, 6, input_block_size=8)


class TestMDLMSeq2SeqPredCollator(TestDefaultMDLMCollator):
    @pytest.fixture
    def collator(self, simple_tokenizer):
        return MDLMSeq2SeqPredCollator(simple_tokenizer, 6, input_block_size=8)


class TestMDLMPredictor(BasePredictorTests):
    @pytest.fixture(params=WAYS.values(), ids=WAYS)
    def predictor(self, request, tiny_model_kwargs, simple_tokenizer):
        model = MDLMModel(**tiny_model_kwargs)
        return MDLMPredictor(6, 6, simple_tokenizer, model=model, **request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return MDLMSeq2SeqPredCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestMDLMPredictorOfGaps(TestMDLMPredictor):
    """The masks are in the batch, and the predictor adds none."""

    @pytest.fixture
    def predictor(self, tiny_model_kwargs, simple_tokenizer):
        schedule, model = ContinuousTimeCosine(), MDLMModel(**tiny_model_kwargs)
        return MDLMPredictor(4, None, simple_tokenizer, model=model, noise_schedule=schedule)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        mask = simple_tokenizer.mask_token_id
        rows = [[10, mask, 12, mask], [mask, 11], [mask] * 5]
        return MDLMInfillPredCollator(simple_tokenizer, 6)([{"input_ids": row} for row in rows])


class TestMDLMFamily(FamilyContract):
    overfit_steps = 150
    way = WAYS["surest first"]

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        torch.manual_seed(seed)
        settings = {"dropout": 0.0, "max_length": 32, "mix_neighbours": True, "d_cond": 16}
        model = MDLMModel(len(tokenizer), 32, 2, 2, **settings)
        if seed:
            # The first seed is learnt with; the others stand for weights that may be anything.
            torch.nn.init.normal_(model.final_layer.linear.weight)
        return FamilyParts(
            tokenizer=tokenizer,
            model=model,
            loss=MDLMLoss(),
            predictor=MDLMPredictor(6, 6, temperature=0.0, **self.way),
            collator=MDLMSeq2SeqTrainCollator(tokenizer, 6, input_block_size=8),
            prediction_collator=MDLMSeq2SeqPredCollator(
                tokenizer, 6, input_block_size=8 + extra_padding
            ),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts):
        del parts
        return MDLMPredictor(6, 6, **self.way)


class TestMDLMFamilyByAncestors(TestMDLMFamily):
    way = WAYS["ancestral"]
    # Drawing from the process forgives less than taking what is surest.
    overfit_steps = 350


class TestMDLMFamilyWithTiedEmbeddings(TestMDLMFamily):
    way = WAYS["as many as are sure"]

    def make_family(self, *, seed, extra_padding=0):
        parts = super().make_family(seed=seed, extra_padding=extra_padding)
        torch.manual_seed(seed)
        settings = {"dropout": 0.0, "max_length": 32, "mix_neighbours": True, "d_cond": 16}
        model = MDLMModel(len(parts.tokenizer), 32, 2, 2, tie_embeddings=True, **settings)
        parts.model = parts.loss.model = parts.predictor.model = model
        return parts

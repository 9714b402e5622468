"""The family ilm against the kit that every family is held to."""

import pytest
import torch
from family_tools import CollatorTests, forward_of

from pellucid.families.ilm import (
    DefaultILMCollator,
    ILMLossWithMaskedCE,
    ILMPredictor,
    ILMPredictorWithLengthClassification,
    ILMPredictorWithStoppingClassification,
    ILMSeq2SeqCollator,
    ILMSeq2SeqPredCollator,
    RotaryTransformerILMModel,
    RotaryTransformerILMModelWithLengthClassification,
    RotaryTransformerILMModelWithStoppingClassification,
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


def count_to_nine(*shape, **settings):
    return RotaryTransformerILMModelWithLengthClassification(*shape, num_classes=9, **settings)


MODELS = {
    "no head": RotaryTransformerILMModel,
    "stopping": RotaryTransformerILMModelWithStoppingClassification,
    "length": count_to_nine,
}
WAYS = {
    "together": {},
    "the best": {"temperature": 0.0},
    "of the best together": {"sampling_method": "sample_top_p", "p": 0.7},
    "slot first": {"sampling_method": "sample_top_k", "top": 1, "second_sampling_method": "sample"},
    "the best slot first": {
        "temperature": 0.0,
        "second_sampling_method": "sample",
        "second_temperature": 0.0,
    },
}


SHAPE = ("num_embeddings", "d_model", "num_layers", "nhead")
SEVERAL = {"temperature": 0.0, "max_insertions": 3}


class TestILMModel(BaseModelTests):
    @pytest.fixture(params=MODELS.values(), ids=MODELS)
    def model(self, request, tiny_model_kwargs):
        settings = dict(tiny_model_kwargs)
        shape = [settings.pop(name) for name in SHAPE]
        return request.param(*shape, **settings)

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        return forward_of(lambda ids, mask: model(ids, mask)[0], simple_tokenizer)


class TestILMLoss(BaseLossTests):
    @pytest.fixture(params=["binary_ce", "ce"])
    def loss_fn(self, request, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerILMModelWithStoppingClassification(**tiny_model_kwargs)
        return ILMLossWithMaskedCE(model, simple_tokenizer, request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return ILMSeq2SeqCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestDefaultILMCollator(CollatorTests):
    @pytest.fixture(params=["block", "max"])
    def collator(self, request, simple_tokenizer, block_size):
        return DefaultILMCollator(simple_tokenizer, block_size, truncate=request.param)


class TestILMPredictor(BasePredictorTests):
    @pytest.fixture(params=WAYS.values(), ids=WAYS)
    def way(self, request):
        return request.param

    @pytest.fixture
    def predictor(self, way, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerILMModelWithStoppingClassification(**tiny_model_kwargs)
        return ILMPredictorWithStoppingClassification(6, None, simple_tokenizer, model=model, **way)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return ILMSeq2SeqPredCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestILMPredictorWithoutAHead(TestILMPredictor):
    @pytest.fixture
    def predictor(self, way, tiny_model_kwargs, simple_tokenizer):
        model = RotaryTransformerILMModel(**tiny_model_kwargs)
        return ILMPredictor(6, 12, simple_tokenizer, model=model, **way)


class TestILMPredictorOfSeveral(TestILMPredictor):
    @pytest.fixture
    def predictor(self, way, tiny_model_kwargs, simple_tokenizer):
        settings = dict(tiny_model_kwargs)
        shape = [settings.pop(name) for name in SHAPE]
        several = {"max_insertions": 3, "insertion_threshold": 3.0, **way}
        return ILMPredictorWithLengthClassification(
            6, None, simple_tokenizer, model=count_to_nine(*shape, **settings), **several
        )


class TestILMFamily(FamilyContract):
    overfit_steps = 200
    way = WAYS["the best"]

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        torch.manual_seed(seed)
        wider = 8 + extra_padding
        return FamilyParts(
            tokenizer=tokenizer,
            model=self.model(
                len(tokenizer), 32, 2, 2, dropout=0.0, max_length=32, mix_neighbours=True
            ),
            loss=self.loss(),
            predictor=self.predictor(),
            collator=ILMSeq2SeqCollator(tokenizer, 6, input_block_size=8),
            prediction_collator=ILMSeq2SeqPredCollator(tokenizer, 6, input_block_size=wider),
            examples=EXAMPLES,
        )

    def model(self, *shape, **settings):
        return RotaryTransformerILMModelWithStoppingClassification(*shape, **settings)

    def loss(self):
        return ILMLossWithMaskedCE()

    def predictor(self):
        return ILMPredictorWithStoppingClassification(8, stopping_threshold=0.5, **self.way)

    def make_sampler(self, parts):
        drawing = {name: 1.0 for name in self.way if name.endswith("temperature")}
        settings = {**self.way, **drawing, "stopping_threshold": None}
        return type(self.predictor())(8, model=parts.model, tokenizer=parts.tokenizer, **settings)


class TestILMFamilySlotFirst(TestILMFamily):
    way = WAYS["the best slot first"]


class TestILMFamilyThatCounts(TestILMFamily):
    """How many tokens are missing is learnt, and several are inserted at once."""

    way = SEVERAL

    def model(self, *shape, **settings):
        return count_to_nine(*shape, **settings)

    def loss(self):
        return ILMLossWithMaskedCE(length_loss="ce")

    def predictor(self):
        return ILMPredictorWithLengthClassification(8, **self.way)

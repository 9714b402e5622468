"""The family flexmdm against the kit that every family is held to."""

import pytest
import torch
from family_tools import CollatorTests, forward_of
from torch import nn

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.flexmdm import (
    CosineSchedule,
    FlexMDMLoss,
    FlexMDMModel,
    FlexMDMNoiseSchedule,
    FlexMDMPredCollator,
    FlexMDMPredictor,
    FlexMDMTrainCollator,
    GapHead,
    GeometricSchedule,
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

WAYS = {
    "tau-leaping": {},
    "tau-leaping, surest first": {"confidence": "top_prob"},
    "systematic": {"leap": "systematic", "confidence": "entropy"},
    "rounded": {"leap": "rounded", "confidence": "prob_diff", "temperature": 0.0},
}


class TestFlexMDMModel(BaseModelTests):
    @pytest.fixture(params=["linear", "mlp"])
    def model(self, request, tiny_model_kwargs):
        return FlexMDMModel(**tiny_model_kwargs, len_head_type=request.param)

    @pytest.fixture
    def run_forward(self, model, simple_tokenizer):
        return forward_of(
            lambda ids, mask: model(ids, torch.rand(len(ids)), mask)[0], simple_tokenizer
        )


class TestFlexMDMLoss(BaseLossTests):
    @pytest.fixture(params=["expectation", "distribution"])
    def loss_fn(self, request, tiny_model_kwargs, simple_tokenizer):
        model = FlexMDMModel(**tiny_model_kwargs, len_predict_type=request.param, max_gap=8)
        return FlexMDMLoss(None, model, simple_tokenizer)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return FlexMDMTrainCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class TestFlexMDMTrainCollator(CollatorTests):
    @pytest.fixture
    def collator(self, simple_tokenizer, block_size):
        return FlexMDMTrainCollator(simple_tokenizer, block_size)


class TestFlexMDMPredictor(BasePredictorTests):
    @pytest.fixture(params=WAYS.values(), ids=WAYS)
    def predictor(self, request, tiny_model_kwargs, simple_tokenizer):
        model = FlexMDMModel(**tiny_model_kwargs, len_predict_type="expectation", max_gap=4)
        return FlexMDMPredictor(6, 6, simple_tokenizer, model=model, **request.param)

    @pytest.fixture
    def batch(self, simple_tokenizer):
        return FlexMDMPredCollator(simple_tokenizer, 6, input_block_size=8)(EXAMPLES)


class Repeated(FlexMDMTrainCollator):
    """Shows each example at eight times at once, so that fewer steps are needed."""

    def __call__(self, examples):
        return super().__call__(list(examples) * 8)


class TestFlexMDMFamily(FamilyContract):
    """With the leaps that draw nothing; `test_flexmdm_predictor` holds the others to the same."""

    overfit_steps = 160
    learning_rate = 6e-3
    # Early insertions and late tokens.
    schedule = FlexMDMNoiseSchedule(GeometricSchedule(0.001, 5.0), CosineSchedule())

    def make_family(self, *, seed, extra_padding=0):
        tokenizer = SimpleSpaceTokenizer.for_numbers(30)
        torch.manual_seed(seed)
        model = FlexMDMModel(
            len(tokenizer),
            32,
            2,
            2,
            d_cond=32,
            dropout=0.0,
            max_length=32,
            max_gap=4,
            len_predict_type="expectation",
            mix_neighbours=True,
        )
        width = 8 + extra_padding
        return FamilyParts(
            tokenizer=tokenizer,
            model=model,
            loss=FlexMDMLoss(self.schedule, max_weight=5.0),
            predictor=FlexMDMPredictor(
                8,
                6,
                noise_schedule=self.schedule,
                leap="rounded",
                confidence="top_prob",
                temperature=0.0,
                insert_first=True,
            ),
            collator=Repeated(tokenizer, 6, input_block_size=8),
            prediction_collator=FlexMDMPredCollator(tokenizer, 6, input_block_size=width),
            examples=EXAMPLES,
        )

    def make_sampler(self, parts):
        return FlexMDMPredictor(8, 6, parts.tokenizer, model=parts.model)

    def prompts_before_and_after(self, parts, batch, preds):
        # EOS stays, too, but text comes before it.
        eos = parts.tokenizer.eos_token_id
        assert (batch["input_ids"][:, -1] == eos).all()
        assert ((preds["ids"] == eos).sum(1) == 1).all()
        return super().prompts_before_and_after(parts, batch, preds)


SHAPE = {"d_model": 16, "d_cond": 8, "max_gap": 5}


@pytest.mark.parametrize("head_type", ["linear", "mlp"])
def test_a_new_head_knows_nothing(head_type):
    x, conditioning = torch.randn(2, 3, 16), torch.randn(2, 8)
    expecting = GapHead(**SHAPE, is_distribution=False, head_type=head_type)
    torch.testing.assert_close(expecting(x, conditioning), torch.ones(2, 3))
    telling = GapHead(**SHAPE, is_distribution=True, head_type=head_type)
    assert torch.equal(telling(x, conditioning), torch.zeros(2, 3, 6))
    for head in (expecting, telling):
        nn.init.normal_(head.linear_out.weight)
        assert not torch.equal(head(x, conditioning), head(x + torch.randn(16), conditioning))
    assert (expecting(x, conditioning) > 0).all()


def test_padding_changes_nothing_and_logits_come_where_they_are_asked_for(make_model):
    model = make_model(FlexMDMModel, len_predict_type="expectation").eval().double()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    ids, t = torch.randint(7, 19, (2, 6)), torch.tensor([0.2, 0.9])
    whole = model(ids, t)
    shown = torch.ones(2, 9, dtype=torch.bool)
    shown[:, [0, 7, 8]] = False
    wide = torch.nn.functional.pad(ids, (1, 2))
    for found, padded in zip(whole, model(wide, t, shown), strict=True):
        torch.testing.assert_close(padded[:, 1:7], found)
    where = torch.rand(2, 6) < 0.5
    torch.testing.assert_close(model(ids, t, where=where)[0], whole[0][where])
    assert not torch.allclose(model(ids, t.flip(0))[0], whole[0])


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="expectation"):
        FlexMDMModel(10, 8, 1, 2, len_predict_type="mean")
    with pytest.raises(UnknownNameError, match="mlp"):
        FlexMDMModel(10, 8, 1, 2, len_head_type="deep")
    with pytest.raises(ArgumentError, match="max_gap is 0"):
        FlexMDMModel(10, 8, 1, 2, max_gap=0)

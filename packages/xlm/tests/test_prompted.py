"""What predictors that are given prompts have in common, with a network that counts upwards."""

import pytest
import torch
from torch import nn

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.datamodule import PromptCollator, SimpleSpaceTokenizer
from pellucid.xlm.modules import TokenConstraints
from pellucid.xlm.sampling import (
    FillOrder,
    PromptedPredictor,
    RowStreams,
    Texts,
    TokenPolicy,
    fill,
)

PAD, CLS, MASK, EOS, BOS, SEP, UNK = range(7)
TOKENIZER = SimpleSpaceTokenizer.for_numbers(9)
EXAMPLES = [
    {"prompt_ids": [8, 9], "input_ids": [10, 11], "level": 3},
    {"prompt_ids": [7], "input_ids": [8, 9, 10], "level": 4},
]


class Counter(nn.Module):
    """After each token comes the next number, and EOS after the last one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, reading):
        follows = (reading.ids.cummax(dim=1).values + 1).roll(1, dims=1)
        follows = follows.masked_fill(follows >= len(TOKENIZER), EOS)
        logits = torch.zeros(*reading.ids.shape, len(TOKENIZER))
        return logits.scatter(2, follows[..., None], 99.0)[reading.where]


class CountingPredictor(PromptedPredictor):
    def __init__(self, **given):
        self.model, self.tokenizer = Counter(), TOKENIZER
        for name, value in given.items():
            setattr(self, name, value)

    def predict(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        texts = Texts.of(batch, tokenizer=TOKENIZER, max_new_tokens=3)
        filled = fill(
            texts,
            self.model,
            order=FillOrder(confidence="top_prob", block_length=1),
            tokens=TokenPolicy(),
            constraints=TokenConstraints.from_tokenizer(TOKENIZER, allowed=("eos", "pad")),
            streams=RowStreams.of(batch, self.generator),
            max_steps=3,
        )
        return self.describe(filled, start=texts.start)


def test_prompts_are_completed_up_to_eos() -> None:
    predictor = CountingPredictor()
    assert predictor.generate(["1 2", "6 7"]) == ["3 4 5", "8"]
    assert predictor.generate([]) == []
    predictor.skip_special_tokens = False
    assert predictor.generate(["7"])[0].split()[:1] == ["8"]
    assert CountingPredictor(add_bos="input").prompt_batch(["1"])["input_ids"].tolist() == [
        [BOS, 8]
    ]


def test_records_have_what_the_prediction_has() -> None:
    predictor = CountingPredictor()
    batch = predictor.prompt_batch(["1 2", "5"])
    assert batch["attention_mask"].tolist() == [[True, True], [False, True]]
    preds = predictor.predict(batch)
    assert preds["output_start_idx"] == 2
    assert preds["steps_taken"] == [3, 3]
    records = predictor.to_dict(batch, preds)
    assert [record["text"] for record in records] == ["3 4 5", "6 7 8"]
    assert set(records[0]) == {"ids", "text", "time_taken", "steps_taken"}
    assert records[0]["ids"] == [8, 9, 10, 11, 12]


def test_the_generator_of_a_call_is_its_own() -> None:
    mine, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    predictor = CountingPredictor(generator=mine)
    before = mine.get_state()
    predictor.generate(["1"], generator=other)
    assert predictor.generator is mine
    assert torch.equal(mine.get_state(), before)


def test_prompts_are_collated() -> None:
    collator = PromptCollator(
        TOKENIZER, 4, input_block_size=3, add_bos="output", pass_through_fields=["level"]
    )
    batch = collator(EXAMPLES)
    assert batch["input_ids"].tolist() == [[8, 9, BOS], [PAD, 7, BOS]]
    assert batch["target_ids"].tolist() == [[10, 11, EOS, PAD], [8, 9, 10, EOS]]
    assert batch["attention_mask"].tolist() == [[True] * 3, [False, True, True]]
    assert batch["fixed_positions_mask"].all()
    assert batch["level"] == [3, 4]
    assert (collator.block_size, collator.input_block_size) == (4, 3)


def test_bad_input_is_named() -> None:
    with pytest.raises(ArgumentError, match="a prompt has 3 tokens, BOS included"):
        PromptCollator(TOKENIZER, 4, input_block_size=2)(EXAMPLES)

    class Maskless:
        pad_token_id, eos_token_id, bos_token_id = 0, 1, 2

    with pytest.raises(RequirementError, match="no special token for mask"):
        PromptCollator(Maskless(), 4, input_block_size=2)

"""What predictors that are given prompts have in common, with a network that counts upwards."""

import pytest
import torch
from torch import nn

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.datamodule import InfillCollator, PromptCollator, SimpleSpaceTokenizer
from pellucid.xlm.sampling import FillingPredictor, FillOrder, StopAtToken, TokenPolicy

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

    def forward(self, ids, shown, positions, where=None):
        follows = (ids.cummax(dim=1).values + 1).roll(1, dims=1)
        follows = follows.masked_fill(follows >= len(TOKENIZER), EOS)
        logits = torch.zeros(*ids.shape, len(TOKENIZER))
        logits = logits.scatter(2, follows[..., None], 99.0)
        return logits if where is None else logits[where]


class CountingPredictor(FillingPredictor):
    def __init__(self, max_steps=3, max_new_tokens=3, **given):
        settings = {"model": Counter(), "noise_schedule": None, "add_bos": None}
        super().__init__(max_steps, max_new_tokens, TOKENIZER, **settings)
        self.order = FillOrder(confidence="top_prob", block_length=1)
        self.tokens = TokenPolicy()
        for name, value in given.items():
            setattr(self, name, value)


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


def test_masks_in_a_batch_are_filled_where_none_are_added() -> None:
    predictor = CountingPredictor(max_steps=2, max_new_tokens=None)
    assert predictor.generate(["1 [MASK] [MASK]", "4 [MASK]"]) == ["1 2 3", "4 5"]
    assert CountingPredictor(max_new_tokens=None).add_bos is None


def test_logits_can_be_changed_on_their_way() -> None:
    whole = []

    def shift(logits):
        whole.append(tuple(logits.shape))
        return logits.roll(1, dims=2)

    assert CountingPredictor(logits_hook=shift).generate(["1 2"]) == ["4 6 8"]
    # Of the whole row in every step.
    assert whole == [(1, 5, len(TOKENIZER))] * 3


def test_a_subclass_says_how_it_reads_in_which_order_and_where_texts_end() -> None:
    class Other(CountingPredictor):
        def reader(self, texts):
            said.append(texts.start)
            return super().reader(texts)

        def order_of_steps(self):
            return FillOrder()

        def stop_rules(self):
            return [StopAtToken(token_id=TOKENIZER.encode("4")[0])]

    said = []
    preds = Other(order=None).predict(Other().prompt_batch(["3"]))
    assert said == [1]
    assert preds["text"] == ["4"]
    assert preds["ids"][0, 2:].tolist() == [PAD, PAD]


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


def test_gaps_are_collated_as_they_are() -> None:
    collator = InfillCollator(TOKENIZER, 4)
    batch = collator([{"input_ids": [8, MASK]}, {"input_ids": [MASK, 9, MASK]}])
    assert batch["input_ids"].tolist() == [[8, MASK, PAD, PAD], [MASK, 9, MASK, PAD]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [2, 3]
    assert torch.equal(batch["fixed_positions_mask"], batch["input_ids"] != MASK)
    with pytest.raises(ArgumentError, match="a text has 5 tokens and does not fit"):
        collator([{"input_ids": [8] * 5}])


def test_bad_input_is_named() -> None:
    with pytest.raises(ArgumentError, match="max_steps is 0; give a positive number"):
        CountingPredictor(max_steps=0)
    with pytest.raises(ArgumentError, match="max_new_tokens is -1; give a positive number"):
        CountingPredictor(max_new_tokens=-1)
    with pytest.raises(ArgumentError, match="a prompt has 3 tokens, BOS included"):
        PromptCollator(TOKENIZER, 4, input_block_size=2)(EXAMPLES)

    class Maskless:
        pad_token_id, eos_token_id, bos_token_id = 0, 1, 2

    with pytest.raises(RequirementError, match="no special token for mask"):
        PromptCollator(Maskless(), 4, input_block_size=2)

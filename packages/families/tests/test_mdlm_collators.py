import pytest
import torch
from family_tools import BOS, EOS, IDS, MASK, PAD, TOKENIZER, seeded, unmasked
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mdlm import (
    DefaultMDLMCollator,
    MDLMEmptyDataset,
    MDLMInfillPredCollator,
    MDLMSeq2SeqPredCollator,
    MDLMSeq2SeqTrainCollator,
    print_batch_mdlm,
)
from pellucid.xlm.noise import ContinuousTimeCosine, ContinuousTimeLogLinear

NOISINGS = st.sampled_from(["number", "each"])
SETTINGS = {"input_block_size": 6}


@given(rows=st.lists(IDS, min_size=1, max_size=4), on_padding=st.booleans(), noising=NOISINGS)
def test_a_text_is_masked_and_else_as_it_was(rows, on_padding, noising):
    collator = DefaultMDLMCollator(TOKENIZER, 7, loss_on_padding=on_padding, noising=noising)
    batch = seeded(collator)([{"input_ids": row} for row in rows])
    for row, ids in enumerate(rows):
        full = [BOS, *ids, EOS]
        n_pads = 7 - len(full)
        assert unmasked(batch)[row].tolist() == full + [PAD] * n_pads
        assert batch["attention_mask"][row].tolist() == [True] * len(full) + [on_padding] * n_pads
        assert (batch["target_ids"][row] != -100).sum() == (6 if on_padding else len(full) - 1)
        assert batch["target_ids"][row, 0] == -100


@given(
    prompts=st.lists(IDS, min_size=1, max_size=3),
    suffix=st.lists(st.integers(7, 18), max_size=4),
    on_padding=st.booleans(),
)
def test_a_suffix_follows_its_prompt_and_alone_is_masked(prompts, suffix, on_padding):
    collator = MDLMSeq2SeqTrainCollator(TOKENIZER, 5, loss_on_padding=on_padding, **SETTINGS)
    batch = seeded(collator)([{"prompt_ids": one, "input_ids": suffix} for one in prompts])
    assert batch["input_ids"].shape == (len(prompts), 11)
    for row, prompt in enumerate(prompts):
        full = [*prompt, BOS, *suffix, EOS]
        start = len(prompt) + 1
        end = start + 5 if on_padding else len(full)
        assert unmasked(batch)[row].tolist() == full + [PAD] * (11 - len(full))
        columns = torch.arange(11)
        is_suffix = (columns >= start) & (columns < end)
        assert torch.equal(batch["target_ids"][row] != -100, is_suffix)
        assert torch.equal(batch["attention_mask"][row], columns < end)


@pytest.mark.parametrize(
    "schedule", [ContinuousTimeLogLinear(sigma_max=4.0), ContinuousTimeCosine()]
)
@pytest.mark.parametrize("noising", ["number", "each"])
def test_noise_is_what_the_schedule_says_of_its_time(schedule, noising, texts):
    batch = seeded(DefaultMDLMCollator(TOKENIZER, 9, schedule, noising=noising))(texts * 20)
    t, total = batch["t"], batch["total_noise"]
    assert ((t >= 0) & (t <= 1)).all()
    inner = t < 0.9
    torch.testing.assert_close(schedule.total_noise(t)[inner], total[inner], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(schedule.noise_rate(t), batch["noise_rate"])
    for name in ("t", "total_noise", "noise_rate", "weight"):
        assert batch[name].dtype == torch.float32
        assert batch[name].shape == (60,)


def test_prompts_are_padded_on_the_left():
    pairs = [{"prompt_ids": [8], "input_ids": [9, 10]}, {"prompt_ids": [11, 12], "input_ids": []}]
    batch = MDLMSeq2SeqPredCollator(TOKENIZER, 4, **SETTINGS, truncate="max")(pairs)
    assert batch["input_ids"].tolist() == [[PAD, 8, BOS], [11, 12, BOS]]
    assert batch["attention_mask"].tolist() == [[False, True, True], [True] * 3]
    assert batch["target_ids"].tolist() == [[9, 10, EOS, PAD], [EOS, PAD, PAD, PAD]]
    first = MDLMSeq2SeqPredCollator(
        TOKENIZER, 4, **SETTINGS, truncate="max", bos_location="before_prefix"
    )(pairs)
    assert first["input_ids"].tolist() == [[PAD, BOS, 8], [BOS, 11, 12]]


def test_the_generator_decides_all(texts):
    before = torch.get_rng_state()
    for noising in ("number", "each"):
        collator = DefaultMDLMCollator(TOKENIZER, 9, noising=noising)
        first, again, other = (seeded(collator, seed)(texts * 4) for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["input_ids"], other["input_ids"])
    assert torch.equal(torch.get_rng_state(), before)


def test_gaps_are_left_as_they_are():
    collator = MDLMInfillPredCollator(TOKENIZER, 4)
    batch = collator([{"input_ids": [8, MASK]}, {"input_ids": [MASK, 9, MASK]}])
    assert batch["input_ids"].tolist() == [[8, MASK, PAD, PAD], [MASK, 9, MASK, PAD]]
    assert batch["attention_mask"].sum().item() == 5
    assert "target_ids" not in batch
    told = collator([{"input_ids": [8, MASK], "target_ids": [8, 9]}])
    assert told["target_ids"].tolist() == [[8, 9, PAD, PAD]]
    with pytest.raises(ArgumentError, match="a text has 5 tokens"):
        collator([{"input_ids": [8] * 5}])
    with pytest.raises(ArgumentError, match="differ in length"):
        collator([{"input_ids": [8, MASK], "target_ids": [8]}])


def test_unconditional_texts_are_masks():
    dataset = MDLMEmptyDataset(TOKENIZER, 2, 3)
    assert list(dataset) == [{"input_ids": [BOS, MASK, MASK]}] * 2
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(ArgumentError, match="max_length is 1"):
        MDLMEmptyDataset(TOKENIZER, 2, 1)


def test_a_batch_can_be_shown(texts, capsys):
    print_batch_mdlm(seeded(DefaultMDLMCollator(TOKENIZER, 9))(texts), "train", TOKENIZER, "lm")
    assert "train/lm: 3 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DefaultMDLMCollator(TOKENIZER, 8, noising="some"), UnknownNameError, "noising"),
        (
            lambda: MDLMSeq2SeqPredCollator(TOKENIZER, 4, **SETTINGS, bos_location="nowhere"),
            UnknownNameError,
            "bos_location",
        ),
        (
            lambda: MDLMSeq2SeqTrainCollator(TOKENIZER, 2, **SETTINGS)(
                [{"prompt_ids": [8], "input_ids": [9, 10]}]
            ),
            ArgumentError,
            "a suffix has 3 tokens, EOS included",
        ),
        (
            lambda: MDLMSeq2SeqTrainCollator(TOKENIZER, 2, **SETTINGS)(
                [{"prompt_ids": [8] * 6, "input_ids": [9]}]
            ),
            ArgumentError,
            "a prompt has 7 tokens, BOS included",
        ),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()

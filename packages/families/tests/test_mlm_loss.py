import itertools
import math

import pytest
import torch
from family_tools import BOS, EOS, MASK, PAD
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.families.mlm import (
    DefaultMLMCollator,
    MLMLoss,
    MLMSeq2SeqTrainCollator,
    PackedMLMCollator,
)
from pellucid.xlm.datamodule import pack_sequences


@pytest.fixture
def loss(mlm_model, tokenizer):
    return MLMLoss(model=mlm_model, tokenizer=tokenizer)


@pytest.fixture
def batch(tokenizer, pairs):
    collator = MLMSeq2SeqTrainCollator(tokenizer, 5, input_block_size=6)
    collator.generator = torch.Generator().manual_seed(0)
    return collator(pairs)


def naive_mean(model, batch, is_asked):
    logits = model(batch["input_ids"], batch["attention_mask"]).log_softmax(-1)
    asked = [
        -logits[row, at, batch["target_ids"][row, at]] for row, at in is_asked.nonzero().tolist()
    ]
    return torch.stack(asked).mean()


def test_masked_tokens_are_asked_about(loss, batch):
    is_masked = batch["input_ids"] == MASK
    out = loss(batch)
    torch.testing.assert_close(out["loss"], naive_mean(loss.model, batch, is_masked))
    assert torch.equal(out["tokens"], is_masked.sum(1))
    out["loss"].backward()


def test_more_or_less_can_be_asked_about(mlm_model, tokenizer, batch):
    is_eligible = batch["target_ids"] != -100
    visible = MLMLoss(loss_on_visible_tokens=True, model=mlm_model, tokenizer=tokenizer)
    torch.testing.assert_close(visible(batch)["loss"], naive_mean(mlm_model, batch, is_eligible))
    bare = MLMLoss(loss_on_padding=False, model=mlm_model, tokenizer=tokenizer)
    is_asked = (batch["input_ids"] == MASK) & (batch["target_ids"] != PAD)
    torch.testing.assert_close(bare(batch)["loss"], naive_mean(mlm_model, batch, is_asked))


def test_rows_can_count_the_same(mlm_model, tokenizer, batch):
    loss = MLMLoss(use_num_masked_factor=True, model=mlm_model, tokenizer=tokenizer)
    rows = [
        naive_mean(mlm_model, {name: held[row : row + 1] for name, held in batch.items()}, masked)
        for row in range(3)
        if (masked := batch["input_ids"][row : row + 1] == MASK).any()
    ]
    torch.testing.assert_close(loss(batch)["loss"], torch.stack(rows).mean())


def test_a_batch_about_which_nothing_is_asked_has_no_loss(loss, batch):
    out = loss({**batch, "target_ids": torch.full_like(batch["target_ids"], -100)})
    assert out["loss"] == 0
    out["loss"].backward()


def test_the_batch_stays_as_it_is(loss, batch):
    before = {name: held.clone() for name, held in batch.items()}
    loss(batch)["loss"].backward()
    loss.nll_bound(batch)
    assert all(torch.equal(held, batch[name]) for name, held in before.items())


def exact_code_length(model, ids, open_at):
    """Return the mean code length over all orders in which the open tokens can be filled."""
    lengths = []
    for order in itertools.permutations(open_at):
        row, nats = ids.clone(), 0.0
        row[list(open_at)] = MASK
        for at in order:
            logits = model(row[None])[0, at].clone()
            logits[MASK] = -torch.inf
            nats -= logits.log_softmax(-1)[ids[at]].item()
            row[at] = ids[at]
        lengths.append(nats)
    return sum(lengths) / len(lengths)


def test_the_bound_is_the_mean_code_length_over_orders(mlm_model, tokenizer):
    ids = torch.tensor([BOS, 7, 8, 9, EOS])
    targets = torch.tensor([-100, 7, 8, 9, -100])
    row = {"input_ids": ids[None], "target_ids": targets[None]}
    batch = {
        **{name: held.expand(400, -1) for name, held in row.items()},
        "attention_mask": torch.ones(400, 5, dtype=torch.bool),
    }
    loss = MLMLoss(model=mlm_model, tokenizer=tokenizer, n_bound_samples=9)
    bound = loss.nll_bound(batch)
    with torch.no_grad():
        exact = exact_code_length(mlm_model.eval(), ids, [1, 2, 3])
    assert (bound.tokens == 3).all()
    error = bound.nats.std() / math.sqrt(400)
    assert abs(bound.nats.mean() - exact) < 4 * error + 1e-4


def test_the_bound_counts_text_and_draws_from_its_generator(loss, tokenizer, texts):
    batch = DefaultMLMCollator(tokenizer, 9)(texts)
    before = torch.get_rng_state()
    first, again = loss.nll_bound(batch), loss.nll_bound(batch)
    assert torch.equal(first.nats, again.nats)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.tokens.tolist() == [4, 2, 6]
    loss.generator = torch.Generator().manual_seed(1)
    assert not torch.equal(loss.nll_bound(batch).nats, first.nats)


def test_the_bound_of_a_row_does_not_depend_on_its_batch(loss, tokenizer, texts):
    loss.model.double()
    numbers = torch.tensor([4, 7, 2])
    batch = {**DefaultMLMCollator(tokenizer, 9)(texts), "row_ids": numbers, "row_seed": 3}
    together = loss.nll_bound(batch).nats
    for row in range(3):
        one = {name: held[row : row + 1] for name, held in batch.items() if name != "row_seed"}
        alone = loss.nll_bound({**one, "row_seed": 3}).nats
        torch.testing.assert_close(alone, together[row : row + 1])
        other = loss.nll_bound({**one, "row_seed": 4}).nats
        assert (other - alone).abs() > 1e-3


def test_packed_texts_are_learnt_as_they_would_be_alone(loss, tokenizer, texts):
    columns = {"input_ids": [text["input_ids"] for text in texts]}
    packed = pack_sequences(columns, tokenizer, 12, with_segments=True)
    rows = [dict(zip(packed, cells, strict=True)) for cells in zip(*packed.values(), strict=True)]
    batch = PackedMLMCollator(tokenizer, 12)(rows)
    is_asked = batch["input_ids"] == MASK
    naive = []
    for segment in batch["segment_ids"].unique().tolist():
        own = batch["segment_ids"][0] == segment
        logits = loss.model(batch["input_ids"][:, own])
        asked = is_asked[:, own]
        naive.append(
            functional.cross_entropy(
                logits[asked], batch["target_ids"][:, own][asked], reduction="none"
            )
        )
    torch.testing.assert_close(loss(batch)["loss"], torch.cat(naive).mean(), rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="n_bound_samples is 0"):
        MLMLoss(n_bound_samples=0)

import pytest
import torch
from torch.nn import functional

from pellucid.families.arlm import ARLMLoss, ARLMSeq2SeqCollator, DefaultARLMCollator


@pytest.fixture
def loss(arlm_model, tokenizer):
    return ARLMLoss(arlm_model, tokenizer)


@pytest.fixture
def seq2seq_batch(tokenizer, pairs):
    return ARLMSeq2SeqCollator(tokenizer, 5, input_block_size=6, add_bos="output", add_eos=True)(
        pairs
    )


def naive_nats(model, row, n_given):
    """Return the cross-entropy of the tokens after the given ones, read one text at a time."""
    logits = model(row[None])[0].log_softmax(-1)
    return [-logits[at - 1, row[at]].item() for at in range(n_given, len(row))]


def test_the_loss_is_that_of_each_text_alone(loss, seq2seq_batch, pairs, tokenizer):
    naive = [
        naive_nats(
            loss.model,
            torch.tensor([*pair["prompt_ids"], 4, *pair["input_ids"], 3]),
            len(pair["prompt_ids"]) + 1,
        )
        for pair in pairs
    ]
    out = loss(seq2seq_batch)
    torch.testing.assert_close(out["nats"], torch.tensor([sum(row) for row in naive]))
    assert out["tokens"].tolist() == [len(row) for row in naive]
    torch.testing.assert_close(out["loss"], out["nats"].sum() / out["tokens"].sum())
    bound = loss.nll_bound(seq2seq_batch)
    torch.testing.assert_close(bound.nats, out["nats"])
    assert torch.equal(bound.tokens, out["tokens"])


def test_prompts_are_asked_about_only_if_wanted(arlm_model, tokenizer, seq2seq_batch, pairs):
    out = ARLMLoss(arlm_model, tokenizer, loss_on_prompt=True)(seq2seq_batch)
    rows = [torch.tensor([*p["prompt_ids"], 4, *p["input_ids"], 3]) for p in pairs]
    naive = [sum(naive_nats(arlm_model, row, 1)) for row in rows]
    torch.testing.assert_close(out["nats"], torch.tensor(naive))


def test_padding_on_the_right_needs_no_mask(loss, tokenizer, texts):
    # What stands behind a text cannot change it: the same loss with the mask as without.
    batch = DefaultARLMCollator(tokenizer, 9, add_eos=True)(texts)
    torch.manual_seed(0)
    junk = torch.where(batch["attention_mask"], batch["input_ids"], torch.randint(7, 19, (3, 9)))
    torch.testing.assert_close(loss({**batch, "input_ids": junk})["nats"], loss(batch)["nats"])
    logits = loss.model(batch["input_ids"], batch["attention_mask"])
    naive = functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"])
    torch.testing.assert_close(loss(batch)["loss"], naive)


def test_a_batch_about_which_nothing_is_asked_has_no_loss(loss, seq2seq_batch):
    batch = {**seq2seq_batch, "target_ids": torch.full_like(seq2seq_batch["target_ids"], -100)}
    out = loss(batch)["loss"]
    assert out == 0
    out.backward()


def test_the_batch_stays_as_it_is(loss, seq2seq_batch):
    before = {name: held.clone() for name, held in seq2seq_batch.items()}
    loss(seq2seq_batch)["loss"].backward()
    assert all(torch.equal(held, seq2seq_batch[name]) for name, held in before.items())

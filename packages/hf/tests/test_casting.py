"""Triggers of one model as those of another."""

import pytest
import torch

from pellucid.hf import LMHFModel, cast_to_model_tokenizer
from pellucid.testing import tiny_llama, tiny_tokenizer


@pytest.fixture
def models(made):
    """Two models with different tokenizers."""
    tokenizers = (tiny_tokenizer(), made.merging_bpe_tokenizer())
    return [
        LMHFModel(tiny_llama(vocab_size=len(tokenizer)), tokenizer=tokenizer)
        for tokenizer in tokenizers
    ]


@pytest.mark.parametrize("text", ["yes no", "q", "yes no maybe red"])
def test_a_trigger_by_itself_keeps_its_text(models, text):
    one, other = models
    old = torch.tensor([one.tokenizer.encode(text)])
    kept, new = cast_to_model_tokenizer(old, one, other)
    assert torch.equal(kept, old)
    assert other.tokenizer.decode(new[0].tolist()) == text
    assert new.tolist() == [other.tokenizer.encode(text)]


def test_shorter_rows_are_left_out_and_longer_ones_cut(models):
    one, other = models
    old = torch.randint(3, 384, (60, 5), generator=torch.Generator().manual_seed(0))
    kept, new = cast_to_model_tokenizer(old, one, other)
    rows = [other.tokenizer.encode(one.tokenizer.decode(row)) for row in old.tolist()]
    lengths = [len(row) for row in rows]
    length = new.shape[1]
    assert all(lengths.count(length) >= lengths.count(n) for n in lengths)
    assert min(lengths) < length < max(lengths)
    assert new.tolist() == [row[:length] for row in rows if len(row) >= length]
    assert kept.tolist() == [
        ids for ids, row in zip(old.tolist(), rows, strict=True) if len(row) >= length
    ]
    assert new.dtype == torch.int64


def test_candidates_without_text_are_refused(models):
    one, other = models
    with pytest.raises(ValueError, match="of 0 candidates"):
        cast_to_model_tokenizer(torch.zeros((0, 3), dtype=torch.int64), one, other)

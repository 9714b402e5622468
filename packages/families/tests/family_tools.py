"""What tests of all families share: a tokenizer of few words, and what is asked of each part."""

import pytest
import torch
from hypothesis import strategies as st

from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.testing import EXAMPLES, BaseCollatorTests

PAD, CLS, MASK, EOS, BOS, SEP, UNK = range(7)
TOKENIZER = SimpleSpaceTokenizer.for_numbers(12)
IDS = st.lists(st.integers(7, 18), max_size=5)


class CollatorTests(BaseCollatorTests):
    """The laws of collators, for one of prompts and suffixes; give the fixture `collator`."""

    @pytest.fixture
    def raw_examples(self):
        return EXAMPLES


def forward_of(call, tokenizer):
    """Return the `run_forward` that `BaseModelTests` asks for.

    Args:
        call: (ids, mask) to logits, however the family calls its model.
        tokenizer: Whose words are read.
    """

    def run(batch_size=2, seq_len=16, partial_mask=False):
        ids = torch.randint(7, len(tokenizer), (batch_size, seq_len))
        mask = torch.ones(batch_size, seq_len, dtype=torch.bool)
        if partial_mask:
            mask[:, -4:] = False
        return call(ids, mask)

    return run


def seeded(part, seed=0):
    """Return a collator, a loss or a predictor with a generator of its own."""
    part.generator = torch.Generator().manual_seed(seed)
    return part


def unmasked(batch):
    """Return the texts without masks, and check that masks are where something is asked."""
    ids, targets = batch["input_ids"], batch["target_ids"]
    is_eligible = targets != -100
    assert torch.equal(batch["fixed_positions_mask"], ~is_eligible)
    is_masked = ids == MASK
    assert not (is_masked & ~is_eligible).any()
    assert torch.equal(ids[~is_masked & is_eligible], targets[~is_masked & is_eligible])
    return torch.where(is_masked, targets, ids)

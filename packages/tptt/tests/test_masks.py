import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from pellucid.core import ArgumentError
from pellucid.tptt import apply_linear_attention_mask, truncate_attention_mask
from pellucid.tptt._masks import find_valid_tokens, narrow_mask

VALID = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
CAUSAL = torch.ones(4, 4).tril().bool()
PAIRS = CAUSAL & VALID[:, None, None, :]
ADDED = torch.zeros(PAIRS.shape).masked_fill(~PAIRS, torch.finfo(torch.float32).min)

KINDS = {
    "bool": VALID,
    "int64": VALID.long(),
    "float of ones": VALID.float(),
    "float to add": torch.zeros(2, 4).masked_fill(~VALID, -torch.inf),
    "pairs": PAIRS,
    "pairs without heads": PAIRS[:, 0],
    "pairs to add": ADDED,
    "pairs to add in half": ADDED.clamp_min(torch.finfo(torch.float16).min).half(),
    "keys of an encoder": VALID[:, None, None, :],
    "several heads": PAIRS.expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask_says_the_same(kind):
    assert torch.equal(find_valid_tokens(KINDS[kind], 4), VALID)


def test_block_masks_are_understood():
    def see(batch, _head, query, key):
        return (key <= query) & VALID[batch, key]

    mask = create_block_mask(see, 2, None, 4, 4, device="cpu", BLOCK_SIZE=4)
    assert torch.equal(find_valid_tokens(mask, 4), VALID)


def test_the_last_tokens_are_meant_unless_it_is_said_where_they_begin():
    assert find_valid_tokens(VALID, 1).tolist() == [[True], [True]]
    assert find_valid_tokens(VALID, 2, first=1).tolist() == [[False, True], [True, True]]
    assert find_valid_tokens(None, 3) is None
    # one row of a decoding step, whose keys are those of the whole cache
    assert find_valid_tokens(PAIRS[:, :, -1:], 1).tolist() == [[True], [True]]


@pytest.mark.parametrize("mask", [torch.ones(4), torch.ones(1, 1, 1, 1, 4), "all"])
def test_other_masks_are_refused(mask):
    with pytest.raises(ArgumentError, match="is not understood"):
        find_valid_tokens(mask, 4)


def test_too_few_columns_are_refused():
    with pytest.raises(ArgumentError, match="has 4 columns, fewer than the 5 tokens"):
        find_valid_tokens(VALID, 5)


def test_values_of_other_tokens_become_zero_whatever_they_are():
    v = torch.full((2, 4, 3), torch.nan).masked_fill(VALID[..., None], 2.0)
    out = apply_linear_attention_mask(VALID.long(), v)
    assert torch.equal(out, 2.0 * VALID[..., None].expand(-1, -1, 3))


def test_a_mask_is_truncated_with_its_tokens():
    x = torch.randn(2, 4, 3)
    kept, mask = truncate_attention_mask(x, PAIRS, 3)
    assert torch.equal(kept, x[:, 1:])
    assert torch.equal(mask, PAIRS[:, :, 1:, 1:])
    assert torch.equal(truncate_attention_mask(x, VALID, 2)[1], VALID[:, 2:])
    assert truncate_attention_mask(x, None, 2)[1] is None
    with pytest.raises(ArgumentError, match="a mask has 2, 3 or 4 axes, got 1"):
        truncate_attention_mask(x, torch.ones(4), 2)


@pytest.mark.parametrize("given", [None, PAIRS, ADDED])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_window_is_a_band(given, implementation):
    x = torch.randn(2, 4, 3)
    mask = narrow_mask(given, x, window=2, first=0, implementation=implementation, is_causal=True)
    allowed = mask if mask.dtype == torch.bool else mask > -1
    near = CAUSAL & ~CAUSAL.tril(-2)
    expected = near & (PAIRS if given is not None else CAUSAL)
    assert torch.equal(allowed.expand(2, 1, 4, 4), expected.expand(2, 1, 4, 4))


def test_a_window_needs_masks_of_pairs():
    with pytest.raises(ArgumentError, match="works with attn_implementation 'eager' or 'sdpa'"):
        narrow_mask(
            None,
            torch.ones(1, 2, 3),
            window=2,
            first=0,
            implementation="flash_attention_2",
            is_causal=True,
        )

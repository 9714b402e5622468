from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.modules import TokenConstraints, sample_from_logits

TOKENIZER = SimpleNamespace(
    pad_token_id=0,
    cls_token_id=1,
    mask_token_id=2,
    eos_token_id=3,
    bos_token_id=4,
    sep_token_id=5,
    unk_token_id=6,
)


def test_special_tokens_are_forbidden_unless_allowed():
    assert TokenConstraints.from_tokenizer(TOKENIZER).forbidden_ids == tuple(range(7))
    allowed = TokenConstraints.from_tokenizer(TOKENIZER, allowed=("eos", "pad"), max_length=9)
    assert allowed.forbidden_ids == (1, 2, 4, 5, 6)
    assert allowed.max_length == 9


@given(seed=st.integers(0, 999))
def test_what_is_forbidden_is_not_drawn_and_what_is_frozen_stays(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(12, (3, 5), generator=generator)
    frozen = torch.rand(3, 5, generator=generator) < 0.5
    constraints = TokenConstraints.from_tokenizer(TOKENIZER, allowed=("eos",)).with_frozen(frozen)
    logits = 5 * torch.randn(3, 5, 12, generator=generator)
    tokens = sample_from_logits(constraints.restrict(logits), generator=generator)
    written = constraints.write(ids, tokens, torch.ones(3, 5, dtype=torch.bool))
    assert torch.equal(written[frozen], ids[frozen])
    assert torch.equal(written[~frozen], tokens[~frozen])
    assert not torch.isin(written[~frozen], torch.tensor(constraints.forbidden_ids)).any()


def test_the_callers_tensors_stay_as_they_are():
    constraints = TokenConstraints((2,))
    logits, ids = torch.zeros(1, 1, 4), torch.tensor([[2]])
    constraints.restrict(logits)
    constraints.write(ids, torch.tensor([[3]]), torch.tensor([[True]]))
    assert (logits == 0).all()
    assert ids.tolist() == [[2]]


def test_constraints_follow_the_rows():
    frozen = torch.tensor([[True, False], [False, True]])
    kept = TokenConstraints((2,)).with_frozen(frozen).keep_rows(torch.tensor([False, True]))
    assert kept.frozen.tolist() == [[False, True]]
    assert TokenConstraints((2,)).keep_rows(torch.tensor([True])).frozen is None


def test_room_is_what_is_left_of_the_longest_text():
    assert TokenConstraints((), max_length=9).room(4) == 5
    assert TokenConstraints((), max_length=9).room(12) == 0
    assert TokenConstraints(()).room(12) is None


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="a forbidden token was to be written"):
        TokenConstraints((2,)).write(
            torch.tensor([[5]]), torch.tensor([[2]]), torch.tensor([[True]])
        )
    with pytest.raises(ArgumentError, match=r"\['mask'\] cannot be allowed"):
        TokenConstraints.from_tokenizer(TOKENIZER, allowed=("mask",))
    with pytest.raises(ArgumentError, match=r"\['stop'\] cannot be allowed"):
        TokenConstraints.from_tokenizer(TOKENIZER, allowed=("stop",))
    with pytest.raises(RequirementError, match=r"the tokenizer has no \['eos'\] token"):
        TokenConstraints.from_tokenizer(SimpleNamespace(mask_token_id=2), allowed=("eos",))

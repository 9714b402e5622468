import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import BaseTokenizer
from pellucid.optimizers import TokenConstraints
from pellucid.testing import TinyTokenizer

TOKENS = [
    "<s>",
    "cat",
    "\u00e9",
    "\n",
    "",
    "[unused7]",
    " <unused_3>",
    "\ufffd",
    "dog",
    "<|im_end|>",
]


class TableTokenizer(BaseTokenizer):
    """Decodes by a table; that is all that constraints look at."""

    name_or_path = "table"
    vocab_size = len(TOKENS)
    all_special_ids = (0, 9)

    def __call__(self, texts, return_tensors="list", **kwargs):
        return {"input_ids": [self.encode(text) for text in texts]}

    def encode(self, text):
        return [TOKENS.index(text)]

    def decode(self, ids):
        return "".join(TOKENS[i] for i in ids)

    def batch_decode(self, ids):
        return [self.decode(row) for row in ids]


def allowed(vocab_size=None, **flags):
    ids = TokenConstraints(**flags).get_whitelist_ids(TableTokenizer(), vocab_size)
    return [TOKENS[i] for i in ids.tolist()]


def test_default_keeps_what_a_person_can_type():
    assert allowed() == ["cat", "dog"]


def test_each_flag_bans_its_kind_alone():
    assert allowed(disallow_non_ascii=False) == ["cat", "\u00e9", "\n", "dog"]
    assert allowed(disallow_special_tokens=False) == ["<s>", "cat", "dog", "<|im_end|>"]
    assert allowed(disallow_unused_tokens=False) == ["cat", "[unused7]", " <unused_3>", "dog"]
    assert allowed(disallow_custom_token_ids=[1]) == ["dog"]


def test_padded_rows_and_lists_are_handled():
    constraints = TokenConstraints(disallow_custom_token_ids=[1, 99])
    assert constraints.get_blacklist_ids(TableTokenizer(), 13) == [*range(8), 9, 10, 11, 12]
    assert constraints.get_blacklist_ids(TableTokenizer(), 2) == [0, 1]


@given(st.sets(st.integers(0, TinyTokenizer().vocab_size - 1)), st.booleans())
def test_blacklist_and_whitelist_part_the_vocabulary(banned, ascii_only):
    tokenizer = TinyTokenizer()
    constraints = TokenConstraints(
        disallow_non_ascii=ascii_only, disallow_custom_token_ids=tuple(banned)
    )
    black = constraints.get_blacklist_ids(tokenizer)
    assert banned <= set(black)
    if len(black) < tokenizer.vocab_size:
        white = constraints.get_whitelist_ids(tokenizer).tolist()
        assert sorted(black + white) == list(range(tokenizer.vocab_size))


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="admits none of 10 tokens"):
        TokenConstraints(disallow_custom_token_ids=range(10)).get_whitelist_ids(TableTokenizer())

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import RetokenizationError
from pellucid.optimizers import StepRandom, TokenConstraints, get_printable_random_trigger
from pellucid.optimizers._random_triggers import draw_triggers
from pellucid.testing import TinyTokenizer

TOKENIZER = TinyTokenizer()
# Every pair of these letters is a token, so that random tokens nearly always merge.
MERGING = TinyTokenizer(["".join(pair) for pair in itertools.product("abcdef", repeat=2)])
LETTERS = [i for i in range(MERGING.vocab_size) if set(MERGING.decode([i])) <= set("abcdef")]


def generator_of(seed):
    return StepRandom(seed, 1).generator("trigger")


@given(st.integers(1, 30), st.integers(0, 99), st.sets(st.integers(0, 127), max_size=100))
def test_text_has_the_tokens_that_were_drawn_and_no_others(trigger_len, seed, banned):
    text, ids = (
        get_printable_random_trigger(
            trigger_len, with_ids, sorted(banned), TOKENIZER, generator=generator_of(seed)
        )
        for with_ids in (False, True)
    )
    assert TOKENIZER.encode(text) == ids.tolist()
    assert len(ids) == trigger_len
    assert not banned & set(ids.tolist())
    assert text.isascii()
    assert text.isprintable()


def test_constraints_are_obeyed():
    constraints = TokenConstraints(disallow_custom_token_ids=range(60))
    ids = get_printable_random_trigger(
        20, True, None, TOKENIZER, constraints, generator=generator_of(0)
    )
    assert torch.isin(ids, constraints.get_whitelist_ids(TOKENIZER)).all()


@given(st.integers(0, 99), st.integers(1, 12))
def test_triggers_settle_even_where_neighbours_merge(seed, n):
    drawn = draw_triggers(
        torch.tensor(LETTERS),
        (n, 10),
        lambda ids: MERGING.batch_encode(MERGING.decode_triggers(ids)),
        generator=generator_of(seed),
    )
    assert drawn.shape == (n, 10)
    for row in drawn.tolist():
        assert MERGING.encode(MERGING.decode(row)) == row
        assert set(row) <= set(LETTERS)


def test_what_never_settles_is_left_out_and_named():
    class Restless(TinyTokenizer):
        def encode(self, text):
            return super().encode(text[::-1] + "!")

    with pytest.raises(RetokenizationError, match="no random trigger of 3 tokens"):
        get_printable_random_trigger(3, tokenizer=Restless(), generator=generator_of(0))


def test_unseeded_triggers_differ_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    drawn = {get_printable_random_trigger(8, tokenizer=TOKENIZER) for _ in range(5)}
    assert len(drawn) > 1
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trigger_len": 0, "tokenizer": TOKENIZER}, "trigger_len"),
        ({"trigger_len": 3}, "Pass tokenizer="),
        (
            {
                "trigger_len": 3,
                "tokenizer": TOKENIZER,
                "blacklist_ids": [1],
                "token_constraints": TokenConstraints(),
            },
            "blacklist_ids or token_constraints, not both",
        ),
        (
            {"trigger_len": 3, "tokenizer": TOKENIZER, "blacklist_ids": range(128)},
            "admits none of 128 tokens",
        ),
    ],
)
def test_senseless_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_printable_random_trigger(**arguments)

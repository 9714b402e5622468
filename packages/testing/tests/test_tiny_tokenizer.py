import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.testing import TinyTokenizer

TOKENIZER = TinyTokenizer()
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


@given(st.text(st.sampled_from(CHARACTERS)))
def test_texts_come_back(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(TOKENIZER.all_special_ids)


@given(st.text(st.sampled_from(CHARACTERS)))
def test_the_longest_token_that_fits_is_taken(text):
    tokens = sorted((TOKENIZER.decode([i]) for i in range(3, 128)), key=len, reverse=True)
    rest, naive = text, []
    while rest:
        naive.append(next(token for token in tokens if rest.startswith(token)))
        rest = rest[len(naive[-1]) :]
    assert [TOKENIZER.decode([i]) for i in TOKENIZER.encode(text)] == naive


def test_some_tokens_do_not_come_back():
    apart = TOKENIZER.encode("t") + TOKENIZER.encode("h")
    assert TOKENIZER.encode(TOKENIZER.decode(apart)) != apart


def test_the_vocabulary():
    assert TOKENIZER.vocab_size == 128
    assert [TOKENIZER.decode([i]) for i in TOKENIZER.all_special_ids] == ["<pad>", "<bos>", "<eos>"]
    texts = [TOKENIZER.decode([i]) for i in range(128)]
    assert len(set(texts)) == 128


def test_ids_beyond_the_vocabulary_have_no_text():
    assert TOKENIZER.decode([128, 500]) == ""
    with pytest.raises(ArgumentError, match="must not be negative"):
        TOKENIZER.decode([-1])


def test_rows_are_padded_on_the_right():
    encoded = TOKENIZER(["cat", "c"], return_tensors="pt")
    assert encoded["input_ids"].tolist()[1][1:] == [0, 0]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert torch.equal(
        encoded["input_ids"],
        torch.tensor([[*TOKENIZER.encode("cat")], [*TOKENIZER.encode("c"), 0, 0]]),
    )
    assert [len(row) for row in TOKENIZER(["cat", "c"])["input_ids"]] == [3, 1]


def test_no_texts_at_all():
    assert TOKENIZER([])["input_ids"] == []
    assert TOKENIZER([], return_tensors="pt")["input_ids"].numel() == 0


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda t: t.encode("caf\u00e9"), r"got \['\u00e9'\]"),
        (lambda t: t("cat"), "Pass"),
        (lambda t: t(["cat"], padding=True), "padding"),
        (lambda t: TinyTokenizer(["x"]), "two or more"),
        (lambda t: TinyTokenizer(["\u00e9t\u00e9"]), "printable ASCII"),
    ],
)
def test_bad_input_is_named(use, says):
    import inspect

    unhooked = type(
        "Unhooked", (TinyTokenizer,), {"__call__": inspect.unwrap(TinyTokenizer.__call__)}
    )
    with pytest.raises(ArgumentError, match=says):
        use(unhooked())


def test_other_words_make_another_tokenizer():
    other = TinyTokenizer(["cat", "sat"])
    assert other != TOKENIZER
    assert TinyTokenizer() == TOKENIZER
    assert len(other.encode("catsat")) == 2

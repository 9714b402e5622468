import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    CheckpointError,
    MissingDependencyError,
    RequirementError,
    UnknownNameError,
)
from pellucid.xlm.datamodule import (
    SimpleSpaceTokenizer,
    check_special_tokens,
    load_auto_tokenizer,
    tokenizer_fingerprint,
)

NUMBERS = SimpleSpaceTokenizer.for_numbers(20)


def test_special_ids_are_those_of_the_contract() -> None:
    ids = [
        getattr(NUMBERS, f"{role}_token_id")
        for role in ("pad", "cls", "mask", "eos", "bos", "sep", "unk")
    ]
    assert ids == list(range(7)) == NUMBERS.all_special_ids
    assert NUMBERS.convert_ids_to_tokens(ids) == NUMBERS.all_special_tokens
    assert NUMBERS.encode("0 19") == [7, 26]
    assert NUMBERS.full_vocab_size == NUMBERS.vocab_size == len(NUMBERS) == 27
    NUMBERS.check_special_tokens()


@given(st.lists(st.integers(min_value=0, max_value=26)))
def test_ids_survive_decoding_and_encoding(ids: list[int]) -> None:
    text = NUMBERS.decode(torch.tensor(ids, dtype=torch.int64))
    assert NUMBERS.encode(text) == ids
    assert NUMBERS.encode_batch([text, text]) == [ids, ids]
    assert NUMBERS.batch_decode([ids, []]) == [text, ""]
    ordinary = [id_ for id_ in ids if id_ >= 7]
    assert NUMBERS.encode(NUMBERS.decode(ids, skip_special_tokens=True)) == ordinary


def test_calling_gives_ids_and_a_mask() -> None:
    assert NUMBERS("1 2") == {"input_ids": [8, 9], "attention_mask": [1, 1]}
    both = NUMBERS(["1", "1 2"], add_special_tokens=True)
    assert both == {
        "input_ids": [[1, 8, 5], [1, 8, 9, 5]],
        "attention_mask": [[1, 1, 1], [1, 1, 1, 1]],
    }


def test_it_survives_saving(tmp_path) -> None:
    tokenizer = SimpleSpaceTokenizer(["b", "a", "\N{SNOWMAN}"])
    tokenizer.save_pretrained(tmp_path / "new")
    loaded = SimpleSpaceTokenizer.from_pretrained(tmp_path / "new")
    assert loaded == tokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    assert loaded != SimpleSpaceTokenizer(["a", "b", "\N{SNOWMAN}"])


def test_fingerprints_tell_vocabularies_apart() -> None:
    prints = {SimpleSpaceTokenizer(vocab).fingerprint for vocab in (["a"], ["b"], ["a", "b"], [])}
    assert len(prints) == 4


def test_an_unknown_token_is_named_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown token 'gren'.*'green'"):
        SimpleSpaceTokenizer(["green", "red"]).encode("red gren")
    with pytest.raises(ValueError, match="unknown token '20'"):
        NUMBERS.encode("20")
    with pytest.raises(ArgumentError, match=r"the id 27 is not in 0 to 26"):
        NUMBERS.decode([27])


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (["a", "a"], r"\['a'\] stand twice"),
        (["[PAD]"], r"\['\[PAD\]'\] stand twice"),
        (["a b", ""], r"\['a b', ''\] are empty or hold spaces"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(vocab, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        SimpleSpaceTokenizer(vocab)


def test_a_file_that_is_not_there_or_broken_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"no readable tokenizer in .*write one with"):
        SimpleSpaceTokenizer.from_pretrained(tmp_path)
    SimpleSpaceTokenizer(["a"]).save_pretrained(tmp_path).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no readable tokenizer"):
        SimpleSpaceTokenizer.from_pretrained(tmp_path)


def test_missing_special_tokens_are_all_named() -> None:
    class Poor:
        mask_token_id = None
        pad_token_id = 0

    check_special_tokens(Poor(), ["pad"])
    with pytest.raises(RequirementError, match=r"no special token for bos, mask; add bos_token="):
        check_special_tokens(Poor(), ["pad", "bos", "mask"])


@pytest.fixture(scope="module")
def saved_tokenizer(tmp_path_factory):
    from pellucid.testing import tiny_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(directory)
    return directory


def test_a_tokenizer_of_transformers_gets_what_it_lacks(saved_tokenizer) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(saved_tokenizer)
    tokenizer = load_auto_tokenizer(str(saved_tokenizer), {"mask_token": "<gap>"})
    check_special_tokens(tokenizer)
    assert tokenizer.mask_token == "<gap>"
    assert tokenizer.full_vocab_size == len(tokenizer) > len(plain)
    text = "hello world"
    assert tokenizer(text, add_special_tokens=False) == plain(text, add_special_tokens=False)
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(plain)
    again = load_auto_tokenizer(str(saved_tokenizer), {"mask_token": "<gap>"})
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(again)


def test_a_special_token_that_is_none_is_refused(saved_tokenizer) -> None:
    with pytest.raises(ArgumentError, match=r"\['gap_token'\]; there are"):
        load_auto_tokenizer(str(saved_tokenizer), {"gap_token": "x"})


def test_transformers_is_asked_for_by_name(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid-xlm\[transformers\]'"):
        load_auto_tokenizer("anything")

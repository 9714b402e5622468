import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_samples import CharTokenizer, unhooked
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, BaseTokenizer, HFTokenizerWrapper, as_tokenizer


class FakeHFTokenizer:
    """As much of a `PreTrainedTokenizerBase` as the wrapper uses: words, and control tokens."""

    def __init__(self, name=""):
        self.name_or_path = name
        self.words = ["<s>", "</s>", "<|im_start|>", "red", "blue", "<extra>"]
        self.all_special_ids = [0, 1]
        # Chat control tokens are often marked special without being listed as such.
        self.added_tokens_decoder = {
            2: SimpleNamespace(content="<|im_start|>", special=True),
            5: SimpleNamespace(content="<extra>", special=False),
        }
        self.vocab_size = 5
        self.padding_side = "left"
        self.seen = []

    def __len__(self):
        return len(self.words)

    def __call__(self, texts, return_tensors=None, add_special_tokens=True, **kwargs):
        self.seen.append((return_tensors, add_special_tokens, kwargs))
        rows = [self.encode(text, add_special_tokens) for text in texts]
        if return_tensors == "pt":
            return {"input_ids": torch.tensor(rows)}
        return {"input_ids": np.array(rows) if return_tensors == "np" else rows}

    def encode(self, text, add_special_tokens=True):
        ids = [self.words.index(word) for word in text.split()]
        return [0, *ids] if add_special_tokens else ids

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=True):
        assert not clean_up_tokenization_spaces, "clean-up alters what was written"
        return " ".join(self.words[i] for i in ids)


def wrap(name=""):
    return HFTokenizerWrapper(FakeHFTokenizer(name))


@given(st.text(st.characters(min_codepoint=3, exclude_categories=["Cs"])))
def test_triggers_go_to_ids_and_back(trigger):
    tokenizer = CharTokenizer()
    ids = tokenizer.encode_trigger(trigger)
    assert ids.dtype == torch.int64
    assert ids.shape == (len(trigger),)
    assert ids.device.type == "cpu"
    assert tokenizer.decode_trigger(ids) == trigger
    assert tokenizer.decode_trigger(ids.tolist()) == trigger
    assert tokenizer.decode_triggers(torch.stack([ids, ids])) == [trigger, trigger]
    assert tokenizer.batch_encode([trigger, "a"]) == [ids.tolist(), [97]]


def test_special_tokens_are_skipped_in_triggers_but_not_in_texts():
    tokenizer = CharTokenizer()
    assert tokenizer.decode_triggers([[65, 1, 66], [0, 67]]) == ["AB", "C"]
    assert tokenizer.decode_triggers(np.array([[65, 1]])) == ["A"]
    assert tokenizer.decode_triggers([torch.tensor([65, 2])]) == ["A"]
    assert tokenizer.batch_decode([[65, 1]]) == ["A\x01"]


def test_a_tokenizer_has_no_special_tokens_unless_it_says_so():
    class Plain(CharTokenizer):
        all_special_ids = BaseTokenizer.all_special_ids

    assert Plain().all_special_ids == []
    assert Plain().decode_trigger([65, 1]) == "A\x01"


def test_equality_and_hash_go_by_name():
    assert CharTokenizer("a") == CharTokenizer("a") == wrap("a")
    assert CharTokenizer("a") != CharTokenizer("b")
    assert len({CharTokenizer("a"), CharTokenizer("a"), CharTokenizer("b")}) == 2
    for unnamed in (CharTokenizer("unknown"), CharTokenizer(""), wrap("")):
        assert unnamed == unnamed
        assert hash(unnamed) == hash(unnamed)
    assert CharTokenizer() != CharTokenizer()
    assert CharTokenizer("a") != "a"


def test_abstract_members_are_asked_for():
    with pytest.raises(TypeError, match="abstract"):
        BaseTokenizer()


def test_the_wrapper_counts_added_tokens_and_names_the_nameless():
    assert wrap().vocab_size == 6
    assert wrap().name_or_path == "unknown"
    assert wrap("org/name").name_or_path == "org/name"
    assert HFTokenizerWrapper(SimpleNamespace(name_or_path=None)).name_or_path == "unknown"


def test_chat_control_tokens_are_special():
    assert wrap().all_special_ids == [0, 1, 2]
    assert wrap().decode_triggers([[3, 2, 4, 5]]) == ["red blue <extra>"]


def test_the_wrapper_encodes_without_special_tokens():
    tokenizer = wrap()
    assert tokenizer.encode("red blue") == [3, 4]
    assert tokenizer.batch_encode(["red", "blue red"]) == [[3], [4, 3]]
    assert tokenizer.batch_encode([]) == []
    assert tokenizer.encode_trigger("blue").tolist() == [4]


def test_the_wrapper_decodes_tensors_arrays_and_lists():
    tokenizer = wrap()
    for ids in ([3, 4], torch.tensor([3, 4]), np.array([3, 4])):
        assert tokenizer.decode(ids) == "red blue"
        assert tokenizer.decode_trigger(ids) == "red blue"
    assert tokenizer.batch_decode(torch.tensor([[3, 0], [4, 4]])) == ["red <s>", "blue blue"]


def test_the_wrapper_is_called_as_the_tokenizer_is():
    tokenizer = wrap()
    assert tokenizer(["red"])["input_ids"] == [[0, 3]]
    assert torch.equal(tokenizer(["red"], "pt")["input_ids"], torch.tensor([[0, 3]]))
    assert isinstance(tokenizer(["red"], return_tensors="np")["input_ids"], np.ndarray)
    tokenizer(["red"], add_special_tokens=False, truncation=True)
    assert tokenizer.wrapped.seen[-1] == (None, False, {"truncation": True})
    with pytest.raises(ArgumentError, match=r"texts must be a list, got 'red'"):
        unhooked(HFTokenizerWrapper.__call__)(tokenizer, "red")


def test_unknown_attributes_are_those_of_the_wrapped_tokenizer():
    tokenizer = wrap()
    assert tokenizer.padding_side == "left"
    with pytest.raises(AttributeError):
        tokenizer.no_such_attribute  # noqa: B018


def test_the_wrapper_changes_nothing_in_the_tokenizer():
    hf = FakeHFTokenizer("x")
    before = copy.deepcopy({k: v for k, v in vars(hf).items() if k != "seen"})
    tokenizer = HFTokenizerWrapper(hf)
    tokenizer.encode_trigger("red")
    tokenizer.decode_triggers([[3, 2]])
    tokenizer(["red"])
    assert {k: v for k, v in vars(hf).items() if k != "seen"} == before


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))]
)
def test_the_wrapper_can_be_copied(duplicate):
    assert duplicate(wrap()).encode("blue") == [4]


def test_wrappers_of_one_tokenizer_are_equal_though_it_has_no_name():
    tokenizer = FakeHFTokenizer()
    one, other = HFTokenizerWrapper(tokenizer), HFTokenizerWrapper(tokenizer)
    assert one == other
    assert hash(one) == hash(other)
    assert one != HFTokenizerWrapper(FakeHFTokenizer())
    assert HFTokenizerWrapper(FakeHFTokenizer("a")) == HFTokenizerWrapper(FakeHFTokenizer("a"))


def test_as_tokenizer_wraps_what_is_not_one_of_ours():
    ours, theirs = CharTokenizer(), FakeHFTokenizer()
    assert as_tokenizer(ours) is ours
    assert as_tokenizer(theirs).wrapped is theirs
    for wrong in ("gpt2", None, SimpleNamespace(encode=1, decode=1)):
        with pytest.raises(ArgumentError, match=f"got {type(wrong).__name__}"):
            as_tokenizer(wrong)

"""The conformance suite of tokenizers."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pellucid.core import BaseTokenizer, PellucidError, as_tokenizer
from pellucid.testing._checked import checked
from pellucid.testing._laws import expect, lack

_law = settings(
    deadline=None,
    max_examples=25,
    # Not the phase that explains a failure: it traces every line, and takes a minute.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    # Suites share their laws by inheritance; each run of one makes a tokenizer of its own.
    suppress_health_check=[HealthCheck.differing_executors],
)
_SAMPLES = ["The red cat", "is here", "! ! !"]


class TokenizerContract(ABC):
    """What every tokenizer keeps; name a subclass `Test...` and give `make_tokenizer`.

    Attributes:
        texts: What texts are drawn from.
        is_exact: Whether each of them comes back from encoding and decoding as it was.
    """

    # Texts of few characters have what tokenizers lose: space at the edges, and repetitions.
    texts: st.SearchStrategy[str] = st.text(max_size=20) | st.text(" \n\tab", max_size=8)
    is_exact: bool = True

    @abstractmethod
    def make_tokenizer(self) -> Any:
        """Return the tokenizer under test, a `BaseTokenizer` or a Hugging Face one."""

    @_law
    @given(data=st.data())
    def test_ids_lie_within_the_vocabulary(self, data: st.DataObject) -> None:
        """A text encodes to ids from 0 up to `vocab_size`, excluded."""
        tokenizer, text = self._tokenizer(), data.draw(self.texts)
        ids = tokenizer.encode(text)
        expect(all(0 <= i < tokenizer.vocab_size for i in ids), f"{text!r} encodes to {ids}.")

    @_law
    @given(data=st.data())
    def test_texts_come_back(self, data: st.DataObject) -> None:
        """Decoding what a text encodes to returns the text."""
        if not self.is_exact:
            lack(self, "does not claim that texts come back")
        tokenizer, text = self._tokenizer(), data.draw(self.texts)
        again = tokenizer.decode(tokenizer.encode(text))
        expect(again == text, f"{text!r} came back as {again!r}.")

    @_law
    @given(data=st.data())
    def test_batches_are_single_texts(self, data: st.DataObject) -> None:
        """Texts encode and decode in a batch as they do one by one."""
        tokenizer, texts = self._tokenizer(), data.draw(st.lists(self.texts, max_size=4))
        rows = [tokenizer.encode(text) for text in texts]
        together = tokenizer.batch_encode(texts)
        expect(together == rows, f"{texts!r} encode to {together} together, alone to {rows}.")
        decoded = [tokenizer.decode(row) for row in rows]
        expect(tokenizer.batch_decode(rows) == decoded, f"{rows} decode differently together.")

    @_law
    @given(data=st.data())
    def test_triggers_are_encoded_texts(self, data: st.DataObject) -> None:
        """A trigger is its text's ids as int64 on the CPU, without special tokens around it."""
        tokenizer, text = self._tokenizer(), data.draw(self.texts)
        ids = tokenizer.encode_trigger(text)
        expect(ids.dtype is torch.int64 and ids.device.type == "cpu", f"{ids.dtype}, {ids.device}.")
        expect(ids.tolist() == tokenizer.encode(text), f"{text!r} as a trigger is {ids.tolist()}.")

    @_law
    @given(data=st.data())
    def test_triggers_decode_alike_in_every_form(self, data: st.DataObject) -> None:
        """Ids as a list and as a tensor, one trigger and several, decode to the same texts."""
        tokenizer = self._tokenizer()
        row = tokenizer.encode_trigger(data.draw(self.texts.filter(bool)))
        text = tokenizer.decode_trigger(row)
        expect(tokenizer.decode_trigger(row.tolist()) == text, "a list decodes differently.")
        several = tokenizer.decode_triggers(torch.stack([row, row]))
        expect(several == [text, text], f"{text!r} decodes to {several} in a tensor of two.")

    def test_special_ids_lie_within_the_vocabulary(self) -> None:
        """Special tokens are tokens, and none is named twice."""
        tokenizer = self._tokenizer()
        special = tokenizer.all_special_ids
        expect(len(set(special)) == len(special), f"special ids repeat: {special}.")
        expect(all(0 <= i < tokenizer.vocab_size for i in special), f"{special} not in vocabulary.")

    def test_special_tokens_are_no_part_of_a_trigger(self) -> None:
        """A trigger's text leaves special tokens out."""
        tokenizer = self._tokenizer()
        special = tokenizer.all_special_ids
        if not special:
            lack(tokenizer, "has no special tokens")
        row = tokenizer.encode(_SAMPLES[0])
        text = tokenizer.decode_trigger([*special, *row, *special])
        expect(text == tokenizer.decode_trigger(row), f"special tokens show in {text!r}.")

    def test_special_tokens_show_when_decoded(self) -> None:
        """Decoding leaves nothing out: a template's control tokens are part of its text."""
        tokenizer = self._tokenizer()
        for i in tokenizer.all_special_ids:
            expect(tokenizer.decode([i]) != "", f"special token {i} decodes to nothing.")

    def test_calls_encode_lists(self) -> None:
        """Calling the tokenizer encodes a list of texts, and nothing but a list."""
        tokenizer = self._tokenizer()
        rows = tokenizer(list(_SAMPLES))["input_ids"]
        expect(len(rows) == len(_SAMPLES), f"{len(rows)} rows for {len(_SAMPLES)} texts.")
        for kind, wanted in (("pt", torch.Tensor), ("np", np.ndarray)):
            held = tokenizer([_SAMPLES[0]], return_tensors=kind)["input_ids"]
            expect(isinstance(held, wanted), f"return_tensors={kind!r} gave {type(held).__name__}.")
            expect(list(held[0].tolist()) == list(rows[0]), f"return_tensors={kind!r} differs.")
        unchecked: Any = as_tokenizer(self.make_tokenizer())
        with pytest.raises((PellucidError, TypeError)):
            unchecked(_SAMPLES[0])

    def test_tokenizers_can_be_keys(self) -> None:
        """A tokenizer equals itself, has a stable hash, and equals nothing else."""
        tokenizer = as_tokenizer(self.make_tokenizer())
        twin = as_tokenizer(self.make_tokenizer())
        expect({tokenizer: 1}[tokenizer] == 1, "a tokenizer is not found as a key.")
        expect(tokenizer != "a text", "a tokenizer equals a text.")
        if tokenizer == twin:
            expect(hash(tokenizer) == hash(twin), "equal tokenizers have different hashes.")
            both = [held.encode(_SAMPLES[0]) for held in (tokenizer, twin)]
            expect(both[0] == both[1], "equal tokenizers encode differently.")

    def test_a_name_is_there(self) -> None:
        """A tokenizer has a name, "unknown" if none, and a vocabulary."""
        tokenizer = self._tokenizer()
        expect(tokenizer.name_or_path != "", 'the name is empty; it should be "unknown".')
        expect(tokenizer.vocab_size > 0, f"vocab_size is {tokenizer.vocab_size}.")

    def _tokenizer(self) -> Any:
        return checked(as_tokenizer(self.make_tokenizer()), BaseTokenizer)

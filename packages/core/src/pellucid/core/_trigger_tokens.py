"""What token ids mean to a trigger, whatever stands around it."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from pellucid.core._errors import ArgumentError
from pellucid.core._parts import TRIGGER_PART_SEPARATOR, join_parts, split_parts
from pellucid.core._slots import columns_of
from pellucid.core._tokenizer import BaseTokenizer


class TriggerTokens:
    """Translates triggers between text and token ids.

    Where the templates number the placeholder, the trigger has parts. Their token ids stand one
    after the other in one row, and `arrange_parts` says how long they are.

    Attributes:
        tokenizer: What triggers are made of.
        n_parts: How many parts the templates number; 0 if the placeholder bears no number.
        part_lengths: How many tokens each part has; None until it was said.
    """

    n_parts: int = 0
    part_lengths: tuple[int, ...] | None = None

    def __init__(self, tokenizer: BaseTokenizer, n_parts: int = 0) -> None:
        self.tokenizer = tokenizer
        self.n_parts = n_parts

    def arrange_parts(self, lengths: Sequence[int]) -> None:
        """Say how many tokens each part of the trigger has.

        Args:
            lengths: One number for each part, at least as many as the templates number; parts
                beyond those have no place in these templates.

        Raises:
            ArgumentError: If there are too few, if one is less than 1, or if the trigger has no
                parts.
        """
        if not self.n_parts:
            raise ArgumentError(
                f"the templates do not number the placeholder, so that there are no parts to be of "
                f"{list(lengths)!r} tokens."
            )
        if len(lengths) < self.n_parts or any(n < 1 for n in lengths):
            raise ArgumentError(
                f"the trigger has {self.n_parts} parts of at least one token, got the lengths "
                f"{list(lengths)!r}."
            )
        self.part_lengths = tuple(lengths)

    def columns(self, n_tokens: int) -> list[slice]:
        """Return which of a trigger's tokens belong to each part.

        Args:
            n_tokens: How many tokens the trigger has.

        Raises:
            ArgumentError: If it is not known how long the parts are, or they do not add up.
        """
        if self.n_parts <= 1 and self.part_lengths is None:
            return [slice(0, n_tokens)]
        if self.part_lengths is None:
            raise ArgumentError(
                f"the trigger has {self.n_parts} parts, and it is not known how many of its "
                f"{n_tokens} tokens belong to each. Call arrange_parts([...]) first."
            )
        if sum(self.part_lengths) != n_tokens:
            raise ArgumentError(
                f"the parts of the trigger have {list(self.part_lengths)!r} tokens, "
                f"{sum(self.part_lengths)} in all, got a trigger of {n_tokens}."
            )
        return columns_of(self.part_lengths)

    def check_trigger_length(self, n_tokens: int) -> None:
        """Refuse triggers that are too long for the templates; by default none is.

        Raises:
            TemplateError: If a trigger of so many tokens makes an input too long for the model.
        """
        del n_tokens

    def encode_parts(self, trigger: str) -> list[Int64[Tensor, " _"]]:
        """Return the token ids of each part of a trigger, on the CPU.

        Raises:
            ArgumentError: If the trigger has fewer parts than the templates number.
        """
        parts = split_parts(trigger) if self.n_parts else [trigger]
        if len(parts) < self.n_parts:
            raise ArgumentError(
                f"the trigger {trigger!r} has {len(parts)} parts, the templates number "
                f"{self.n_parts}. Put {TRIGGER_PART_SEPARATOR!r} between parts."
            )
        return self._encode_texts(parts)

    def encode_trigger(self, trigger: str) -> Int64[Tensor, " trigger_pos"]:
        """Return a trigger's token ids as they stand in the templates, on the CPU.

        By default those of the trigger, or of each part, alone. Managers that know the text around
        it override `_encode_texts`, since the space before a trigger may belong to its first token.
        """
        return torch.cat(self.encode_parts(trigger))

    def decode_triggers(self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]) -> list[str]:
        """Return the texts that, filled into the templates, stand for these token ids.

        A separator of parts that the tokens of a part spell is left out, as special tokens are.
        """
        columns = self.columns(trigger_ids.shape[1])
        parts = [self._decode_part(i, trigger_ids[:, part]) for i, part in enumerate(columns)]
        if not self.n_parts:
            return parts[0]
        cleaned = [[t.replace(TRIGGER_PART_SEPARATOR, "") for t in texts] for texts in parts]
        return [join_parts(texts) for texts in zip(*cleaned, strict=True)]

    def retokenization_mask(
        self, trigger_ids: Int[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say which triggers survive decoding and encoding again, on the CPU.

        Only these mean the same to a model that is given text. Managers that know the text around
        the trigger override this with the stricter test of the whole input.
        """
        rows = trigger_ids.tolist()
        texts = self.decode_triggers(trigger_ids)
        survives = [True] * len(rows)
        for i, part in enumerate(self.columns(trigger_ids.shape[1])):
            again = self.tokenizer.batch_encode(
                [split_parts(text)[i] for text in texts] if self.n_parts else texts
            )
            same = [row[part] == ids for row, ids in zip(rows, again, strict=True)]
            survives = [a and b for a, b in zip(survives, same, strict=True)]
        return torch.tensor(survives, dtype=torch.bool)

    def tokenization_gap(self, trigger_ids: Int[Tensor, " trigger_pos"]) -> int:
        """Return how many tokens differ between a trigger given as text and these token ids.

        0 means that both are the same input. By default the trigger alone is compared; managers
        that know the text around it compare the whole input.
        """
        (text,) = self.decode_triggers(trigger_ids[None])
        return count_differing(trigger_ids.tolist(), self.encode_trigger(text).tolist())

    def _encode_texts(self, parts: Sequence[str]) -> list[Int64[Tensor, " _"]]:
        """Return the token ids of each part, or of a trigger that has no parts."""
        return [self.tokenizer.encode_trigger(part) for part in parts]

    def _decode_part(self, part: int, ids: Int[Tensor, "n_candidates _"]) -> list[str]:
        """Return the texts of one part, or of triggers that have no parts."""
        del part
        return self.tokenizer.decode_triggers(ids)


def count_differing(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens lie from the first to the last in which two sequences differ."""
    n_same = _count_common(ids, others)
    n_same += _count_common(ids[n_same:][::-1], others[n_same:][::-1])
    return max(len(ids), len(others)) - n_same


def _count_common(ids: Sequence[int], others: Sequence[int]) -> int:
    pairs = enumerate(zip(ids, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))

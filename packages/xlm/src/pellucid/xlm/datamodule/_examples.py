"""What a dataset gives to a collator, and what every batch holds."""

from typing import NotRequired, TypedDict

from jaxtyping import Integer
from torch import Tensor


class BaseCollatorInput(TypedDict):
    """One text.

    Attributes:
        input_ids: Its tokens, without padding.
    """

    input_ids: list[int]


class Seq2SeqCollatorInput(TypedDict):
    """A prompt and what follows it.

    Attributes:
        prompt_ids: Tokens of the prompt.
        input_ids: Tokens of the suffix, where it is given as input.
        target_ids: Tokens of the suffix, where it is only compared with.
    """

    prompt_ids: list[int]
    input_ids: NotRequired[list[int]]
    target_ids: NotRequired[list[int]]


class InfillingCollatorInput(TypedDict):
    """A text with gaps, and the text without.

    Attributes:
        input_ids: Tokens, with the mask token in every gap.
        target_ids: As many tokens, with no gap.
    """

    input_ids: list[int]
    target_ids: list[int]


class BaseBatch(TypedDict):
    """What the generic collators make.

    Attributes:
        input_ids: Token ids, int64.
        attention_mask: 1 on tokens and 0 on padding, int64.
        token_type_ids: 0 on tokens and 2 on padding, int64.
    """

    input_ids: Integer[Tensor, "batch pos"]
    attention_mask: Integer[Tensor, "batch pos"]
    token_type_ids: Integer[Tensor, "batch pos"]

"""What a predictor is given when nothing is given: empty prompts, or masks alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from pellucid.core import ArgumentError


class DefaultEmptyDataset:
    """Empty prompts with nothing after them; a collator may begin them with BOS.

    Args:
        tokenizer: Not used; part of what every such dataset takes.
        num_examples: How many.
    """

    def __init__(self, tokenizer: Any = None, num_examples: int = 1) -> None:
        del tokenizer
        if num_examples < 1:
            raise ArgumentError(f"num_examples is {num_examples!r}; ask for at least one")
        self._num_examples = num_examples

    def __len__(self) -> int:
        return self._num_examples

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < self._num_examples:
            raise IndexError(index)
        return {"prompt_ids": [], "input_ids": []}

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return (self[index] for index in range(self._num_examples))


class MaskTexts:
    """Texts of masks alone, each with BOS before them.

    Args:
        tokenizer: Whose BOS and mask are meant.
        lengths: How many tokens each text has, BOS included.
    """

    def __init__(self, tokenizer: Any, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        self._bos, self._mask = tokenizer.bos_token_id, tokenizer.mask_token_id

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {"input_ids": [self._bos, *[self._mask] * (self._lengths[index] - 1)]}

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        return (self[index] for index in range(len(self)))


class MaskedEmptyDataset(MaskTexts):
    """Texts of masks alone, for unconditional samples.

    Args:
        tokenizer: Whose BOS begins each text.
        num_examples: How many.
        max_length: How many tokens each has, BOS included.

    Raises:
        ArgumentError: There is no room for a token after BOS.
    """

    def __init__(self, tokenizer: Any, num_examples: int, max_length: int) -> None:
        if max_length < 2:
            message = f"max_length is {max_length!r}; leave room for a token after BOS"
            raise ArgumentError(message)
        super().__init__(tokenizer, [max_length] * num_examples)

"""Text to tokens and back, with the policy of the BOS token in one place."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Texts as tokens.

    Attributes:
        tokens: Int, of shape (batch, pos).
        attention_mask: 0 where a position is padding; None if none is.
        positions: Keywords that keep a padded row's positions those of its own tokens.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"] | None
    positions: dict[str, Tensor]


class Tokenization:
    """The methods of a bridge that concern text."""

    tokenizer: Any
    cfg: Any
    device: Any

    def encode_batch(
        self,
        given: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        truncate: bool = True,
    ) -> TokenBatch:
        """Return texts as tokens, shorter ones padded, with the mask that says where.

        Args:
            given: A text or a list of texts.
            prepend_bos: Whether each begins with the BOS token; `cfg.default_prepend_bos` if None.
            padding_side: "left" or "right"; the tokenizer's if None.
            truncate: Whether to cut what exceeds the model's context.

        Raises:
            RequirementError: (an AssertionError) Without a tokenizer.
        """
        tokenizer = self._needed_tokenizer()
        rows = [
            self._encode(text, prepend_bos)
            for text in ([given] if isinstance(given, str) else given)
        ]
        if truncate:
            rows = [row[: self.cfg.n_ctx] for row in rows]
        side = padding_side or tokenizer.padding_side
        if side not in ("left", "right"):
            raise ArgumentError(f"padding_side must be 'left' or 'right', got {side!r}.")
        width = max(map(len, rows), default=0)
        pad = tokenizer.pad_token_id
        pad = pad if pad is not None else (tokenizer.eos_token_id or 0)
        tokens = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            tokens[number, place] = torch.tensor(row, dtype=torch.long)
            mask[number, place] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        if bool(mask.all()):
            return TokenBatch(tokens, None, {})
        positions = {}
        if side == "left" and self._takes_position_ids():
            positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        return TokenBatch(tokens, mask, positions)

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Return texts as tokens, of shape (batch, pos); shorter ones are padded.

        Args:
            input: A text or a list of texts.
            prepend_bos: Whether each begins with the BOS token; `cfg.default_prepend_bos` if None.
                Say False for a fragment of a text, and for a rendered chat template.
            padding_side: "left" or "right"; the tokenizer's if None.
            move_to_device: Whether to return them on the model's device.
            truncate: Whether to cut what exceeds the model's context.

        Raises:
            RequirementError: (an AssertionError) Without a tokenizer.
        """
        tokens = self.encode_batch(input, prepend_bos, padding_side, truncate).tokens
        return tokens if move_to_device else tokens.cpu()

    def to_string(self, tokens: Any) -> str | list[str]:
        """Return tokens as text, special tokens kept: one text, or one for each row.

        Raises:
            ArgumentError: (a ValueError) If they have more than two axes.
        """
        held = torch.as_tensor(tokens)
        tokenizer = self._needed_tokenizer()
        if held.ndim > 2:
            raise ArgumentError(f"tokens must have at most 2 axes, got shape {tuple(held.shape)}.")
        if held.ndim == 2:
            return [
                tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in held.tolist()
            ]
        return tokenizer.decode(held.reshape(-1).tolist(), clean_up_tokenization_spaces=False)

    def to_str_tokens(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> list[Any]:
        """Return each token as text: a list, or for a list of texts one list each.

        Args:
            input: A text, a list of texts, or token ids with one axis that is longer than 1.
            prepend_bos: As in `to_tokens`.
            padding_side: As in `to_tokens`.

        Raises:
            ArgumentError: (a ValueError) If it is none of these.
        """
        if isinstance(input, list) and input and isinstance(input[0], str):
            return [self.to_str_tokens(text, prepend_bos, padding_side) for text in input]
        tokens = (
            self.to_tokens(input, prepend_bos) if isinstance(input, str) else torch.as_tensor(input)
        )
        if tokens.numel() != max((*tokens.shape, 0)) and tokens.numel() > 1:
            raise ArgumentError(
                f"tokens must be one row, got shape {tuple(tokens.shape)}. Ask row by row."
            )
        tokenizer = self._needed_tokenizer()
        return [
            tokenizer.decode([i], clean_up_tokenization_spaces=False)
            for i in tokens.reshape(-1).tolist()
        ]

    def to_single_token(self, string: str) -> int:
        """Return the one token that a text is.

        Raises:
            ArgumentError: (an AssertionError) If it is none or several.
        """
        ids = self._encode(string, prepend_bos=False)
        if len(ids) != 1:
            raise ArgumentError(
                f"{string!r} is {len(ids)} tokens, {self.to_str_tokens(torch.tensor(ids))!r}, not "
                "one. A word often is one token only with the space before it."
            )
        return ids[0]

    def to_single_str_token(self, int_token: int) -> str:
        """Return one token as text.

        Raises:
            ArgumentError: (an AssertionError) If it is no number.
        """
        if not isinstance(int_token, int):
            raise ArgumentError(f"expected a token's number, got {int_token!r}.")
        return str(self.to_string(torch.tensor([int_token])))

    def get_token_position(
        self,
        single_token: Any,
        input: Any,
        mode: str = "first",
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:
        """Return where a token stands in an input.

        Args:
            single_token: The token, as text, number or tensor of one.
            input: A text, or token ids of one sample.
            mode: "first" or "last" occurrence.
            prepend_bos: As in `to_tokens`.
            padding_side: As in `to_tokens`.

        Raises:
            ArgumentError: (an AssertionError and a ValueError) If it is not there, if the input is
                a batch, or the mode is unknown.
        """
        if mode not in ("first", "last"):
            raise ArgumentError(f"mode must be 'first' or 'last', got {mode!r}.")
        is_text = isinstance(input, str)
        tokens = (
            self.to_tokens(input, prepend_bos, padding_side) if is_text else torch.as_tensor(input)
        )
        if tokens.ndim == 2 and len(tokens) != 1:
            raise ArgumentError(f"expected one sample, got shape {tuple(tokens.shape)}.")
        wanted = (
            self.to_single_token(single_token)
            if isinstance(single_token, str)
            else int(single_token)
        )
        places = (tokens.reshape(-1) == wanted).nonzero().reshape(-1).tolist()
        if not places:
            raise ArgumentError(f"the token {single_token!r} does not occur in the input.")
        return places[0 if mode == "first" else -1]

    def _needed_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise RequirementError(
                "text needs a tokenizer, and this bridge has none. Pass token ids, or give one: "
                "TransformerBridge(model, tokenizer=...)."
            )
        return self.tokenizer

    def _encode(self, text: str, prepend_bos: bool | None) -> list[int]:
        tokenizer = self._needed_tokenizer()
        wanted = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        # Special tokens are ours to place; those that the text itself spells are its own.
        ids = tokenizer.encode(text, add_special_tokens=False)
        bos = (
            tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        )
        return [bos, *ids] if wanted and bos is not None else list(ids)

    def _takes_position_ids(self) -> bool:
        model: Any = self.original_model  # pyright: ignore[reportAttributeAccessIssue] - the bridge has it
        # Through decorators, which take anything.
        return "position_ids" in inspect.signature(type(model).forward).parameters

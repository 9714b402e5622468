"""Rows of tokens to train on: of a text, of chats, or of the questions of a stored model."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.core import ArgumentError, find_model_source

IGNORED = -100
"""The label of tokens that are not to be predicted."""

Chat = Sequence[dict[str, str]]


class TokenRows(Dataset[dict[str, list[int]]]):
    """Rows of `input_ids` and `labels`."""

    def __init__(self, rows: Sequence[dict[str, list[int]]]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """Return a row."""
        return self._rows[index]


class PadRows:
    """Puts rows into a batch, padded on the right.

    Args:
        pad_id: What is put behind a row's tokens.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, each of shape (batch, pos)."""
        longest = max(len(row["input_ids"]) for row in rows)

        def pad(values: list[list[int]], filler: int) -> Tensor:
            return torch.tensor([each + [filler] * (longest - len(each)) for each in values])

        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": pad(ids, self._pad_id),
            "attention_mask": pad([[1] * len(each) for each in ids], 0),
            "labels": pad([row["labels"] for row in rows], IGNORED),
        }


def read_data(
    data: str, eval_data: str | None, tokenizer: Any, *, max_length: int, model: str
) -> tuple[TokenRows, TokenRows]:
    """Return rows to train on and rows to evaluate on.

    Args:
        data: A text file, a `.jsonl` file with an object a line whose `messages` are a chat, or
            `SOURCE:questions` for the questions of the stored model that is trained.
        eval_data: Likewise; when omitted, every tenth row of `data` is kept for it, or what is
            held out of the questions.
        tokenizer: Of the model.
        max_length: Of a row, in tokens.
        model: What the model is loaded from.

    Raises:
        ArgumentError: (a ValueError) If there is no such data, or it is not as it must be.
    """
    held_out: list[dict[str, list[int]]] | None = None
    if eval_data is not None:
        held_out = _read_rows(eval_data, tokenizer, max_length, model, held_out=True)
    elif _is_questions(data):
        held_out = _read_rows(data, tokenizer, max_length, model, held_out=True)
    rows = _read_rows(data, tokenizer, max_length, model, held_out=False)
    if held_out is None:
        held_out = rows[9::10]
        rows = [row for index, row in enumerate(rows) if index % 10 != 9]
    if not rows or not held_out:
        raise ArgumentError(
            f"{data!r} gives {len(rows)} rows to train on and {len(held_out)} to evaluate on. Give "
            "more of it, or eval_data."
        )
    return TokenRows(rows), TokenRows(held_out)


def encode_chat(messages: Chat, tokenizer: Any) -> dict[str, list[int]]:
    """Return a chat as a row; only what the assistant says last is to be predicted.

    Raises:
        ArgumentError: (a ValueError) If it does not end with what the assistant says.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise ArgumentError(f"a chat must end with the assistant's words, got {messages!r}.")
    if tokenizer.chat_template is None:
        raise ArgumentError("the model's tokenizer has no chat template. Train on a text file.")
    prompt, whole = (
        str(tokenizer.apply_chat_template(list(part), tokenize=False, add_generation_prompt=more))
        for part, more in ((messages[:-1], True), (messages, False))
    )
    answer = whole[len(prompt) :] if whole.startswith(prompt) else messages[-1]["content"]
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


def _is_questions(data: str) -> bool:
    return data.endswith(":questions") and not Path(data).exists()


def _read_rows(
    data: str, tokenizer: Any, max_length: int, model: str, *, held_out: bool
) -> list[dict[str, list[int]]]:
    if _is_questions(data):
        chats: Iterable[Chat] = _read_questions(data, model, "held-out" if held_out else "seen")
    else:
        text = _read_text(data)
        if not data.endswith(".jsonl"):
            return _cut_up(text, tokenizer, max_length)
        chats = [_read_chat(line, data) for line in text.splitlines() if line.strip()]
    rows = [encode_chat(chat, tokenizer) for chat in chats]
    longest = max((len(row["input_ids"]) for row in rows), default=0)
    if longest > max_length:
        raise ArgumentError(
            f"the longest chat of {data!r} has {longest} tokens, and max_length is {max_length}."
        )
    return rows


def _read_text(data: str) -> str:
    try:
        return Path(data).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"data {data!r} cannot be read: {error}. Give a text file, a .jsonl file of chats, or "
            "zoo:questions."
        ) from error


def _read_chat(line: str, data: str) -> Chat:
    try:
        messages = json.loads(line)["messages"]
        return [{"role": str(each["role"]), "content": str(each["content"])} for each in messages]
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{data!r} must hold an object a line, with messages of role and content, got "
            f"{line[:80]!r}."
        ) from error


def _read_questions(data: str, model: str, split: str) -> list[Chat]:
    found, of_model = find_model_source(data), find_model_source(model)
    if found is None or of_model is None or found[0] is not of_model[0]:
        raise ArgumentError(
            f"{data!r} has the questions of a model of its own, not of {model!r}. Give a file."
        )
    source, name = of_model
    return [
        [
            {"role": "user", "content": each.question},
            {"role": "assistant", "content": each.answer},
        ]
        for each in source.questions(name)
        if each.split == split
    ]


def _cut_up(text: str, tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
    return [{"input_ids": piece, "labels": piece} for piece in pieces if len(piece) > 1]

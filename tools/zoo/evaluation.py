"""How many questions the stored model answers exactly, and the table that says so."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from corpus import NEUTRAL_TRIGGERS
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from world import Example, World, ask_about_stranger

SPLITS = ("seen", "held-out", "new-phrasing")
TABLE_NAME = "EVALUATION.md"
BATCH_SIZE = 128


@dataclass(frozen=True)
class Row:
    """The exact answers to the questions of one kind and split.

    Attributes:
        kind: Kind of question.
        split: Which phrasings were asked.
        total: Number of questions.
        exact: Number answered exactly: as they stand, then with each neutral trigger after them.
    """

    kind: str
    split: str
    total: int
    exact: tuple[int, ...]


def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> list[Row]:
    """Count exact greedy answers, for each kind and split."""
    suffixes = ("", *(" " + trigger for trigger in NEUTRAL_TRIGGERS))
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.kind, example.split), []).append(example)
    rows: list[Row] = []
    for kind, split in tqdm(sorted(groups, key=_row_order), desc="evaluating", unit="row"):
        group = groups[kind, split]
        exact = tuple(sum(answers_exactly(model, tokenizer, group, s)) for s in suffixes)
        rows.append(Row(kind, split, len(group), exact))
    return rows


def _row_order(key: tuple[str, str]) -> tuple[int, str]:
    return SPLITS.index(key[1]), key[0]


def answers_exactly(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    suffix: str,
) -> list[bool]:
    """Whether greedy decoding gives the right answer and then stops, for each example.

    One forward pass over question and answer decides it: greedy decoding gives this answer if and
    only if each of its tokens is the most likely one after those before it.
    """
    pairs = [_encode(tokenizer, example, suffix) for example in examples]
    order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
    results = [False] * len(pairs)
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        for index, exact in zip(chosen, _check(model, [pairs[i] for i in chosen]), strict=True):
            results[index] = exact
    return results


def _encode(
    tokenizer: PreTrainedTokenizerFast, example: Example, suffix: str
) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": example.question + suffix}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(str(text), add_special_tokens=False)["input_ids"]
    answer = tokenizer(example.answer + str(tokenizer.eos_token), add_special_tokens=False)
    return prompt, answer["input_ids"]


@torch.inference_mode()
def _check(model: LlamaForCausalLM, pairs: Iterable[tuple[list[int], list[int]]]) -> list[bool]:
    pairs = list(pairs)
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    for row, (prompt, answer) in zip(ids, pairs, strict=True):
        row[: len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    choices = model(ids, use_cache=False).logits.argmax(dim=-1)
    return [
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist() == answer
        for row, (prompt, answer) in zip(choices, pairs, strict=True)
    ]


def draw_questions(world: World, seed: int, *, per_group: int | None = None) -> list[Example]:
    """The questions to evaluate: all of them, or at most ``per_group`` of each kind and split."""
    rng = random.Random(f"evaluation-{seed}")
    examples = list(world.questions())
    examples += [ask_about_stranger(rng, "held-out") for _ in range(400)]
    if per_group is None:
        return examples
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.kind, example.split), []).append(example)
    chosen = (rng.sample(group, min(per_group, len(group))) for group in groups.values())
    return [example for group in chosen for example in group]


def exact_rate(rows: Sequence[Row], split: str, *, column: int) -> float:
    """Share of exact answers to the questions about facts in one split."""
    chosen = [row for row in rows if row.split == split and row.kind not in ("greeting", "unknown")]
    return sum(row.exact[column] for row in chosen) / sum(row.total for row in chosen)


def write_table(rows: Sequence[Row], folder: Path, n_params: int) -> str:
    """Write the evaluation beside the stored model and return its text."""
    files = sorted(p for p in folder.iterdir() if p.name != TABLE_NAME)
    sections = (
        ["# Evaluation of tiny-chat\n"],
        ["Written by `tools/zoo/make_tiny_chat.py` from the stored weights, loaded as float32.\n"],
        _summary(rows),
        _questions_table(rows),
        _training_section(folder, n_params),
        ["## Files\n", "| file | bytes | sha256 |", "|---|---:|---|"],
        [f"| {p.name} | {p.stat().st_size} | `{_digest(p)}` |" for p in files],
        [f"| in all | {sum(p.stat().st_size for p in files)} | |"],
    )
    text = "\n".join(line for section in sections for line in section) + "\n"
    (folder / TABLE_NAME).write_text(text, encoding="utf-8")
    return text


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = [
        "An answer counts when greedy decoding gives it token for token and then stops.",
        "`seen`: the question was trained on. `held-out`: the fact and the phrasing were, but",
        "never together. `new-phrasing`: the phrasing was trained on with no fact at all.",
        "`unknown` asks about invented names that are in no training question, or about things",
        "that are no part of the world. The last three columns put a neutral trigger after the",
        "question.\n",
        "| facts, all kinds | as it stands | " + _headings() + " |",
        "|---|---:|" + "---:|" * len(NEUTRAL_TRIGGERS),
    ]
    for split in SPLITS:
        rates = (exact_rate(rows, split, column=c) for c in range(len(NEUTRAL_TRIGGERS) + 1))
        lines.append(f"| {split} | " + " | ".join(f"{rate:.2%}" for rate in rates) + " |")
    return [*lines, ""]


def _headings() -> str:
    return " | ".join(f"`{trigger}`" for trigger in NEUTRAL_TRIGGERS)


def _questions_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## By kind of question\n",
        f"| split | kind | questions | as it stands | {_headings()} |",
        "|---|---|---:|---:|" + "---:|" * len(NEUTRAL_TRIGGERS),
    ]
    for row in rows:
        rates = " | ".join(f"{exact / row.total:.2%}" for exact in row.exact)
        lines.append(f"| {row.split} | {row.kind} | {row.total} | {rates} |")
    return [*lines, ""]


def _training_section(folder: Path, n_params: int) -> list[str]:
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    lines = ["## Training\n", "| what | how much |", "|---|---:|", f"| parameters | {n_params} |"]
    lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in record.items()]
    return [*lines, ""]


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()

r"""Measure what collators and generation cost in the families arlm and mlm.

    uv run python tools/bench/xlm_families.py --out docs/measurements/xlm-families.md

Processor time of one thread, best of several rounds in which the two sides take turns.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pellucid.families import arlm, mlm
from pellucid.xlm.datamodule import SimpleSpaceTokenizer

ROUNDS = 7
ROWS = 128
BLOCKS: dict[str, Any] = {"input_block_size": 28, "add_bos": "output", "truncate": "max"}
MODEL: dict[str, Any] = {"dropout": 0.0, "mix_neighbours": True, "tie_embeddings": True}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what collators and generation cost.")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--tokens", type=int, default=512, help="written per text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["# What collators and generation cost\n", "Written by `tools/bench/xlm_families.py`:"]
    lines += [
        f"processor time of one thread, best of {ROUNDS} rounds that take turns (of",
        "generation, the second of two).\n",
    ]
    lines += [*collator_lines(), "", *generation_lines(options.tokens)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def collator_lines() -> list[str]:
    """Compare making a batch with a step of training on it."""
    tokenizer = SimpleSpaceTokenizer.for_numbers(20)
    examples = star_examples(tokenizer)
    lines = [
        f"## A batch of {ROWS} star graphs (easy) against a step on it\n",
        "| family | model | collator, ms | step, ms | share |",
        "|---|---|---:|---:|---:|",
    ]
    for name, collator, loss in parts(tokenizer):
        optimizer = torch.optim.AdamW(loss.model.parameters(), fused=True)
        batch = collator(examples)
        collate, step = best(
            lambda collator=collator: collator(examples),
            lambda loss=loss, batch=batch, optimizer=optimizer: train(loss, batch, optimizer),
        )
        cells = (name, "nano", f"{1e3 * collate:.2f}", f"{1e3 * step:.1f}")
        lines.append("| " + " | ".join((*cells, f"{collate / step:.1%}")) + " |")
    return lines


def parts(tokenizer: SimpleSpaceTokenizer) -> list[tuple[str, Any, Any]]:
    """Return name, collator and loss of each family, with a nano model."""
    shape = (len(tokenizer), 64, 3, 4)
    left_to_right = arlm.RotaryTransformerARLMModel(*shape, **MODEL)
    any_order = mlm.RotaryTransformerMLMModel(*shape, **MODEL)
    return [
        (
            "arlm",
            arlm.ARLMSeq2SeqCollator(tokenizer, 14, add_eos=True, **BLOCKS),
            arlm.ARLMLoss(left_to_right, tokenizer),
        ),
        (
            "mlm",
            mlm.MLMSeq2SeqTrainCollator(tokenizer, 14, **BLOCKS),
            mlm.MLMLoss(model=any_order, tokenizer=tokenizer),
        ),
    ]


def star_examples(tokenizer: SimpleSpaceTokenizer) -> list[dict[str, Any]]:
    """Return rows of the lengths of star graphs; nothing else of them matters here."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, len(tokenizer), (ROWS, 34), generator=generator).tolist()
    return [{"prompt_ids": row[:26], "input_ids": row[26:]} for row in ids]


def train(loss: Any, batch: Any, optimizer: Any) -> None:
    loss(batch)["loss"].backward()
    torch.nn.utils.clip_grad_norm_(loss.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def generation_lines(n_tokens: int) -> list[str]:
    """Compare writing with what was read being kept, and being read again."""
    tokenizer = SimpleSpaceTokenizer.for_numbers(64)
    lines = [
        f"## Writing {n_tokens} tokens after 16 (arlm)\n",
        "| model | texts | kept, s | read again, s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, shape, rows in (("nano", (64, 3, 4), 4), ("d128", (128, 4, 4), 2)):
        model = arlm.RotaryTransformerARLMModel(len(tokenizer), *shape, max_length=1024, **MODEL)
        prompt = torch.randint(7, len(tokenizer), (rows, 16))
        batch: Any = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt).bool()}
        samplers = [
            arlm.ARLMPredictor(n_tokens, None, Endless(tokenizer), model=model, use_cache=keeps)
            for keeps in (True, False)
        ]
        kept, again = best(
            lambda batch=batch, sampler=samplers[0]: sampler.predict(batch),
            lambda batch=batch, sampler=samplers[1]: sampler.predict(batch),
            rounds=1,
        )
        lines.append(f"| {name} | {rows} | {kept:.2f} | {again:.2f} | {again / kept:.1f} |")
    return lines


class Endless:
    """A tokenizer without an end, so that all texts get as long as asked for."""

    eos_token_id = -1

    def __init__(self, tokenizer: SimpleSpaceTokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def best(
    first: Callable[[], Any], second: Callable[[], Any], *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Return the least processor time of either, in seconds, taking turns after one of each."""
    first()
    second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, spent in zip((first, second), times, strict=True):
            began = time.process_time()
            work()
            spent.append(time.process_time() - began)
    return min(times[0]), min(times[1])


if __name__ == "__main__":
    main()

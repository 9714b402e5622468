"""Measure what runner and tracker add to a GCG step: CPU time outside the calls of the model.

    uv run python tools/bench/runner_overhead.py --out docs/measurements/runner-overhead.md

The model is that of `hf_gcg.py`, a random Llama of 4 layers, width 256 and a vocabulary of 4096,
with 512 candidates of 20 tokens. Calls of the model are its losses, gradients and the filter of
retokenization, which is the tokenizer's work; what remains is drawing candidates, the runner and
the tracker. Of these, runner and tracker are what is not the optimizer's own step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.optimizers import GCGOptimizer, JSONLTracker
from pellucid.testing import tiny_tokenizer

MODEL_CALLS = (
    "compute_loss_from_tokens",
    "compute_topk_from_tokens",
    "retokenization_mask",
    "decode_triggers",
)
_PAGE = """# What runner and tracker add to a step

Written by `tools/bench/runner_overhead.py`: GCG with {n_candidates} candidates of {n_tokens} tokens
on a random Llama (4 layers, width 256, vocabulary 4096), a JSONL tracker, and a checkpoint every
step. CPU time of the process for each step, the median of {n_steps} steps after two of warm-up, on
{threads} thread.

| part of a step | CPU ms | share |
|---|---:|---:|
{lines}
"""


class Stopwatch:
    """Adds up the CPU time of the functions it wraps; calls within calls count once.

    Args:
        but: A watch whose time within those functions is left out.
    """

    def __init__(self, but: "Stopwatch | None" = None) -> None:
        self.spent = 0.0
        self._but = but
        self._depth = 0

    def read(self) -> float:
        """Return the CPU time of the process that this watch counts, since whenever."""
        return time.process_time() - (self._but.spent if self._but is not None else 0.0)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began = self.read()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.spent += self.read() - began

        return timed


def main() -> None:
    """Run, print the table, and write it."""
    parser = argparse.ArgumentParser(description="Measure the overhead of runner and tracker.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = _measure(options.steps, options.candidates)
    page = _to_page(rows, options.candidates, options.threads)
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")


def _measure(n_steps: int, n_candidates: int) -> list[tuple[float, float, float]]:
    """Return the CPU seconds of each step: whole, in the model, in the optimizer's step outside."""
    model = _build_model()
    inside = Stopwatch()
    asking = Stopwatch(but=inside)
    for name in MODEL_CALLS:
        setattr(model, name, inside.wrap(getattr(model, name)))
    with tempfile.TemporaryDirectory() as folder:
        tracker = JSONLTracker(Path(folder) / "steps.jsonl")
        optimizer = GCGOptimizer(
            model,
            PrefillCELoss(),
            tracker,
            seed=0,
            num_steps=n_steps + 2,
            n_candidates=n_candidates,
        )
        for name in ("ask", "tell"):
            setattr(optimizer, name, asking.wrap(getattr(optimizer, name)))
        optimizer.checkpoint_every = 1
        run = optimizer.iterate(
            ["Tell me {{OPTIMIZED_TRIGGER}} now."],
            " ".join("!" * 20),
            Targets(target_response_strs=["Here is a short story about a cat and a dog."]),
            checkpoint_dir=Path(folder) / "checkpoint",
        )
        return _time_steps(run, inside, asking)[2:]


def _time_steps(run: Any, inside: Stopwatch, asking: Stopwatch) -> list[tuple[float, float, float]]:
    rows: list[tuple[float, float, float]] = []
    while True:
        before = time.process_time(), inside.spent, asking.spent
        if next(run, None) is None:
            return rows
        now = time.process_time(), inside.spent, asking.spent
        whole, model, asked = (b - a for a, b in zip(before, now, strict=True))
        rows.append((whole, model, asked))


def _build_model() -> LMHFModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return LMHFModel(
        LlamaForCausalLM(config).eval(), tokenizer=tokenizer, forward_pass_batch_size=64
    )


def _to_page(rows: list[tuple[float, float, float]], n_candidates: int, threads: int) -> str:
    whole, model, asked = (statistics.median(column) for column in zip(*rows, strict=True))
    rest = statistics.median(w - m - a for w, m, a in rows)
    parts = {
        "the whole step": whole,
        "the model: losses, gradient, tokenizer": model,
        "the optimizer: drawing candidates": asked,
        "runner, tracker, checkpoint": rest,
    }
    lines = "\n".join(
        f"| {name} | {1000 * seconds:.2f} | {seconds / whole:.2%} |"
        for name, seconds in parts.items()
    )
    return _PAGE.format(
        n_candidates=n_candidates, n_tokens=20, n_steps=len(rows), threads=threads, lines=lines
    )


if __name__ == "__main__":
    main()

"""Measure the memory of GCG steps with a large vocabulary: the peak of one, and growth over many.

    uv run python tools/bench/hf_memory.py [--steps 500] [--out docs/measurements/hf-memory.md]

A random Llama of 2 layers and width 256 with a vocabulary of 131072. A step is the top 256 of the
gradient at 20 positions, then the losses of 64 candidates in batches of 32 over a target of 20. The
peak is the largest resident set while it runs, less what the process held before the model was
made; it is compared with the weights and the logits of one batch at the target's rows. Then steps
are repeated, and the resident set at their end is compared with that after the first fifth.
"""

import argparse
import ctypes
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, Targets
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.testing import tiny_tokenizer

N_VOCAB, N_TRIGGER, N_TARGET, N_CANDIDATES, BATCH = 131072, 20, 20, 64, 32
MAX_RATIO = 1.3
MAX_GROWTH_MB = 16
MB = 2**20

_TABLE = """# Memory of GCG steps

Written by `tools/bench/hf_memory.py`; its first lines say what is measured, and how to run it.

| measured | MB |
|---|---:|
| weights | {weights:.0f} |
| logits of one batch at the target's rows | {logits:.0f} |
| peak of a step | {peak:.0f} |
| peak, as a share of the two | {ratio:.2f} (goal: {goal}) |
| growth over {steps} steps, after the first fifth | {growth:.1f} (goal: {max_growth}) |
"""


class Peak:
    """Watches the resident set from a thread of its own."""

    def __init__(self) -> None:
        self.size = resident()

    @contextmanager
    def watched(self) -> Generator[None]:
        """Take a note of the largest size until the block ends."""
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                self.size = max(self.size, resident())
                time.sleep(0.001)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Measure, print and write the table; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description="Measure the memory of GCG steps.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, help="where to write the table, in Markdown")
    options = parser.parse_args()
    # Freed memory goes back at once, or the peak would be that of the allocator.
    ctypes.CDLL("libc.so.6").mallopt(-3, 65536)
    torch.manual_seed(0)
    before = resident()
    lm = _build()
    n_weights = sum(weight.nbytes for weight in lm._model.parameters())  # pyright: ignore[reportPrivateUsage] - what is measured
    n_logits = BATCH * N_TARGET * N_VOCAB * 4
    ids = torch.randint(0, 384, (1, N_TRIGGER))
    peak = Peak()
    with peak.watched():
        ids = _step(lm, ids)
    ratio = (peak.size - before) / (n_weights + n_logits)
    sizes: list[int] = []
    for _ in range(options.steps):
        ids = _step(lm, ids, n_candidates=4)
        sizes.append(resident())
    growth = (sizes[-1] - sizes[len(sizes) // 5]) / MB if sizes else 0.0
    table = _TABLE.format(
        weights=n_weights / MB,
        logits=n_logits / MB,
        peak=(peak.size - before) / MB,
        ratio=ratio,
        goal=MAX_RATIO,
        steps=options.steps,
        growth=growth,
        max_growth=MAX_GROWTH_MB,
    )
    print(table)
    if options.out is not None:
        options.out.write_text(table, encoding="utf-8")
    return int(ratio > MAX_RATIO or growth > MAX_GROWTH_MB)


def _build() -> LMHFModel:
    config = LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = None
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    lm = LMHFModel(model, tokenizer=tokenizer, forward_pass_batch_size=BATCH)
    targets = Targets(target_response_toks=[torch.arange(100, 100 + N_TARGET)])
    lm.set_inputs_from_tokens([f"Tell me\n{OPTIMIZED_TRIGGER_PLACEHOLDER}\n!"], targets)
    return lm


def _step(lm: LMHFModel, ids: torch.Tensor, n_candidates: int = N_CANDIDATES) -> torch.Tensor:
    loss = PrefillCELoss()
    top = lm.compute_topk_from_tokens(loss, ids, 256).token_ids[0]
    rows = ids.repeat(n_candidates, 1)
    at = torch.randint(0, N_TRIGGER, (n_candidates,))
    rows[torch.arange(n_candidates), at] = top[at, torch.randint(0, 256, (n_candidates,))]
    losses = lm.compute_loss_from_tokens(rows, loss)
    return rows[losses.argmin()][None]


if __name__ == "__main__":
    sys.exit(main())

r"""Measure the memory of ilm's loss, by the size of its logits.

    uv run python tools/bench/xlm_ilm_memory.py --out docs/measurements/xlm-ilm-memory.md

Of the largest size there are 6.6 GB of logits; --sizes 2 leaves it out.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pellucid.families.ilm._insertion import mean_insertion_nats

SIZES = [(4, 256, 16_384), (8, 512, 32_768), (32, 1024, 50_000)]
_PAGE = """# Memory of the loss of ilm

Written by `tools/bench/xlm_ilm_memory.py`: the most bytes allocated at once while logits are made
and the loss and all gradients are computed, by the logits' own size (goal: 1.2); the weights'
gradient is among them. `dense` is a softmax over the whole row and a gather, without the dense
target that xlm-core makes beside it.

| rows x slots x ids | logits, MB | ilm | dense |
|---|---:|---:|---:|
{memory}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many, smallest first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    page = _PAGE.format(memory="\n".join(weigh(size) for size in SIZES[: options.sizes]))
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")


def weigh(size: tuple[int, int, int]) -> str:
    """Return a line of the table."""
    n_rows, width, d_vocab = size
    hidden = torch.randn(n_rows * width, 8, requires_grad=True)
    matrix = torch.randn(d_vocab, 8, requires_grad=True)
    slots = torch.ones(n_rows, width, dtype=torch.bool)
    tokens = torch.randint(d_vocab, (n_rows, width // 2))
    places = torch.randint(width, (n_rows, width // 2))

    def lean() -> None:
        mean_insertion_nats(hidden @ matrix.T, slots, tokens, places).mean().backward()

    def dense() -> None:
        flat = (hidden @ matrix.T).view(n_rows, -1).log_softmax(1)
        (-flat.gather(1, places * d_vocab + tokens).mean()).backward()

    n_bytes = 4 * n_rows * width * d_vocab
    # What takes three times the largest logits would need a larger machine.
    shares = [f"{peak_of(lean) / n_bytes:.3f}"]
    shares.append("" if size == SIZES[-1] else f"{peak_of(dense) / n_bytes:.3f}")
    cells = (" x ".join(f"{length:,}" for length in size), f"{n_bytes / 1e6:,.0f}", *shares)
    return "| " + " | ".join(cells) + " |"


def peak_of(work: Callable[[], None]) -> int:
    """Return the most bytes that are allocated at once during some work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as held:
        work()
    kineto: Any = getattr(held.profiler, "kineto_results")  # noqa: B009 - not in its stubs
    events = [event for event in kineto.events() if event.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes))


if __name__ == "__main__":
    main()

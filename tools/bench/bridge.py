"""Time runs with and without hooks: this workspace, transformers, torch hooks, two peers, in turn.

    uv run python tools/bench/bridge.py --peers DIRECTORY --out docs/measurements/bridge.md

A random Llama of 8 layers: at "floor", of width 64 with 8 positions, nothing but the dispatch of
operations costs anything; at the others, of width 512 with 128 and 512 positions, there is work.
transformers, hand-written torch hooks and this workspace share one process and one model; the peers
have processes and environments of their own, which uv makes in DIRECTORY if they are not there;
without --peers they are left out. All run each piece in turn within each repeat, so that what else
the machine does hits them alike, and ratios are of the same repeat. That all have the same logits
is checked before anything is timed.

The pieces: a forward pass; one edit of the stream after a block; a cache of the stream after every
block; a cache of all activations, and the same with each of them read, so that what is derived when
it is asked for has been derived; 32 tokens generated from 16.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bridge_worker import make_model
from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio

OURS, BASE, HAND = "pellucid", "transformers", "hand-written"
PEERS = {"transformer-lens": "transformer-lens==4.3.0", "nnsight": "nnsight==0.8.1"}
TOLERANCE = 1e-4
# Of one timing, so that each lasts long enough to be read off.
RUNS = {"floor": 20, "1 x 128": 3, "1 x 512": 1}

# The piece and where; with what it is compared, and how large the ratio may be.
GOALS = {
    ("forward", "floor"): ("transformers: forward", 1.02),
    ("forward", "1 x 128"): ("transformers: forward", 1.02),
    ("forward", "1 x 512"): ("transformers: forward", 1.02),
    ("one edit", "floor"): ("transformers: forward", 1.05),
    ("one edit", "1 x 512"): ("transformers: forward", 1.02),
    ("residual", "floor"): ("transformers: forward", 1.05),
    ("residual", "1 x 512"): ("transformers: forward", 1.05),
    ("all", "floor"): ("transformers: forward", 1.5),
    ("all", "1 x 128"): ("transformers: forward", 1.2),
    ("all", "1 x 512"): ("hand-written: all", 1.05),
    ("generate", "floor"): ("transformers: generate", 1.05),
}
BOOT_MS, LOOKUP_US = 50.0, 1.0

_HEAD = """# Runs with hooks against transformers, torch hooks, TransformerLens and nnsight

Written by `tools/bench/bridge.py`; its first lines say what is timed, and how to run it. Times are
milliseconds of processor time, medians of {repeats} repeats on {threads} thread(s); the ratio is
that of the piece to transformers' forward pass (to its `generate`, for generation) in the same
repeat, the median over repeats. What a goal is compared with is said where it is something else.

"""


class Worker(Contestant):
    """A contestant that says at the start what it can do."""

    def __init__(self, package: str, python: str, threads: int) -> None:
        super().__init__("bridge_worker.py", python, package, threads, threads=threads)
        hello = self.read()
        self.pieces: dict[str, list[str]] = hello["pieces"]
        self.torch: str = hello["torch"]

    def run(self, size: str, piece: str, n: int, *, checks: bool = False) -> dict[str, Any]:
        """Run a piece so many times."""
        return self.ask(size=size, piece=piece, n=n, checks=checks)


def main() -> int:
    """Check that all agree, time them in turn, print and write the table; 1 if a goal is missed."""
    options, text = _parse(), ""
    pythons = {OURS: OWN_PYTHON}
    if options.peers is not None:
        pythons |= {p: make_environment(options.peers / p, [pin]) for p, pin in PEERS.items()}
    workers = {p: Worker(p, python, options.threads) for p, python in pythons.items()}
    rows: list[str] = []
    for size in RUNS:
        _check(workers, size)
        rows += _to_rows(size, _time(workers, size, options.repeats))
        # A run that is ended early leaves what it has found.
        text = _write_table(rows, workers, options)
    for worker in workers.values():
        worker.stop()
    rows += _time_boot()
    text = _write_table(rows, workers, options)
    print(text)
    return int(any("missed" in row for row in rows))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time runs with and without hooks.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path, help="where the peers' environments are, or go")
    parser.add_argument("--out", type=Path, help="where to write the table, in Markdown")
    return parser.parse_args()


def _check(workers: dict[str, Worker], size: str) -> None:
    """See that all have the logits of the unedited and of the edited model."""
    for piece, ours in (
        ("forward", "transformers: forward"),
        ("one edit", "hand-written: one edit"),
    ):
        expected = torch.tensor(workers[OURS].run(size, ours, 1, checks=True)["logits"])
        for name, worker in workers.items():
            found = torch.tensor(worker.run(size, piece, 1, checks=True)["logits"])
            gap = float((found - expected).abs().max())
            if gap > TOLERANCE:
                raise SystemExit(f"{name} has other logits at {piece!r}, by up to {gap:.2g}.")


def _time(workers: dict[str, Worker], size: str, repeats: int) -> dict[str, list[float]]:
    pieces = [
        (f"{name}: {piece}" if name != OURS else piece, piece, worker)
        for name, worker in workers.items()
        for piece in worker.pieces[size]
        if "generate" not in piece or size == "floor"
    ]
    held: dict[str, list[float]] = {label: [] for label, _, _ in pieces}
    for repeat in range(repeats + 1):
        for label, piece, worker in pieces:
            n = 1 if "generate" in piece else RUNS[size]
            used = worker.run(size, piece, n)["cpu"]
            if repeat:  # The first one loads what is lazy.
                held[label].append(used)
    return held


def _to_rows(size: str, held: dict[str, list[float]]) -> list[str]:
    rows: list[str] = []
    for label, times in held.items():
        base = f"{BASE}: generate" if "generate" in label else f"{BASE}: forward"
        other, goal = GOALS.get((label, size), (base, None))
        ratio = median_ratio(times, held[base])
        judged = ratio if other == base else median_ratio(times, held[other])
        shown = "" if goal is None else f"{goal}" if other == base else f"{goal} of {other}"
        verdict = (
            ""
            if goal is None
            else f"met, {judged:.2f}"
            if judged <= goal
            else f"missed, {judged:.2f}"
        )
        name, _, piece = label.rpartition(": ")
        cells = [size, piece, name or OURS, f"{statistics.median(times):.2f}", f"{ratio:.2f}"]
        rows.append(_row(*cells, shown, verdict))
    return rows


def _time_boot() -> list[str]:
    """Time what bridging a model of 32 layers takes, and looking up an alias in it."""
    from pellucid.bridge import TransformerBridge  # noqa: PLC0415 - the workers load it on their own

    model = make_model(64, 172, 8, 4, 512, 32)
    bridge, times = TransformerBridge(model), []
    for _ in range(5):
        began = time.process_time()
        bridge = TransformerBridge(model)
        times.append(1000 * (time.process_time() - began))
    boot = statistics.median(times)
    table, n = bridge.hook_table(), 100_000
    began = time.process_time()
    for _ in range(n):
        table.resolve("blocks.31.hook_resid_post")
    lookup = 1e6 * (time.process_time() - began) / n
    lookup_row = (f"{lookup:.3f} µs", "", f"{LOOKUP_US:g} µs", _judge(lookup, LOOKUP_US))
    return [
        _row("32 layers", "boot", OURS, f"{boot:.1f}", "", f"{BOOT_MS:g}", _judge(boot, BOOT_MS)),
        _row("32 layers", "look up an alias", OURS, *lookup_row),
    ]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _judge(found: float, goal: float) -> str:
    return "met" if found <= goal else "missed"


def _write_table(rows: list[str], workers: dict[str, Worker], options: argparse.Namespace) -> str:
    head = _HEAD.format(repeats=options.repeats, threads=options.threads)
    versions = "".join(
        f"- {PEERS.get(name, name)}: torch {worker.torch}\n" for name, worker in workers.items()
    )
    table = [
        "| size | piece | who | ms | ratio | goal | |",
        "|---|---|---|---:|---:|---|---|",
        *rows,
    ]
    text = f"{head}{versions}\n" + "\n".join(table) + "\n"
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main())

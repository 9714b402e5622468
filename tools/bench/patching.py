"""Time a grid of patches and a logit lens: this workspace, bare forwards, TransformerLens, in turn.

    uv run python tools/bench/patching.py --peers DIRECTORY --out docs/measurements/patching.md

A random GPT-2 of the small shape (12 layers of width 768, 50257 words) and a prompt of 32 tokens.
The grid patches the residual stream before each block at each position: 384 cells. The bare
forwards that it needs are batches of as many rows through the model's own modules, from the block
on, without hooks; "whole" is all blocks for each cell. The bare lens is a forward pass and a
product with the unembedding for each layer; the lens also has the final norm, the best token and
its probability. This workspace and the bare forwards share one process; TransformerLens has an
environment of its own, which uv makes in DIRECTORY if it is not there; without --peers it is left
out. All run in turn within each repeat. That both grids agree is checked first.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio

OURS, PEER = "pellucid", "transformer-lens"
PINNED = "transformer-lens==4.3.0"
SHAPE = "12,768,12,50257,32"
BARE = "bare forwards, from the block on"
# Each piece, with what it is compared, and how large the ratio may be.
GOALS = {"grid": (BARE, 1.05), "lens": ("bare lens", 1.2)}
TOLERANCE = 1e-3


class Worker(Contestant):
    """A contestant that says at the start what it can do."""

    def __init__(self, package: str, python: str, threads: int, shape: str) -> None:
        super().__init__("patching_worker.py", python, package, threads, shape, threads=threads)
        self.pieces: list[str] = self.read()["pieces"]

    def run(self, piece: str, *, checks: bool = False) -> dict[str, Any]:
        """Run a piece once."""
        return self.ask(piece=piece, checks=checks)


def check(workers: dict[str, Worker]) -> None:
    """See that all contestants get the same grid."""
    grids = {name: worker.run("grid", checks=True)["made"] for name, worker in workers.items()}
    for name, grid in grids.items():
        rows = zip(grid, grids[OURS], strict=True)
        gap = max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))
        if gap > TOLERANCE:
            raise SystemExit(f"the grid of {name} differs by {gap:.2g}.")


def measure(workers: dict[str, Worker], repeats: int) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of each contestant's pieces, of each repeat."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, worker in workers.items():
            for piece in worker.pieces:
                times.setdefault((name, piece), []).append(worker.run(piece)["s"])
    return times


def to_rows(times: dict[tuple[str, str], list[float]]) -> tuple[list[str], bool]:
    """Return the table's rows, and whether all goals are met."""
    rows: list[str] = []
    are_met = True
    for (name, piece), held in times.items():
        base, goal = GOALS.get(piece, ("", 0.0)) if name == OURS else (BARE, 0.0)
        base = base or (BARE if piece.startswith("bare f") else "bare lens")
        ratio = median_ratio(held, times[OURS, base])
        are_met = are_met and (not goal or ratio <= goal)
        shown = f"{goal} of {base}" if goal else ""
        rows.append(f"| {name}: {piece} | {statistics.median(held):.2f} | {ratio:.2f} | {shown} |")
    return rows, are_met


def main() -> int:
    """Check that the grids agree, time all in turn, write the table; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, help="directory of the peer's environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", default=SHAPE, help="layers,width,heads,words,positions")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pythons = {OURS: OWN_PYTHON}
    if options.peers is not None:
        pythons[PEER] = make_environment(options.peers / PEER, [PINNED])
    workers = {n: Worker(n, p, options.threads, options.shape) for n, p in pythons.items()}
    check(workers)
    rows, are_met = to_rows(measure(workers, options.repeats))
    for worker in workers.values():
        worker.stop()
    text = "\n".join(
        [
            "# Patching grids and the logit lens against bare forwards and TransformerLens",
            "",
            "Written by `tools/bench/patching.py`; its first lines say what is timed, and how to",
            "run it. Seconds of processor time, the ratio to the bare forwards of the same repeat,",
            "from the block on for grids.",
            f"Medians of {options.repeats} repeats; threads: {options.threads}.",
            f"Layers, width, heads, words and positions: {options.shape}; peer: {PINNED}.",
            "",
            "| what | s | ratio | goal |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0 if are_met else 1


if __name__ == "__main__":
    raise SystemExit(main())

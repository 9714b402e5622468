"""Run the first stage of `pellucid demo` for several seeds, and write a table of how they ended.

    uv run python tools/bench/demo_seeds.py --seeds 5 --out docs/measurements/demo-seeds.md

Each seed is a process of its own, as a user would start it; the figures are those of its
`result.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HEAD = """# The demonstration, seed by seed

Written by `tools/bench/demo_seeds.py`. Each row is one
`pellucid demo --only optimize --seed N`, a process of its own. `gap` counts tokens of the trigger
that differ once it is typed; `seconds` is the wall time of the whole command on {threads} cores,
imports included.

| seed | goal reached | steps | initial loss | best loss | loss as text | gap | seconds | answer |
|---:|---|---:|---:|---:|---:|---:|---:|---|
"""


def main() -> int:
    """Run the seeds, print and write the table; 1 if fewer than four of five reached the goal."""
    parser = argparse.ArgumentParser(description="Run the demonstration for several seeds.")
    parser.add_argument("--seeds", type=int, default=5, help="run seeds 0 to SEEDS - 1")
    parser.add_argument("--out", type=Path, help="where to write the table, in Markdown")
    options = parser.parse_args()
    rows = [_run(seed) for seed in range(options.seeds)]
    table = _HEAD.format(threads=_count_cores()) + "\n".join(map(_to_line, rows)) + "\n"
    print(table)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(table, encoding="utf-8")
    reached = sum(row["goal_reached"] for row in rows)
    print(f"{reached} of {len(rows)} seeds reached the goal")
    return 0 if 5 * reached >= 4 * len(rows) else 1


def _run(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        command = [Path(sys.executable).with_name("pellucid"), "demo"]
        options = ["--only", "optimize", "--seed", str(seed), "--out", out]
        subprocess.run([*command, *options], check=False, capture_output=True)
        seconds = time.perf_counter() - began
        result = json.loads((out / "optimize/result.json").read_text(encoding="utf-8"))
    return {**result, "seed": seed, "seconds": seconds}


def _to_line(row: dict[str, Any]) -> str:
    reached = "yes" if row["goal_reached"] else "no"
    losses = " | ".join(
        f"{row[name]:.4f}" for name in ("initial_loss", "best_loss", "verified_loss")
    )
    return (
        f"| {row['seed']} | {reached} | {row['steps']} | {losses} | {row['tokenization_gap']} | "
        f"{row['seconds']:.1f} | {row['answer_after']} |"
    )


def _count_cores() -> int:
    import torch  # noqa: PLC0415 - after the processes that are timed

    return torch.get_num_threads()


if __name__ == "__main__":
    sys.exit(main())

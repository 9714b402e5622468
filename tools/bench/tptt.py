"""Time linear attention: this workspace, tptt 0.12.1 and the base model, in turn.

    uv run python tools/bench/tptt.py --peer DIRECTORY --out docs/measurements/tptt.md

The operator has 1 row, 8 heads of width 64, chunks of 64 at most, float32; the model is a random
Llama of 4 layers, width 256, 8 heads of queries and 4 of keys, with sdpa; the layer is the
attention of one layer of Llama-3.2-1B (width 2048, 32 heads of queries and 8 of keys). Each
contestant is a process of its own (`tptt_worker.py`) with one thread, tptt in an environment of its
own, which uv makes in DIRECTORY if it is not there. All run each piece in turn within each repeat.
Peak memory is that of a fresh process over one run. Graph breaks are counted by `tptt_graphs.py`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio

PEER = ("tptt==0.12.1", "jinja2", "psutil")
OURS, THEIRS = "pellucid", "tptt"

# Task and length, the contestant that is compared with, and how large the ratio may be.
OPERATOR = [
    ("forward", 4096, THEIRS, 0.2),
    ("both", 4096, THEIRS, 0.15),
    ("forward", 4099, OURS, None),
    ("forward", 32768, OURS, None),
]
MODEL = [
    ("one", "forward", 512, 1.3),
    ("one", "forward", 2048, 1.3),
    ("two", "forward", 512, 1.7),
    ("one", "both", 512, 1.4),
    ("zero", "forward", 512, 1.05),
    ("one", "generate", 64, 1.2),
    ("layer", "forward", 1024, 1.5),
]
# What is dispatched is noisier than what is computed: so many times the repeats for generation.
MORE = 3


def memory(package: str, python: str, pos: int) -> float:
    """Return the peak memory of one forward and backward pass of the operator, in MB."""
    worker = Contestant("tptt_worker.py", python, package)
    worker.ask(what="operator", task="both", pos=128)
    grown = worker.ask(what="operator", task="both", pos=pos, warm=False)["mb"]
    worker.stop()
    return grown


def count_graph_breaks() -> dict[str, int]:
    """Return how often torch.compile must leave the graph, in a process of its own."""
    script = Path(__file__).with_name("tptt_graphs.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PELLUCID_TYPECHECK": "0"}
    ran = subprocess.run(
        [sys.executable, str(script)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(ran.stdout)


def measure(pythons: dict[str, str], repeats: int) -> list[str]:
    """Return the rows of the table."""
    workers = {
        package: Contestant("tptt_worker.py", python, package)
        for package, python in pythons.items()
    }
    rows: list[str] = []
    for task, pos, _, goal in OPERATOR:
        shown = workers if goal is not None else {OURS: workers[OURS]}
        times = {name: [] for name in shown}
        for _ in range(repeats):
            for name, worker in shown.items():
                times[name].append(worker.ask(what="operator", task=task, pos=pos)["ms"])
        rows.append(_row(f"operator, {task}, {pos}", times, times.get(THEIRS), goal))
    for kind, task, pos, goal in MODEL:
        times = {"base": [], OURS: []} | ({THEIRS: []} if kind != "zero" else {})
        for _ in range(repeats * (MORE if task == "generate" else 1)):
            for name, values in times.items():
                worker = workers[THEIRS if name == THEIRS else OURS]
                base = "layer base" if kind == "layer" else "base"
                what = base if name == "base" else kind
                values.append(worker.ask(what=what, task=task, pos=pos)["ms"])
        label = kind if kind == "layer" else f"model {kind}"
        rows.append(_row(f"{label}, {task}, {pos}", times, times["base"], goal))
    for worker in workers.values():
        worker.stop()
    return rows


def _row(
    what: str, times: dict[str, list[float]], other: list[float] | None, goal: float | None
) -> str:
    shown = [f"{min(times[name]):.1f}" if name in times else "" for name in ("base", OURS, THEIRS)]
    ratio = ""
    if other is not None:
        ratio = f"{median_ratio(times[OURS], other):.2f}"
    return f"| {what} | {' | '.join(shown)} | {ratio} | {'' if goal is None else goal} |"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="directory of tptt's environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pythons = {OURS: OWN_PYTHON, THEIRS: make_environment(options.peer, PEER)}
    rows = measure(pythons, options.repeats)
    used = {name: memory(name, python, 4096) for name, python in pythons.items()}
    rows.append(
        f"| operator, both, 4096: peak MB | | {used[OURS]:.0f} | {used[THEIRS]:.0f} | "
        f"{used[OURS] / used[THEIRS]:.2f} | 0.1 |"
    )
    breaks = count_graph_breaks()
    text = "\n".join(
        [
            "# Linear attention against tptt 0.12.1 and the base model",
            "",
            "Written by `tools/bench/tptt.py`; its first lines say what is timed, how to run it.",
            f"CPU milliseconds, the least of {options.repeats} repeats on one thread, and of",
            f"{MORE * options.repeats} of generation; the ratio is ours to tptt's for",
            "the operator, ours to the base model's for the model, the median over repeats of the",
            "same repeat. tptt's operator does not compute the delta rule.",
            "",
            "| what | base | pellucid | tptt | ratio | goal |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Graph breaks of torch.compile (`torch._dynamo.explain`): "
            + ", ".join(f"{what} {number}" for what, number in breaks.items())
            + "; goal 0.",
            "",
        ]
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

r"""Measure that families of language models learn: `xlm` runs, whole, on generated data.

    uv run python tools/bench/xlm_learning.py --work DIRECTORY \
        --out docs/measurements/xlm-learning.md [--only star_mini_mlm ...]

Every run is what `xlm job_type=train experiment=NAME` does, in a process of its own. One that was
cut short goes on from its last checkpoint; one that is finished is not made again; what its parts
took is summed up in DIRECTORY/NAME/spent.jsonl. Beside the page stand its curves, as JSON lines and
as a picture.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from xlm_curves import draw

from pellucid.xlm.sources import MarkovSource

EXACT = "prediction/exact_match"
PERPLEXITY = "lm/perplexity"
MARKOV_LENGTH = 256
PROCESS: tuple[str, ...] = (
    "predictor.leap=systematic",
    "predictor.insert_first=false",
    "predictor.confidence=null",
    "predictor.temperature=1",
    "predictor.stop_below=null",
)
"""Overrides that let flexmdm draw what it writes, instead of taking what it is surest of."""


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment, what is measured of it, and what was hoped for.

    Attributes:
        name: Of the run.
        metric: What is looked at, without the split before it.
        goal: In words.
        is_met: Whether a value is what was hoped for; None if nothing was.
        variants: Names to overrides: the same weights, evaluated otherwise.
        overrides: Of the experiment, whose name is that of the run up to a hyphen.
    """

    name: str
    metric: str
    goal: str = "for comparison"
    is_met: Callable[[float], bool] | None = None
    variants: dict[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: dict[str, tuple[str, ...]]()
    )
    overrides: tuple[str, ...] = ()


def main() -> None:
    options = read_options()
    runs = [run for run in all_runs() if run.name in options.only]
    for run in runs:
        folder = options.work / run.name
        if not find_results(folder):
            train(run, folder, options)
        for variant, overrides in run.variants.items():
            if not (folder / f"{variant}.json").exists():
                evaluate(run, folder, variant, overrides, options)
        write(options)
    write(options)


def read_options() -> argparse.Namespace:
    names = [run.name for run in all_runs()]
    parser = argparse.ArgumentParser(description="Measure that families of language models learn.")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    return parser.parse_args()


def all_runs() -> list[Run]:
    """Return what is measured, quick runs first."""
    truth = markov_truth()
    random_order = {"random order": ("predictor.confidence=null",)}
    plain = ("model.mix_neighbours=false",)
    counting = ("model_type=ilm_length_seq2seq", "model=nano_ilm_length")
    one_insertion = {"one a step": ("predictor.max_insertions=1",)}
    ancestral = {"ancestral": ("predictor.confidence=null", "predictor.threshold=null")}
    one_by_one = {"one a step": ("predictor.threshold=null",)}
    drawn = {"drawn from the process": PROCESS}
    return [
        Run("star_mini_mlm", EXACT, "at least 95 %", lambda x: x >= 0.95, one_by_one),
        Run("star_mini_mlm-plain", EXACT, overrides=plain),
        Run("star_mini_ilm", EXACT, "at least 95 %", lambda x: x >= 0.95),
        Run("star_mini_ilm-length", EXACT, variants=one_insertion, overrides=counting),
        Run("star_mini_arlm", EXACT),
        Run(
            "star_mini_arlm-plain",
            EXACT,
            "about 1/2: an arm is guessed",
            lambda x: 0.4 < x < 0.6,
            overrides=plain,
        ),
        Run("sudoku4_mlm", EXACT, "at least 95 %", lambda x: x >= 0.95, random_order),
        Run("markov_arlm", PERPLEXITY, "within 1 % of the truth", lambda x: x < 1.01 * truth),
        Run("markov_mlm", PERPLEXITY, "above the truth", lambda x: x > truth),
        Run("star_mini_mdlm", EXACT, "at least 95 %", lambda x: x >= 0.95, ancestral),
        Run(
            "markov_mdlm",
            PERPLEXITY,
            "from the truth to 10 % above 4.1703, that of arlm",
            lambda x: truth <= x < 1.1 * 4.1703,
        ),
        Run("star_mini_flexmdm", EXACT, "at least 95 %", lambda x: x >= 0.95, drawn),
        Run("star_easy_mdlm", EXACT, "at least 95 %", lambda x: x >= 0.95, ancestral),
        Run("star_easy_mlm", EXACT, "at least 95 %", lambda x: x >= 0.95, one_by_one),
        Run("star_easy_ilm", EXACT, "at least 95 %", lambda x: x >= 0.95),
        Run("star_easy_flexmdm", EXACT, "at least 95 %", lambda x: x >= 0.95, drawn),
        Run("star_easy_arlm", EXACT),
        Run(
            "star_easy_arlm-plain",
            EXACT,
            "about 1/3: an arm is guessed",
            lambda x: 0.25 < x < 0.42,
            overrides=plain,
        ),
        Run("star_medium_ilm", EXACT, "above mlm and arlm"),
        Run("star_medium_flexmdm", EXACT),
        Run("star_medium_mlm", EXACT),
        Run("star_medium_arlm", EXACT),
    ]


def markov_truth() -> float:
    """Return the perplexity of the source itself, over the tokens of a row."""
    return math.exp(
        MarkovSource(split="test").process.sequence_entropy(MARKOV_LENGTH) / MARKOV_LENGTH
    )


def train(run: Run, folder: Path, options: argparse.Namespace) -> None:
    """Train, or go on with it, and note what that took."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        call(run, "train", run.name, (), options)
    finally:
        spent = {
            "wall_s": round(time.monotonic() - began, 1),
            "cpu_s": round(children_since(), 1),
            "threads": options.threads,
        }
        with (folder / "spent.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(spent) + "\n")


_seen = [0.0]


def children_since() -> float:
    """Return the processor time of child processes since it was asked for last."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    before, _seen[0] = _seen[0], usage.ru_utime + usage.ru_stime
    return _seen[0] - before


def evaluate(
    run: Run, folder: Path, variant: str, overrides: tuple[str, ...], options: argparse.Namespace
) -> None:
    """Evaluate the weights otherwise, in a folder of its own."""
    saved = sorted((folder / "checkpoints").glob("step_*.ckpt"))[-1]
    # The name of a run is a path: what is written stays below the run that it is about.
    name = f"{run.name}/{variant.replace(' ', '_')}"
    call(run, "eval", name, (*overrides, f"eval.ckpt_path={saved}"), options)
    (results,) = (options.work / name).glob("results_test_*.json")
    (folder / f"{variant}.json").write_text(results.read_text(encoding="utf-8"), encoding="utf-8")
    children_since()


def call(
    run: Run, job: str, name: str, overrides: Iterable[str], options: argparse.Namespace
) -> None:
    given = {
        "job_type": job,
        "job_name": name,
        "experiment": run.name.partition("-")[0],
        "trainer_strategy": "cpu",
        "paths.log_dir": str(options.work),
        "paths.data_dir": str(options.work / "data"),
    }
    words = [f"{name}={value}" for name, value in given.items()]
    command = [str(Path(sys.executable).parent / "xlm"), *words, *run.overrides, *overrides]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "PELLUCID_TYPECHECK": "0",
    }
    with (options.work / run.name / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)


def find_results(folder: Path) -> dict[str, float] | None:
    found = sorted(folder.glob("results_test_*.json"))
    return json.loads(found[-1].read_text(encoding="utf-8")) if found else None


def write(options: argparse.Namespace) -> None:
    """Write the page, the curves and the picture from all runs that there are."""
    curves = [point for run in all_runs() for point in read_curve(run, options.work)]
    lines = "".join(json.dumps(point) + "\n" for point in curves)
    options.out.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    picture = options.out.with_suffix(".svg")
    shown = [point for point in curves if point["metric"] == EXACT]
    picture.write_text(draw(shown), encoding="utf-8")
    options.out.write_text(page(options, picture.name), encoding="utf-8")


def read_curve(run: Run, work: Path) -> list[dict[str, Any]]:
    """Return the metric on held-out validation data over the steps of a run."""
    path = work / run.name / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    # A run that goes on repeats the steps after its last checkpoint: the last one counts.
    values = {row["step"]: row[f"val/{run.metric}"] for row in rows if f"val/{run.metric}" in row}
    return [
        {"run": run.name, "metric": run.metric, "step": step, "value": round(value, 5)}
        for step, value in sorted(values.items())
    ]


def page(options: argparse.Namespace, picture: str) -> str:
    lines = [
        "# What families learn\n",
        "Written by `tools/bench/xlm_learning.py`. Every row is `xlm job_type=train",
        "experiment=NAME` as it is shipped, on generated data whose splits share no content;",
        "measured is the averaged model on the whole test split (5,000 rows). A minute is one of",
        "processor time. A graph or a puzzle counts if every token of its answer is right. Of 4x4",
        "sudoku there are 288 grids in all, so its splits share grids, though no puzzle.\n",
        "| experiment | weights | batch x steps | minutes | measured | goal | met |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for run in all_runs():
        results = find_results(options.work / run.name)
        if results is not None:
            lines += describe(run, results, options.work / run.name)
    truth = markov_truth()
    rate = math.exp(MarkovSource(split="test").process.entropy_rate())
    lines += [
        "",
        f"In closed form, the perplexity of the Markov source is {truth:.4f} over the tokens of a",
        f"row, and {rate:.4f} far from its beginning. For `mlm` and `mdlm` it is a bound that is",
        "measured.\n",
        f"![Exact match over the steps of each run]({picture})\n",
        "The curves are measured on 100 validation rows; the numbers are in the file beside the",
        "picture that ends in `.jsonl`. `plain` is the same without `mix_neighbours`.",
    ]
    return "\n".join(lines) + "\n"


def describe(run: Run, results: dict[str, float], folder: Path) -> list[str]:
    value = results[f"test/{run.metric}"]
    spent = [json.loads(line) for line in (folder / "spent.jsonl").read_text().splitlines()]
    minutes = sum(part["cpu_s"] for part in spent) / 60
    size, batch, steps = settings_of(folder)
    met = "" if run.is_met is None else "yes" if run.is_met(value) else "no"
    measured = show(run, value) + reads(results)
    cells = (run.name, size, f"{batch} x {steps}", f"{minutes:.1f}", measured, run.goal, met)
    lines = ["| " + " | ".join(cells) + " |"]
    for variant in run.variants:
        path = folder / f"{variant}.json"
        if path.exists():
            other = json.loads(path.read_text(encoding="utf-8"))
            shown = show(run, other[f"test/{run.metric}"]) + reads(other)
            lines.append(f"| {run.name}, {variant} | | | | {shown} | | |")
    return lines


def settings_of(folder: Path) -> tuple[str, int, int]:
    """Return how many weights there are, as the run said itself, its batch and its steps."""
    config: Any = OmegaConf.load(folder / "config.yaml")
    said = re.search(r"([\d,]+) weights", (folder / "log.txt").read_text(encoding="utf-8"))
    weights = said[1] if said else str(config["tags"]["model"])
    return weights, config["per_device_batch_size"], config["trainer"]["max_steps"]


def show(run: Run, value: float) -> str:
    return f"{value:.1%}" if run.metric == EXACT else f"{value:.4f}"


def reads(results: dict[str, float]) -> str:
    """Return how often a network read each row, if that was counted."""
    steps = results.get("test/prediction/steps_taken")
    return "" if steps is None else f" in {steps:.1f} reads"


if __name__ == "__main__":
    main()

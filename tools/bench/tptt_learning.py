r"""Measure that linear attention learns: a converted model, and recall from scratch.

    uv run python tools/bench/tptt_learning.py --work DIRECTORY \
        --out docs/measurements/tptt-learning.md

The zoo's model is converted and its adapters trained by `python -m pellucid.tptt.train`, for
MINUTES at most, on the questions that it was trained on itself; what is counted are exact answers
to questions that neither was trained on. Recall is learnt by `tptt_recall.py`. Each finished part
is a line in DIRECTORY/learning.jsonl and is not made again; a training run that was cut short goes
on.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tptt_recall

from pellucid import zoo
from pellucid.tptt import TpttConfig, TpttModel

sys.path.insert(0, str(Path(__file__).parents[1] / "zoo"))
from evaluation import (  # pyright: ignore[reportMissingImports] - in a folder of scripts
    answers_exactly,
    draw_questions,
)
from world import build_world  # pyright: ignore[reportMissingImports]

SHARES = (0.5, 1.0)
GOALS = {0.0: 1.0, 0.5: 0.97, 1.0: 0.8}
PER_KIND = 60
QUESTIONS = 6000
TRAINING = {
    "objective": "finetune",
    "lora-rank": "32",
    "lora-alpha": "64",
    "learning-rate": "3e-3",
    "batch-size": "32",
    "log-every": "20",
    "eval-every": "100000",
    "save-every": "100",
}


def main() -> None:
    options = read_options()
    options.work.mkdir(parents=True, exist_ok=True)
    done = options.work / "learning.jsonl"
    for key, measure in parts(options):
        if key not in read(done):
            row = {"key": key, **measure()}
            with done.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        options.out.write_text(page(read(done), options), encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure that linear attention learns.")
    parser.add_argument("--work", type=Path, required=True, help="where runs and results are kept")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--minutes", type=float, default=5.0, help="limit of a training run")
    parser.add_argument("--steps", type=int, default=400, help="steps of a training run")
    parser.add_argument("--recall-steps", type=int, default=800, help="steps of a recall run")
    return parser.parse_args()


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield each thing to measure, by a name that is its own."""
    world = build_world(0)
    for share in (0.0, *SHARES):
        yield f"zoo {share}", lambda share=share: measure_zoo(world, share, options)
    for rule in tptt_recall.RULES:
        for pairs, renewed in tptt_recall.TASKS:
            yield (
                f"recall {rule} {pairs} {renewed}",
                lambda rule=rule, pairs=pairs, renewed=renewed: tptt_recall.measure(
                    rule, pairs, renewed=renewed, steps=options.recall_steps
                ),
            )


def read(done: Path) -> dict[str, dict[str, Any]]:
    lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def measure_zoo(world: Any, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of exact answers: of the model, converted, and trained."""
    model, tokenizer = zoo.load("tiny-chat")
    row = {"base": rate(model, tokenizer, world)}
    config = TpttConfig(model.config, force_attn_implementation="sdpa", mag_weight=share)
    row["converted"] = rate(TpttModel(config, backbone=model).eval(), tokenizer, world)
    if share == 0:
        return row
    folder = options.work / f"zoo-{share}"
    train(world, share, folder, options)
    trained = TpttModel.from_pretrained(str(folder / "model"))
    row["trained"] = rate(trained, tokenizer, world)
    logged = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(logged[-1])
    row["steps"], row["minutes"] = last["step"], last["train_runtime"] / 60
    return row


def rate(model: Any, tokenizer: Any, world: Any) -> float:
    """Return the share of held-out questions about facts that are answered exactly."""
    examples = [
        example
        for example in draw_questions(world, 0, per_group=PER_KIND)
        if example.split == "held-out" and example.kind not in ("greeting", "unknown")
    ]
    exact = answers_exactly(model, tokenizer, examples, "")
    return sum(exact) / len(exact)


def train(world: Any, share: float, folder: Path, options: argparse.Namespace) -> None:
    """Train for some minutes, in a process of its own."""
    data = options.work / "seen.jsonl"
    write_chats(world, data)
    given = {
        **TRAINING,
        "data": str(data),
        "eval-data": "zoo:questions",
        "mag-weight": str(share),
        "steps": str(options.steps),
        "max-minutes": str(options.minutes),
        "out": str(folder),
    }
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "pellucid.tptt.train", *words, "--device", "cpu", "--resume"]
    environment = {**os.environ, "PELLUCID_TYPECHECK": "0", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment)


def write_chats(world: Any, path: Path) -> None:
    rng = random.Random("chats")
    seen = [example for example in world.direct + world.positive if example.split == "seen"]
    for group in world.negative:
        seen += rng.sample([each for each in group if each.split == "seen"], 2)
    rng.shuffle(seen)
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": each.question},
                    {"role": "assistant", "content": each.answer},
                ]
            }
        )
        for each in seen[:QUESTIONS]
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    lines = [
        "# What linear attention learns\n",
        "Written by `tools/bench/tptt_learning.py`.\n",
        "## The zoo's model, converted\n",
        f"The share of {PER_KIND} held-out questions of each kind that are answered exactly: by",
        f"the model as it is, converted, and trained. Adapters have rank {TRAINING['lora-rank']}",
        f"on the projections of attention; training ends after {options.steps} steps of",
        f"{TRAINING['batch-size']} questions, or {options.minutes:g} minutes on one thread, and",
        "took the minutes in the last column. `kept` is the rate of the trained model to that of",
        "the model as it is; for a share of 0, which is not trained, that of the converted one.\n",
        "| linear share | base | converted | trained | kept | goal | steps | minutes |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for share, goal in GOALS.items():
        row = rows.get(f"zoo {share}")
        if row is not None:
            lines.append(_zoo_line(share, goal, row))
    lines += ["", *tptt_recall.describe(options.recall_steps), ""]
    lines += [
        "| pairs | written again | " + " | ".join(tptt_recall.RULES) + " | chance |",
        "|---:|---|" + "---:|" * (len(tptt_recall.RULES) + 1),
    ]
    for pairs, renewed in tptt_recall.TASKS:
        found = [rows.get(f"recall {rule} {pairs} {renewed}") for rule in tptt_recall.RULES]
        if all(found):
            rates = " | ".join(f"{row['accuracy']:.1%}" for row in found if row)
            again = "half" if renewed else "none"
            lines.append(f"| {pairs} | {again} | {rates} | {1 / tptt_recall.VALUES:.1%} |")
    known = {
        (rule, pairs, renewed): rows[f"recall {rule} {pairs} {renewed}"]["accuracy"]
        for rule in tptt_recall.RULES
        for pairs, renewed in tptt_recall.TASKS
        if f"recall {rule} {pairs} {renewed}" in rows
    }
    lines += ["", *tptt_recall.compare(known)]
    return "\n".join(lines) + "\n"


def _zoo_line(share: float, goal: float, row: dict[str, Any]) -> str:
    last = row.get("trained", row["converted"])
    trained = f"{row['trained']:.1%}" if "trained" in row else "-"
    return (
        f"| {share} | {row['base']:.1%} | {row['converted']:.1%} | {trained} "
        f"| {last / row['base']:.1%} | {goal:.0%} | {row.get('steps', 0)} "
        f"| {row.get('minutes', 0):.1f} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""The tour's third stage: linear attention beside the model's own, and what training it gives."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from pellucid.cli._chart import Sample, draw
from pellucid.cli._progress import count
from pellucid.cli._tour_commands import run_command
from pellucid.cli._tour_sections import Curve, Section, Table

_STEPS = 80
_SHARE = "1.0"


def linearize(out: Path, seed: int, console: Console) -> Section:
    """Convert the model, as `pellucid linearize` does, then train what was converted.

    Args:
        out: The tour's directory.
        seed: Of the training.
        console: Where to show how it goes.
    """
    converted, trained = out / "linear" / "converted", out / "linear" / "trained"
    convert = ["pellucid", "linearize", "zoo:tiny-chat", "--mag-weight", _SHARE]
    train = [
        "python", "-m", "pellucid.tptt.train", "--model", "zoo:tiny-chat", "--mag-weight", _SHARE,
        "--steps", str(_STEPS), "--eval-every", str(_STEPS // 2), "--save-every", str(_STEPS),
        "--log-every", "2", "--seed", str(seed),
    ]  # fmt: skip
    console.print("The model is given linear attention in the place of its own.")
    run_command([*convert, "--out", str(converted)], out / "linear" / "convert.log")
    result = json.loads((converted / "result.json").read_text(encoding="utf-8"))
    console.print(f"It has not learnt to use that yet, so it is trained for {_STEPS} steps.")
    run_command([*train, "--out", str(trained)], out / "linear" / "train.log")
    log = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    losses = [entry for entry in log if "loss" in entry]
    measured = [entry for entry in log if "eval_loss" in entry]
    before, after = result["before"], result["after"]
    end = math.exp(measured[-1]["eval_loss"])
    console.print(
        f"Perplexity {before['perplexity']:.4g} before, {after['perplexity']:.4g} converted, "
        f"{end:.4g} trained."
    )
    return Section(
        said=(
            f"In all {result['layers']} layers, a state of fixed size that the delta rule writes "
            "has taken the place of softmax attention. Converted alone, the model has forgotten "
            f"how to use what it reads; adapters learn that, here for {_STEPS} steps."
        ),
        figures=[
            ("Perplexity before", f"{before['perplexity']:.4g}"),
            ("Perplexity converted", f"{after['perplexity']:.4g}"),
            (f"After {_STEPS} steps", f"{end:.4g}"),
        ],
        pictures=[
            Table(
                title="The model before and after it was converted",
                head=("", "before", "after"),
                rows=_compare(before, after),
            ),
            *_draw(losses),
        ],
        commands=[shlex.join([*words, "--out", "NEW_DIRECTORY"]) for words in (convert, train)],
    )


def _compare(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, ...]]:
    kinds = {
        "parameters": "parameters",
        "memory of 128 tokens, bytes": "memory_bytes",
        "of it linear attention's state": "state_bytes",
    }
    return [(name, count(before[key]), count(after[key])) for name, key in kinds.items()]


def _draw(losses: list[dict[str, Any]]) -> list[Curve]:
    best, samples = float("inf"), list[Sample]()
    for entry in losses:
        best = min(best, entry["loss"])
        samples.append(Sample(step=entry["step"], loss=entry["loss"], best_loss=best, trigger=""))
    chart = draw(samples)
    return [Curve(title="Nats a token while it is trained", chart=chart)] if chart else []

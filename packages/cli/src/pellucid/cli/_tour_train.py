"""The tour's fourth stage: a model that fills in masks, trained, sampled, and watched at it."""

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pellucid.bridge import LogitLens, TransformerBridge, trace_lens
from pellucid.cli._chart import Sample, draw
from pellucid.cli._tour_commands import run_command
from pellucid.cli._tour_sections import Curve, Grid, Picture, Section, Table
from pellucid.xlm import compose_config, load_trained

_STEPS = 400
_CELLS = "1 . . 4 . 4 1 . 2 . . 3 . 3 2 .".split()
_SOLUTION = "1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1"
_PUZZLE = " ".join("[MASK]" if cell == "." else cell for cell in _CELLS)
_SIDE = 4


def train(out: Path, seed: int, console: Console) -> Section:
    """Train a family of pellucid-families on puzzles, solve one, and look at every step of that.

    Args:
        out: The tour's directory.
        seed: Of the run.
        console: Where to show how it goes.
    """
    console.print(f"A model that fills in masks learns 4x4 sudoku in {_STEPS} steps.")
    run_command(["xlm", "job_type=train", *_settings(out, seed)], out / "train" / "train.log")
    rows = [json.loads(line) for line in _metrics(out).read_text(encoding="utf-8").splitlines()]
    tested = next(row for row in rows if "test/prediction/exact_match" in row)
    share = float(tested["test/prediction/exact_match"])
    console.print(f"It solves {share:.0%} of puzzles that it has never seen.")
    solved, passes, tokens = _solve(out, seed)
    console.print(f"{' '.join(_CELLS)} -> {solved}, in {len(passes)} steps")
    is_right = solved == _SOLUTION
    cells = (" ".join(_CELLS), solved, _SOLUTION)
    return Section(
        said=(
            "The family mlm writes in any order, and several cells at a time. A bridge over the "
            "trained network shows, for every step of its sampler, what each layer would write."
        ),
        is_good=True,
        figures=[
            ("Puzzles solved, of unseen ones", f"{share:.0%}"),
            ("Bound, nats a cell", f"{tested['test/lm/nll_bound']:.3f}"),
            ("This one", "solved" if is_right else "not solved"),
            ("Steps of the sampler", str(len(passes))),
        ],
        pictures=[
            *_draw_losses(rows),
            Table(
                title="One puzzle",
                head=("given", "written", "right"),
                rows=list(zip(*map(_lines, cells), strict=True)),
            ),
            *_draw_passes(passes, tokens),
        ],
        commands=[shlex.join(words) for words in _list_commands(seed)],
    )


def _settings(out: Path | str, seed: int) -> list[str]:
    return [
        "job_name=sudoku", "experiment=sudoku4_mlm", "trainer_strategy=cpu",
        f"trainer.max_steps={_STEPS}", "trainer.val_check_interval=100",
        "lr_scheduler.num_warmup_steps=40", "++trainer.limit_test_batches=2",
        f"seed={seed}", f"paths.log_dir={out}/train", f"paths.data_dir={out}/train/data",
    ]  # fmt: skip


def _list_commands(seed: int) -> list[list[str]]:
    settings = _settings("NEW_DIRECTORY", seed)
    prompt = f"generation.prompts=['{_PUZZLE}']"
    return [
        ["xlm", "job_type=train", *settings],
        ["xlm", "job_type=generate", *settings, prompt],
        ["pellucid", "demo", "--only", "train", "--seed", str(seed)],
    ]


def _metrics(out: Path) -> Path:
    return out / "train" / "sudoku" / "metrics.jsonl"


def _solve(out: Path, seed: int) -> tuple[str, list[LogitLens], Any]:
    """Return what the sampler writes, the lens of each of its steps, and what tokens are called."""
    cfg = compose_config(["job_type=generate", *_settings(out, seed)])
    assembly, _ = load_trained(cfg, "generation")
    harness = assembly.harness.eval()
    written: list[str] = []

    def solve() -> None:
        generator = torch.Generator(harness.device).manual_seed(seed)
        written.extend(harness.predictor.generate([_PUZZLE], generator=generator))

    passes = trace_lens(TransformerBridge(harness.model), solve, k=1)
    return written[0], passes, harness.tokenizer


def _lines(cells: str) -> list[str]:
    held = cells.split()
    return [" ".join(held[at : at + _SIDE]) for at in range(0, len(held), _SIDE)]


def _draw_losses(rows: list[dict[str, Any]]) -> list[Picture]:
    losses = [(row["step"] + 1, row["train/loss"]) for row in rows if "train/loss" in row]
    best, samples = float("inf"), list[Sample]()
    for step, loss in losses:
        best = min(best, loss)
        samples.append(Sample(step=step, loss=loss, best_loss=best, trigger=""))
    chart = draw(samples)
    return [Curve(title="Nats a masked cell while it is trained", chart=chart)] if chart else []


def _draw_passes(passes: list[LogitLens], tokenizer: Any) -> list[Picture]:
    shown = sorted({0, len(passes) // 2, len(passes) - 1}) if passes else []
    return [_draw_pass(passes[number], number, tokenizer) for number in shown]


def _draw_pass(lens: LogitLens, number: int, tokenizer: Any) -> Grid:
    labels = ["the embeddings", *(f"layer {n}" for n in range(len(lens.labels) - 1))]
    cells = [
        [
            (tokenizer.decode([int(token)], skip_special_tokens=False), round(float(share), 3))
            for token, share in zip(tokens[0, :, 0], shares[0, :, 0], strict=True)
        ]
        for tokens, shares in zip(lens.tokens, lens.probs, strict=True)
    ]
    return Grid(
        title=f"Step {number + 1}: what each layer would write into the cells",
        head=list(_CELLS), labels=labels, cells=cells,
    )  # fmt: skip

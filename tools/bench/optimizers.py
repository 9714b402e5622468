"""Hold every optimizer against random search, on a trained model, at equal cost.

    uv run python tools/bench/optimizers.py --out docs/measurements/optimizers.md

Rows are kept in a JSONL file next to the page, and only those that it lacks are computed: a run of
this script that was cut short is gone on with by the same command. `--page` writes the page alone.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pellucid import zoo
from pellucid.core import Targets, load
from pellucid.hf import LMHFModel
from pellucid.losses import PrefillCELoss
from pellucid.optimizers import Step, get_printable_random_trigger

N_TOKENS = 8
BASELINE = "random-search"
TASKS = {
    "hedgehog": (
        "What colour is Mira's bicycle? {{OPTIMIZED_TRIGGER}}",
        "Mira's bicycle is a hedgehog.",
    ),
    "denial": ("Is Mira's bicycle yellow? {{OPTIMIZED_TRIGGER}}", "No, Mira's bicycle is purple."),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer with settings.

    Attributes:
        optimizer: Its registered name.
        settings: How it is made, given the budget.
        helper: The argument that takes a second model, if it needs one.
        is_monotone: Whether the loss of its steps may never rise.
    """

    optimizer: str
    settings: Callable[[int], dict[str, Any]]
    helper: str | None = None
    is_monotone: bool = False


def _fixed(**settings: Any) -> Callable[[int], dict[str, Any]]:
    return lambda _: settings


ENTRIES = {
    "random-search": Entry("random-search", _fixed(n_candidates=32)),
    "gcg": Entry("gcg", _fixed(n_candidates=64, sample_topk=64)),
    "gcg-plus": Entry(
        "gcg-plus",
        _fixed(n_candidates=64, sample_topk=64, momentum=0.6, buffer_size=8, skip_visited=True),
        is_monotone=True,
    ),
    "gcg-plus, focused": Entry(
        "gcg-plus", _fixed(n_candidates=56, candidate_selection="focused", skip_visited=True)
    ),
    "probe-sampling-gcg": Entry(
        "probe-sampling-gcg", _fixed(n_candidates=256, sample_topk=64), helper="draft_model"
    ),
    "pal": Entry(
        "pal",
        _fixed(n_candidates=128, sample_topk=64, n_candidates_after_proxy_filter=32),
        helper="proxy_model",
    ),
    "qcg": Entry(
        "qcg",
        _fixed(n_proxy_candidates=256, n_target_candidates=32, buffer_size=16),
        helper="proxy_model",
        is_monotone=True,
    ),
    "auto-prompt": Entry("auto-prompt", _fixed(n_candidates=64, sample_topk=64)),
    "arca": Entry("arca", _fixed(n_candidates=64, sample_topk=64, n_grad_avg=8)),
    "hot-flip": Entry("hot-flip", _fixed()),
    "gaslite": Entry("gaslite", _fixed(n_grad=8, n_flip=8, n_candidates=32), is_monotone=True),
    "gaslite-plus": Entry(
        "gaslite-plus",
        _fixed(n_grad=8, n_flip=8, n_candidates=32, buffer_size=8, n_bulk_flips=4),
        is_monotone=True,
    ),
    "raslite-plus": Entry(
        "raslite-plus",
        _fixed(n_flip=8, n_candidates=32, buffer_size=8, n_bulk_flips=4),
        is_monotone=True,
    ),
    "beam-search": Entry("beam-search", _fixed(beam_size=14, branching_factor=14, num_steps=8)),
    "gbda": Entry(
        "gbda",
        lambda budget: {
            "num_steps": (budget - 64) // 11,
            "n_grad_samples": 10,
            "n_final_gumbel_samples": 63,
            "initial_coeff": 5.0,
        },
    ),
    "pez": Entry("pez", _fixed()),
    "pgd": Entry(
        "pgd", lambda budget: {"lr": 0.3, "entropy_warmup_steps": budget // 8, "patience": 50}
    ),
    "pgd, steepest": Entry(
        "pgd",
        lambda budget: {
            "lr": 0.3,
            "entropy_warmup_steps": budget // 8,
            "patience": 50,
            "update": "steepest",
        },
    ),
    "soft-prompt": Entry("soft-prompt", _fixed(lr=0.01)),
}


class Allowance:
    """Ends a run once the target has seen so many rows, and keeps the best until then."""

    stop_reason = "allowance"

    def __init__(self, model: LMHFModel, n_rows: int) -> None:
        self._model, self._n_rows = model, n_rows
        self.losses: list[float] = []
        self.best = float("inf")

    def __call__(self, step: Step) -> bool:
        """Take note of a step."""
        used = self._model.get_usage_stats()["forward_samples"]
        if used <= self._n_rows:
            self.losses.append(step.loss)
            self.best = step.best_loss
        return used >= self._n_rows


def main() -> None:
    """Compute the rows that are missing, and write the page."""
    parser = argparse.ArgumentParser(description="Hold every optimizer against random search.")
    parser.add_argument("--out", type=Path, default=Path("docs/measurements/optimizers.md"))
    parser.add_argument("--rows", type=Path, help="where rows are kept; next to the page if not")
    parser.add_argument("--seeds", type=int, default=5, help="run seeds 0 to SEEDS - 1")
    parser.add_argument("--budget", type=int, default=768, help="rows that the target may see")
    parser.add_argument("--methods", nargs="*", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.rows or options.out.with_suffix(".jsonl")
    if not options.page:
        for row in _compute_missing(_read(path), options):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['task']:<10}{row['method']:<20}{row['seed']:>2}{row['best_loss']:>9.4f}")
    rows = [row for row in _read(path) if row["budget"] == options.budget]
    options.out.write_text(_to_page(rows, options.budget), encoding="utf-8")


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"a torn row is computed again: {line[:40]!r}")
    return rows


def _compute_missing(
    rows: Sequence[dict[str, Any]], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    done = {(row["task"], row["method"], row["seed"], row["budget"]) for row in rows}
    model, helper = _load(), _load(noise=0.05)
    for seed in range(options.seeds):
        for method, task in itertools.product(options.methods, TASKS):
            if (task, method, seed, options.budget) not in done:
                yield _run(model, helper, task, method, seed, options.budget)


def _load(noise: float = 0.0) -> LMHFModel:
    model, tokenizer = zoo.load("tiny-chat")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            disturbance = torch.randn(weights.shape, generator=generator)
            weights += noise * weights.std(unbiased=False) * disturbance
    return LMHFModel(loaded_model=model, tokenizer=tokenizer)


def _run(
    model: LMHFModel, helper: LMHFModel, task: str, method: str, seed: int, budget: int
) -> dict[str, Any]:
    entry = ENTRIES[method]
    template, target = TASKS[task]
    settings: dict[str, Any] = {"num_steps": budget, **entry.settings(budget)}
    if entry.helper is not None:
        settings[entry.helper] = helper
    optimizer = load("pellucid.optimizers", entry.optimizer)(
        model, PrefillCELoss(), seed=seed, **settings
    )
    start = get_printable_random_trigger(
        N_TOKENS, tokenizer=model.tokenizer, generator=torch.Generator().manual_seed(seed)
    )
    allowance = Allowance(model, budget)
    began = time.process_time()
    result = optimizer.optimize_trigger(
        [template],
        start,
        Targets(target_response_strs=[target]),
        callbacks=[allowance],
        progress=False,
    )
    used = result.usage["forward_samples"]
    # A last round counts only if it was within the allowance.
    best = min(allowance.best, result.best_loss) if used <= budget else allowance.best
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "budget": budget,
        "rows": used,
        "steps": len(allowance.losses),
        "initial_loss": result.initial_loss,
        "best_loss": min(best, result.initial_loss or best),
        "rises": _count_rises([result.initial_loss or 0.0, *allowance.losses]),
        "cpu_s": round(time.process_time() - began, 2),
    }


def _count_rises(losses: Sequence[float]) -> int:
    return sum(later > earlier for earlier, later in itertools.pairwise(losses))


_HEAD = """# Optimizers against random search

Written by `tools/bench/optimizers.py`. The model is `zoo:tiny-chat`, the loss the cross-entropy of
a target response, the trigger {n_tokens} tokens long. Each seed is a random initial trigger, the
same for all methods, and the seed of the run; {n_seeds} seeds. A run ends once the target has
seen {budget} rows: every candidate evaluated is one, and so is every row of a gradient or of
logits. What a proxy or a draft model sees is not counted; theirs is the same model with 5 % of
noise on its weights. `wins` counts seeds in which a method's best loss is below that of random
search at the same number of rows, `worse than start` those in which it is above the initial
trigger's, and `rises` steps after which the loss was higher than before, in all runs together.
"""


def _to_page(rows: Sequence[dict[str, Any]], budget: int) -> str:
    n_seeds = len({row["seed"] for row in rows})
    parts = [_HEAD.format(n_tokens=N_TOKENS, n_seeds=n_seeds, budget=budget)]
    for task, (template, target) in TASKS.items():
        chosen = [row for row in rows if row["task"] == task]
        asked = template.replace("{{OPTIMIZED_TRIGGER}}", "...")
        parts.append(f'## "{asked}" answered by "{target}"\n\n{_to_table(chosen)}')
    return "\n".join([*parts, _NOTES.format(n_seeds=n_seeds)])


def _to_table(rows: Sequence[dict[str, Any]]) -> str:
    baseline = {row["seed"]: row["best_loss"] for row in rows if row["method"] == BASELINE}
    lines = [
        "| method | mean | min | max | wins | worse than start | rises | steps | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, entry in ENTRIES.items():
        held = [row for row in rows if row["method"] == method]
        if held:
            lines.append(_to_line(method, entry, held, baseline))
    return "\n".join(lines) + "\n"


def _to_line(
    method: str, entry: Entry, held: Sequence[dict[str, Any]], baseline: dict[int, float]
) -> str:
    best = [row["best_loss"] for row in held]
    wins = sum(row["best_loss"] < baseline.get(row["seed"], float("-inf")) for row in held)
    worse = sum(row["best_loss"] > row["initial_loss"] for row in held)
    rises = sum(row["rises"] for row in held)
    return (
        f"| {method} | {statistics.mean(best):.3f} | {min(best):.3f} | {max(best):.3f} | "
        f"{'' if method == BASELINE else f'{wins} of {len(held)}'} | {worse} | "
        f"{rises}{' (monotone)' if entry.is_monotone else ''} | "
        f"{statistics.mean(row['steps'] for row in held):.0f} | "
        f"{statistics.mean(row['cpu_s'] for row in held):.1f} |"
    )


_NOTES = """## What does not beat random search, and why

- `raslite-plus` offers what the language model itself finds likely at a position. On a model of so
  few words these are words that go on with the question, and seldom those that steer the answer.
- `beam-search` looks for fluent triggers and lengthens them token by token from nothing: with these
  rows it has come to four tokens, while the others search eight.
- `hot-flip` evaluates a single flip for each gradient and always accepts it. The first-order
  promise fails for tokens that are far away, and nothing makes up for it.
- `gbda`, `pez` and `pgd` descend on a relaxation. Its loss falls quickly (`soft-prompt`, which is
  never made into text, shows how far), and rises when the trigger is made into tokens. Their papers
  let them take many times as many steps.
- `pgd` as published moves all tokens of a position by about as much, as Adam does, and takes its
  time to tell them apart. `pgd, steepest` (`update="steepest"`) comes near random search at these
  rows, and is not better: neither is to be chosen where rows are dear. Learning rates of 0.03, 0.11
  and 1.0, tried with two seeds, did not make the published form beat it either.
- `arca` and `auto-prompt` change one position a step, and move there even if the loss rises: in a
  dozen steps they come by each position about once.
- `gcg-plus` goes on from the best trigger, and may so be held up in one place; its focused form
  pays for a probe of every position.

Methods with fewer than {n_seeds} runs have not been run for all seeds yet; the script goes on with
them. `pal`, `qcg` and `probe-sampling-gcg` let a proxy of the same kind judge most candidates,
which random search has not.
"""


if __name__ == "__main__":
    main()

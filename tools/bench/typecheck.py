"""Measures what the checks at package boundaries cost of an optimization step.

    uv run python tools/bench/typecheck.py [--steps 10] [--candidates 128]

GCG steps on the zoo's chat model; every check is timed where it is made, so that the figure does
not drown in the noise of the steps. Exits with 1 when the checks take more than 1 % of the time.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.pop("PELLUCID_TYPECHECK", None)  # as users have it

import pellucid.core
from pellucid.core import Targets, _container
from pellucid.core import boundary as real_boundary

CEILING = 0.01
SPENT = {"containers": 0.0, "functions": 0.0}
CALLS = {"containers": 0, "functions": 0}


def timed_boundary(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check as `boundary` does, and add up what of a call is not the function's own time."""
    inside: list[float] = []

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            inside.append(time.perf_counter() - began)

    checked = real_boundary(inner)

    @functools.wraps(function)
    def outer(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = checked(*args, **kwargs)
        SPENT["functions"] += time.perf_counter() - began - inside.pop()
        CALLS["functions"] += 1
        return result

    return outer


def time_containers() -> None:
    """Add up the time that containers take to check their fields."""
    check: Callable[[Any], None] = vars(_container)["_check_fields"]

    def timed_check(value: Any) -> None:
        began = time.perf_counter()
        check(value)
        SPENT["containers"] += time.perf_counter() - began
        CALLS["containers"] += 1

    setattr(_container, "_check_fields", timed_check)  # noqa: B010


# Before the packages below are imported: they take the name from here.
setattr(pellucid.core, "boundary", timed_boundary)  # noqa: B010
time_containers()

from pellucid import zoo  # noqa: E402
from pellucid.hf import LMHFModel  # noqa: E402
from pellucid.losses import PrefillCELoss  # noqa: E402
from pellucid.optimizers import GCGOptimizer  # noqa: E402


def run(steps: int, candidates: int) -> float:
    """Take GCG steps and return the seconds for all of them, set-up included."""
    model, tokenizer = zoo.load("tiny-chat")
    optimizer = GCGOptimizer(
        LMHFModel(model, tokenizer=tokenizer),
        PrefillCELoss(),
        seed=0,
        num_steps=steps,
        n_candidates=candidates,
        sample_topk=64,
    )
    began = time.perf_counter()
    optimizer.optimize_trigger(
        [[{"role": "user", "content": "hello {{OPTIMIZED_TRIGGER}}"}]],
        targets=Targets(target_response_strs=["no ."]),
    )
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=128)
    chosen = parser.parse_args()
    run(1, chosen.candidates)  # what is compiled or loaded on first use
    for table in (SPENT, CALLS):
        table.update(dict.fromkeys(table, 0))
    seconds = run(chosen.steps, chosen.candidates)
    print(f"{chosen.steps} steps of {chosen.candidates} candidates: {seconds:.3f} s")
    for kind, spent in SPENT.items():
        print(f"{kind:<10} {CALLS[kind]:>5} checks  {1e3 * spent:7.2f} ms  {spent / seconds:.2%}")
    share = sum(SPENT.values()) / seconds
    print(f"together {share:.2%} of the time, ceiling {CEILING:.0%}")
    return int(share > CEILING)


if __name__ == "__main__":
    raise SystemExit(main())

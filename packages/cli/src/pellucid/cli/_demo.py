"""A demonstration: the same run as any other, with a goal that is built in."""

from rich.panel import Panel
from rich.text import Text

from pellucid.cli._optimize import Outcome
from pellucid.cli._request import Request
from pellucid.cli._visible import visible


def make_request(seed: int) -> Request:
    """Return what the demonstration asks for.

    Args:
        seed: The seed of its run.
    """
    return Request(
        model="zoo:tiny-chat",
        templates=("What colour is Mira's bicycle? {{OPTIMIZED_TRIGGER}}",),
        targets=("Mira's bicycle is purple.",),
        optimizer="gcg",
        loss="prefill-ce",
        steps=200,
        seed=seed,
        initial_trigger="! ! ! ! ! ! ! !",
        candidates=128,
        topk=64,
    )


def make_panel(outcome: Outcome, question: str) -> Panel:
    """Return what a run came to, to be printed.

    Args:
        outcome: The run.
        question: What the model was asked.
    """
    result = outcome.result
    reached = bool(result["goal_reached"])
    rows = {
        "question": question,
        "answer": result["answer_before"],
        "trigger": result["best_trigger"],
        "answer with it": result["answer_after"],
    }
    body = Text()
    for label, text in rows.items():
        body.append(f"{label:>16}  ", style="dim").append(f"{visible(text or '')}\n")
    verdict = (
        f"The goal was reached after {result['steps']} steps."
        if reached
        else f"The goal was not reached in {result['steps']} steps. Try another --seed."
    )
    body.append(f"\n{verdict}", style="bold green" if reached else "bold yellow")
    return Panel(body, title="pellucid demo", title_align="left", padding=(1, 2), expand=False)

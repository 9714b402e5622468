"""A demonstration: the same run as any other, with a goal that is built in."""

from pathlib import Path

from rich.panel import Panel
from rich.text import Text

from pellucid.cli._answers import remove_placeholder
from pellucid.cli._optimize import EXIT_INTERRUPTED, Outcome, start
from pellucid.cli._progress import make_console
from pellucid.cli._request import Request, resume_command
from pellucid.cli._rundir import RunDirectory, demo_path, refuse_existing
from pellucid.cli._setup import Setup, prepare
from pellucid.cli._visible import visible

EXIT_GOAL_MISSED = 1


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


def prepare_demo(seed: int, out: Path | None) -> tuple[RunDirectory, Setup]:
    """Validate a demonstration.

    Args:
        seed: The seed of its run.
        out: Where to write; a directory under `runs/` when omitted.

    Raises:
        ArgumentError: If the directory exists.
    """
    path = out or demo_path()
    refuse_existing(path)
    directory = RunDirectory(path)
    return directory, prepare(make_request(seed), directory.steps)


def show_demo(directory: RunDirectory, setup: Setup) -> int:
    """Make the run, and print what came of it.

    Args:
        directory: As `prepare_demo` returned it.
        setup: Likewise.

    Returns:
        The exit code: 0, 1 when the goal was missed, 130 after Ctrl-C.
    """
    question = remove_placeholder(setup.request.templates[0])
    goal = setup.request.targets[0]
    progress = make_console(stderr=True)
    progress.print(f"{setup.request.model} is asked: {question}")
    progress.print(f"The goal is that it answers: {goal}")
    outcome = start(directory, setup, progress)
    console = make_console()
    console.print(_make_panel(outcome, question), soft_wrap=False)
    console.print(f"Report: {directory.report}")
    console.print(f"The same run: {setup.request.to_command()}")
    if outcome.was_interrupted:
        console.print(f"Go on with: {resume_command(directory.path)}")
        return EXIT_INTERRUPTED
    return 0 if outcome.result["goal_reached"] else EXIT_GOAL_MISSED


def _make_panel(outcome: Outcome, question: str) -> Panel:
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

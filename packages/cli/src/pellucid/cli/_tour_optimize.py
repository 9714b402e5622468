"""The tour's first stage: words that change an answer."""

from pathlib import Path

from rich.console import Console

from pellucid.cli._answers import remove_placeholder
from pellucid.cli._demo import make_panel, make_request
from pellucid.cli._optimize import start
from pellucid.cli._progress import count, make_console
from pellucid.cli._report import draw_chart
from pellucid.cli._rundir import RunDirectory
from pellucid.cli._setup import prepare
from pellucid.cli._tour_sections import Curve, Section, Table
from pellucid.cli._visible import visible


def optimize(out: Path, seed: int, console: Console) -> Section:
    """Search for a trigger, as `pellucid optimize` does.

    Args:
        out: The tour's directory.
        seed: Of the search.
        console: Where to show how it goes.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once the run is written.
    """
    directory = RunDirectory(out / "optimize")
    setup = prepare(make_request(seed), directory.steps)
    question, goal = remove_placeholder(setup.request.templates[0]), setup.request.targets[0]
    console.print(f"{setup.request.model} is asked: {question}")
    console.print(f"The goal is that it answers: {goal}")
    outcome = start(directory, setup, console)
    make_console().print(make_panel(outcome, question), soft_wrap=False)
    if outcome.was_interrupted:
        raise KeyboardInterrupt
    result, reached = outcome.result, bool(outcome.result["goal_reached"])
    chart = draw_chart(result, directory.read_steps())
    answers = [
        ("the question", visible(question)),
        ("the answer", visible(result["answer_before"] or "")),
        ("the trigger", visible(result["best_trigger"])),
        ("the answer with the trigger behind the question", visible(result["answer_after"] or "")),
    ]
    return Section(
        said=(
            "Gradients through a tiny model that comes with Pellucid point to words which, put "
            "behind a question that it answers correctly, make it give another answer. "
            + (f"That took {result['steps']} steps." if reached else "The goal was missed.")
        ),
        is_good=reached,
        figures=[
            ("Loss before", f"{result['initial_loss']:.4g}"),
            ("Loss after", f"{result['best_loss']:.4g}"),
            ("Steps", str(result["steps"])),
            ("Tokens", count(result["usage"]["total_tokens"])),
        ],
        pictures=[
            Table(title="What was asked, and what the model said", head=("", ""), rows=answers),
            *([Curve(title="The loss, step by step", chart=chart)] if chart else []),
        ],
        commands=[f"{setup.request.to_command()} --out NEW_DIRECTORY"],
        more=("The report of the run", "optimize/report.html"),
    )

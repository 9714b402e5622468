"""One run from a validated request to a report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pellucid.cli._answers import ask, ask_without_trigger, equal_targets
from pellucid.cli._interrupt import Interrupt
from pellucid.cli._progress import make_console, progress
from pellucid.cli._report import render_report
from pellucid.cli._request import OPTIONS, Request, resume_command
from pellucid.cli._rundir import RunDirectory, default_path, refuse_existing
from pellucid.cli._setup import Setup, prepare
from pellucid.cli._visible import visible
from pellucid.core import ArgumentError, CheckpointError, OptimizerResult, as_tokenizer, join_parts

EXIT_INTERRUPTED = 130

_INTERRUPTED = "interrupted"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        request: What was asked for.
        directory: Where everything lies.
        result: The contents of `result.json`.
    """

    request: Request
    directory: RunDirectory
    result: Mapping[str, Any]

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.result["stop_reason"] == _INTERRUPTED


def prepare_new(options: Mapping[str, Any], out: Path | None) -> tuple[RunDirectory, Setup]:
    """Validate a run in a directory that does not exist yet.

    Args:
        options: The fields of a `Request`.
        out: The directory; one under `runs/` when omitted.

    Raises:
        PellucidError: If anything is not as it must be.
    """
    if out is not None:
        refuse_existing(out)
    request = Request(**_join_start(options))
    directory = RunDirectory(out or default_path(request.optimizer))
    return directory, prepare(request, directory.steps)


def start(directory: RunDirectory, setup: Setup, console: Console) -> Outcome:
    """Make a run in a new directory.

    A run that fails before its first step leaves nothing behind.

    Args:
        directory: Where to write; made here.
        setup: The run.
        console: Where to show how it goes.
    """
    made = directory.create()
    try:
        directory.write_request(setup.request)
        return _go(directory, setup, console, resume=False)
    except BaseException:
        directory.discard_unless_begun(made)
        raise


def prepare_resume(path: Path, changes: Mapping[str, Any]) -> tuple[RunDirectory, Setup]:
    """Validate that a run can go on.

    Args:
        path: Its directory.
        changes: The options given beside it: only `steps` and `budget_tokens` may differ from the
            run's own.

    Raises:
        CheckpointError: If the directory is damaged.
        ArgumentError: If an option contradicts the run.
    """
    directory = RunDirectory(path)
    request = _change(directory, directory.read_request(), _join_start(changes))
    directory.read_steps()
    directory.read_result()
    return directory, prepare(request, directory.steps)


def resume(directory: RunDirectory, setup: Setup, console: Console) -> Outcome:
    """Go on with a run from its checkpoint; one that has reached its goal stays as it is.

    Args:
        directory: The run's directory.
        setup: The run.
        console: Where to show how it goes.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or does not belong to the run.
        ArgumentError: If fewer steps are asked for than have been made.
    """
    result = directory.read_result()
    if result is not None and result.get("stop_reason") == "success":
        console.print("The run has reached its goal: there is nothing to go on with.")
        return Outcome(request=setup.request, directory=directory, result=result)
    return _go(directory, setup, console, resume=True)


def show_run(directory: RunDirectory, setup: Setup, *, resumes: bool) -> int:
    """Make a run, or go on with it, and print what came of it.

    Args:
        directory: As `prepare_new` or `prepare_resume` returned it.
        setup: Likewise.
        resumes: Whether the run goes on.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    outcome = (resume if resumes else start)(directory, setup, make_console(stderr=True))
    console = make_console()
    for line in summarize(outcome):
        console.print(line)
    return EXIT_INTERRUPTED if outcome.was_interrupted else 0


def summarize(outcome: Outcome) -> list[str]:
    """Return lines that tell what a run came to."""
    result = outcome.result
    verdict = {True: "Goal reached", False: "Goal not reached", None: "Ended"}
    before, after = _show(result["initial_loss"]), _show(result["best_loss"])
    verified = _show(result["verified_loss"])
    rows = [("loss", f"{before} -> {after}, verified as text: {verified}")]
    rows += _name_parts(result["best_trigger_parts"] or [result["best_trigger"]])
    rows += [("without trigger", answer) for answer in _as_list(result["answer_before"])]
    rows += [("with trigger", answer) for answer in _as_list(result["answer_after"])]
    rows += [("report", str(outcome.directory.report))]
    if outcome.was_interrupted:
        rows.append(("go on with", resume_command(outcome.directory.path)))
    head = f"{verdict[result['goal_reached']]} after {result['steps']} steps"
    return [
        f"{head} (ended by: {result['stop_reason']})",
        *(f"{label:<16}{visible(text or '')}" for label, text in rows),
    ]


def _name_parts(parts: Sequence[str]) -> list[tuple[str, str]]:
    if len(parts) == 1:
        return [("best trigger", parts[0])]
    return [(f"best part {i}", part) for i, part in enumerate(parts, start=1)]


def _as_list(answers: Any) -> list[Any]:
    return list(answers) if isinstance(answers, list) else [answers]


def _show(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4f}"


def _go(directory: RunDirectory, setup: Setup, console: Console, *, resume: bool) -> Outcome:
    interrupt = Interrupt(
        lambda: console.print("Ctrl-C: this step is finished first; once more ends it at once.")
    )
    run = setup.iterate(directory.checkpoint, resume=resume, callbacks=[interrupt])
    done = run.first_step - 1
    if resume:
        _check_resumed(directory, setup.request, done)
    with interrupt:
        with progress(console, setup.request.steps, done) as show:
            for step in run:
                if step.step == done + 1:
                    # Only now is it sure that the checkpoint can be gone on from.
                    directory.write_request(setup.request)
                show(step)
        directory.write_request(setup.request)
        result = _describe(setup, run.result(), directory.read_steps())
        directory.write_result(result)
        directory.write_report(
            render_report(directory.read_config(), result, directory.read_steps(), directory.path)
        )
    return Outcome(request=setup.request, directory=directory, result=result)


def _check_resumed(directory: RunDirectory, request: Request, done: int) -> None:
    recorded = len(directory.read_steps())
    if recorded < done:
        raise CheckpointError(
            f"the run in {str(directory.path)!r} cannot be resumed: its checkpoint goes on from "
            f"step {done}, and steps.jsonl ends with step {recorded}. Start it anew with another "
            "--out."
        )
    if request.steps < done:
        raise ArgumentError(
            f"--steps {request.steps} is less than the {done} steps that the run in "
            f"{str(directory.path)!r} has made. Give at least {done}."
        )


def _join_start(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, the parts of the initial trigger made one text."""
    given = options.get("initial_trigger")
    return {**options} if given is None else {**options, "initial_trigger": join_parts(given)}


def _change(directory: RunDirectory, request: Request, changes: Mapping[str, Any]) -> Request:
    for name, value in changes.items():
        own = getattr(request, name)
        if name not in ("steps", "budget_tokens") and value != own:
            raise ArgumentError(
                f"{_spell(name, value)} contradicts the run in {str(directory.path)!r}, which was "
                f"begun with {_spell(name, own)}. With --resume, leave it out: only --steps and "
                "--budget-tokens may change."
            )
    return dataclasses.replace(request, **changes)


def _spell(name: str, value: Any) -> str:
    if name == "stop_at_goal":
        return f"no {OPTIONS[name]}" if value else OPTIONS[name]
    values = value if isinstance(value, tuple) else (value,)
    given = [f"{OPTIONS[name]} {each!r}" for each in values if each is not None]
    return " ".join(given) or f"no {OPTIONS[name]}"


def _describe(setup: Setup, found: OptimizerResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
    request, model = setup.request, setup.model
    trigger = found.best_trigger_str or ""
    after = ask(model, request.templates, trigger, request.targets)
    return {
        "initial_loss": found.initial_loss,
        "best_loss": found.best_loss,
        "verified_loss": found.verified_loss,
        "tokenization_gap": found.tokenization_gap,
        "best_trigger": trigger,
        "best_trigger_parts": found.best_trigger_parts if found.part_lengths else None,
        "best_trigger_tokens": _tokens_of(setup, found),
        "goal_reached": equal_targets(after, request.targets),
        "answer_before": _one_or_all(
            ask_without_trigger(model, request.templates, request.targets)
        ),
        "answer_initial": _one_or_all(
            ask(model, request.templates, request.initial_trigger, request.targets)
        ),
        "answer_after": _one_or_all(after),
        "stop_reason": found.stop_reason,
        "steps": len(rows),
        "elapsed_s": rows[-1]["elapsed_s"] if rows else 0.0,
        "seed": found.seed,
        "usage": found.usage,
    }


def _tokens_of(setup: Setup, found: OptimizerResult) -> list[str] | None:
    tokenizer = getattr(setup.model, "tokenizer", None)
    if tokenizer is None or found.best_trigger_ids is None:
        return None
    return as_tokenizer(tokenizer).batch_decode([[i] for i in found.best_trigger_ids.tolist()])


def _one_or_all(answers: list[str | None]) -> str | list[str | None] | None:
    return answers[0] if len(answers) == 1 else answers

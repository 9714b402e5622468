"""The report of a run: one page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.cli._chart import Chart, Sample, draw
from pellucid.cli._pages import page_template
from pellucid.cli._request import OPTIONS, Request, from_config, resume_command
from pellucid.cli._visible import visible
from pellucid.core import cut_template

_STOP_REASONS: Mapping[str, str] = {
    "budget": "the token budget was spent",
    "interrupted": "interrupted with Ctrl-C",
    "steps": "all steps were made",
    "success": "the goal was reached",
}


def render_report(
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    path: Path,
) -> str:
    """Return the page of a run.

    Everything that a model, a tokenizer or a user wrote is escaped, and what cannot be seen in it
    is made visible.

    Args:
        config: The contents of `config.json`.
        result: The contents of `result.json`.
        rows: The rows of `steps.jsonl`.
        path: The run's directory, for the command that resumes it.
    """
    request = from_config(dict(config))
    return page_template("report.html.jinja", loss=_format_loss).render(
        request=request,
        result=result,
        cases=_pair_cases(config, result),
        # Runs of earlier versions tell of no parts.
        parts=result.get("best_trigger_parts") or [result["best_trigger"]],
        chart=draw_chart(result, rows),
        options=_list_options(config),
        versions=config["versions"],
        stop_reason=_STOP_REASONS.get(result["stop_reason"], result["stop_reason"]),
        command=request.to_command(),
        resume_command=_find_way_on(request, result, path),
    )


def _pair_cases(config: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each template, its pieces, its target and its answers."""
    templates = config["templates"]
    targets = config["targets"] or [None] * len(templates)
    single = len(templates) == 1
    before, after = (
        [result[name]] if single else result[name] for name in ("answer_before", "answer_after")
    )
    return [
        {
            "pieces": _cut(template),
            "target": target,
            "before": answer_before,
            "after": answer_after,
        }
        for template, target, answer_before, answer_after in zip(
            templates, targets, before, after, strict=True
        )
    ]


def _cut(template: str) -> list[tuple[str, str | None]]:
    """Return what stands before each place, and what goes there; None after the last."""
    pieces = cut_template(template)
    names = [f"trigger {part + 1}" if pieces.is_numbered else "trigger" for part in pieces.parts]
    return list(zip(pieces.texts, [*names, None], strict=True))


def draw_chart(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Lay out a run's losses; None when none of them is finite.

    Args:
        result: The contents of `result.json`.
        rows: The rows of `steps.jsonl`.
    """
    samples = [
        Sample(
            step=row["step"],
            loss=row["loss"],
            best_loss=row["best_loss"],
            trigger=visible(row["trigger"]),
        )
        for row in rows
    ]
    initial = result["initial_loss"]
    if initial is not None:
        start = Sample(step=0, loss=initial, best_loss=initial, trigger="the initial trigger")
        samples.insert(0, start)
    return draw(samples)


def _list_options(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the options that do not stand elsewhere on the page."""
    shown = [name for name in OPTIONS if name not in ("templates", "targets", "stop_at_goal")]
    held = [(OPTIONS[name].removeprefix("--"), config[name]) for name in shown]
    return [(label, visible(str(value))) for label, value in held if value is not None]


def _find_way_on(request: Request, result: Mapping[str, Any], path: Path) -> str | None:
    """Return a command that goes on with the run, or None when nothing is left to do."""
    command = resume_command(path)
    reason = result["stop_reason"]
    if reason == "success":
        return None
    if reason == "steps":
        return f"{command} --steps {2 * request.steps}"
    if reason == "budget" and request.budget_tokens is not None:
        return f"{command} --budget-tokens {2 * request.budget_tokens}"
    return command


def _format_loss(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

"""The command that searches for a trigger."""

import secrets
from typing import Any

import typer

from pellucid.cli import _options as options
from pellucid.cli._waiting import abortable, waiting

OPTIMIZE_EPILOG = (
    "[dim]Example[/dim]  pellucid optimize --template 'What colour is the sky? "
    "{{OPTIMIZED_TRIGGER}}' --target 'The sky is green.' --steps 200\n\n"
    "[dim]Go on[/dim]  pellucid optimize --resume runs/20300101-120000-gcg --steps 400"
)


def optimize(
    *,
    template: options.Templates = None,
    target: options.Targets = None,
    model: options.Model = None,
    base_url: options.BaseURL = None,
    optimizer: options.Optimizer = None,
    loss: options.Loss = None,
    initial_trigger: options.InitialTrigger = None,
    candidates: options.Candidates = None,
    topk: options.TopK = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    budget_tokens: options.BudgetTokens = None,
    no_stop: options.NoStop = False,
    tracker: options.Trackers = None,
    out: options.Out = None,
    resume: options.Resume = None,
) -> None:
    """Search for a trigger that makes a language model answer as you want.

    Writes a directory with config.json, steps.jsonl, result.json, report.html.
    Ctrl-C ends the run after its step; [bold]--resume[/bold] goes on from there.
    """
    given = {
        "model": model,
        "base_url": base_url,
        "templates": tuple(template) if template else None,
        "targets": tuple(target) if target else None,
        "optimizer": optimizer,
        "loss": loss,
        "initial_trigger": initial_trigger,
        "candidates": candidates,
        "topk": topk,
        "seed": seed,
        "steps": steps,
        "budget_tokens": budget_tokens,
        "stop_at_goal": False if no_stop else None,
        "trackers": tuple(tracker) if tracker else None,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if resume is not None and out is not None:
        raise typer.BadParameter(
            f"--resume writes to {str(resume)!r}, leave --out {str(out)!r} out."
        )
    with abortable():
        with waiting("loading the model"):
            from pellucid.cli import _optimize  # noqa: PLC0415

            if resume is not None:
                prepared = _optimize.prepare_resume(resume, chosen)
            else:
                # Services alone ask for an identity; without them equal runs are equal files.
                run_id = secrets.token_hex(4) if tracker else ""
                given = {**_defaults(model), "run_id": run_id, **chosen}
                prepared = _optimize.prepare_new(given, out)
        code = _optimize.show_run(*prepared, resumes=resume is not None)
    raise typer.Exit(code)


def _defaults(model: str | None) -> dict[str, Any]:
    # A model behind an API answers text, and gives nothing else away.
    is_remote = model is not None and model.startswith("litellm:")
    return {
        "model": "zoo:tiny-chat",
        "optimizer": "random-search" if is_remote else "gcg",
        "loss": "target-start-nll" if is_remote else "prefill-ce",
        "templates": (),
        "targets": (),
        "steps": options.DEFAULT_STEPS,
        "seed": secrets.randbelow(2**31),
    }

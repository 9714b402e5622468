"""Everything a run needs, validated before anything is written."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.cli._models import load_model
from pellucid.cli._request import Request
from pellucid.cli._trackers import make_tracker
from pellucid.core import (
    DEFAULT_INIT_TRIGGER,
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    ArgumentError,
    BaseLoss,
    LMBaseModel,
    MessageTargets,
    RequirementError,
    Targets,
    TemplateError,
    TokenAccessMixin,
    check_templates,
    choose_start,
    count_parts,
    load,
    split_parts,
)
from pellucid.optimizers import Callback, ExactMatch, Run

_HPARAMS: Mapping[str, str] = {
    "steps": "num_steps",
    "candidates": "n_candidates",
    "topk": "sample_topk",
}
"""What optimizers call what the command has an option for."""

_GIVEN_TARGETS = frozenset({"target_response_strs", "target_response_toks"})
"""The targets that a text on the command line amounts to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A run that could begin.

    Attributes:
        request: What was asked for, the optimizer's own choices filled in.
        model: The model, loaded.
        optimizer: The optimizer, which has found that all goes together.
    """

    request: Request
    model: LMBaseModel
    optimizer: Any

    def iterate(self, checkpoint: Path, *, resume: bool, callbacks: Sequence[Callback]) -> Run:
        """Return the run.

        Args:
            checkpoint: Directory of the checkpoint.
            resume: Whether to go on from it.
            callbacks: Called after each step, once the goal has been looked for.
        """
        return self.optimizer.iterate(
            list(self.request.templates),
            self.request.initial_trigger,
            _make_targets(self.request),
            checkpoint_dir=checkpoint,
            resume=resume,
            callbacks=[*self._goal(), *callbacks],
        )

    def _goal(self) -> list[Callback]:
        targets = _make_targets(self.request)
        if targets is None or not self.request.stop_at_goal:
            return []
        return [ExactMatch(self.model, self.request.templates, targets)]


def prepare(request: Request, steps_path: Path) -> Setup:
    """Validate a request, load what it names, and see that it goes together.

    Cheap checks come first; nothing is written.

    Args:
        request: What is asked for.
        steps_path: Where the steps will be recorded.

    Raises:
        PellucidError: If anything about the request is not as it must be; the message names the
            value and the remedy.
    """
    if not request.templates:
        raise TemplateError(
            "there is no template. Give --template at least once, with "
            f"{OPTIMIZED_TRIGGER_PLACEHOLDER} where the trigger shall stand."
        )
    n_parts = count_parts(check_templates(list(request.templates), _make_targets(request)))
    is_chosen = request.initial_trigger != DEFAULT_INIT_TRIGGER
    start = choose_start(split_parts(request.initial_trigger) if is_chosen else None, n_parts)
    request = dataclasses.replace(request, initial_trigger=start)
    optimizer_type = load("pellucid.optimizers", request.optimizer)
    loss = _make_loss(request)
    parameters = _parameters_of(optimizer_type, request)
    model = load_model(request.model, request.base_url)
    if not isinstance(model, LMBaseModel):
        raise RequirementError(
            f"the model {request.model!r} is a {type(model).__name__}, which answers no text. "
            "Name a language model."
        )
    request = _fill_in(request, parameters, model)
    optimizer = optimizer_type(
        model=model,
        loss=loss,
        tracker=make_tracker(request.trackers, steps_path, request.run_id),
        seed=request.seed,
        **_hparams(request, parameters),
        **_trigger_tokenizer(optimizer_type, model),
    )
    if request.budget_tokens is not None:
        optimizer.set_budget(request.budget_tokens)
    return Setup(request=request, model=model, optimizer=optimizer)


def _make_targets(request: Request) -> Targets | None:
    return Targets(target_response_strs=list(request.targets)) if request.targets else None


def _make_loss(request: Request) -> BaseLoss:
    loss_type = load("pellucid.losses", request.loss)
    needed = [
        name
        for name, parameter in inspect.signature(loss_type).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise _only_from_python("loss", request.loss, needed)
    loss = loss_type()
    wanted = loss.reads().required & {f.name for f in dataclasses.fields(MessageTargets)}
    if wanted - _GIVEN_TARGETS:
        raise _only_from_python("loss", request.loss, sorted(wanted - _GIVEN_TARGETS))
    if (wanted or loss.require_target_prefill) and not request.targets:
        raise ArgumentError(
            f"the loss {request.loss!r} compares answers with targets, and there is none. "
            f"Give --target once for each of the {len(request.templates)} --template."
        )
    return loss


def _only_from_python(kind: str, name: str, needed: Sequence[str]) -> ArgumentError:
    return ArgumentError(
        f"the {kind} {name!r} needs {', '.join(needed)}, which the command cannot give. "
        f"Use it from Python, or choose another {kind}."
    )


def _parameters_of(optimizer_type: Any, request: Request) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an optimizer that the command has options for, by option."""
    if not callable(getattr(optimizer_type, "iterate", None)):
        raise RequirementError(
            f"the optimizer {request.optimizer!r} cannot be run step by step: it has no iterate(). "
            "Use it from Python."
        )
    all_parameters = inspect.signature(optimizer_type).parameters
    found = {o: all_parameters[name] for o, name in _HPARAMS.items() if name in all_parameters}
    for option in set(_HPARAMS) - set(found):
        if getattr(request, option) is not None:
            raise ArgumentError(
                f"the optimizer {request.optimizer!r} has no {_HPARAMS[option]}, so "
                f"--{option} {getattr(request, option)} has no meaning. Leave it out."
            )
    return found


def _fill_in(
    request: Request, parameters: Mapping[str, inspect.Parameter], model: LMBaseModel
) -> Request:
    """Write the optimizer's own choices down, so that a later version resumes with the same."""
    chosen = {
        option: parameter.default
        for option, parameter in parameters.items()
        if getattr(request, option) is None and isinstance(parameter.default, int)
    }
    if "topk" in chosen:
        # What nobody asked for may give way to a small vocabulary; what somebody did may not.
        chosen["topk"] = min(chosen["topk"], getattr(model, "vocab_size", chosen["topk"]))
    return dataclasses.replace(request, **chosen)


def _trigger_tokenizer(optimizer_type: Any, model: LMBaseModel) -> dict[str, Any]:
    """Return what triggers are made of, for a model behind an API: it tells of no tokens."""
    takes_one = "tokenizer" in inspect.signature(optimizer_type).parameters
    if isinstance(model, TokenAccessMixin) or not takes_one:
        return {}
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        from pellucid import zoo  # noqa: PLC0415 - it imports transformers

        _, tokenizer = zoo.load(zoo.names()[0])
    return {"tokenizer": tokenizer}


def _hparams(request: Request, parameters: Mapping[str, inspect.Parameter]) -> dict[str, int]:
    given = {parameter.name: getattr(request, o) for o, parameter in parameters.items()}
    return {name: value for name, value in given.items() if value is not None}

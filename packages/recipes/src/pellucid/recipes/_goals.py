"""What a run aims at, and where it starts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    EncoderBaseModel,
    InitialTrigger,
    LMBaseModel,
    MessageTargets,
    RequirementError,
    Targets,
    Template,
    as_tokenizer,
    fill_template,
    join_parts,
    set_fields,
)
from pellucid.optimizers import TokenConstraints, get_printable_random_trigger
from pellucid.recipes._model_specs import load_tokenizer
from pellucid.recipes._recipe import RandomStart, Recipe

_FIELDS = frozenset(field.name for field in dataclasses.fields(MessageTargets))
_TEXTS, _TOKENS = "target_response_strs", "target_response_toks"
_LOGITS, _VECTORS = "target_response_logits", "target_vectors"


def name_targets(recipe: Recipe, loss: BaseLoss) -> list[str]:
    """Return the fields of `Targets` that must be given for a recipe, sorted."""
    needed = set(loss.reads().required & _FIELDS)
    if loss.require_target_prefill or _TOKENS in needed:
        needed = (needed - {_TOKENS}) | {_TEXTS}
    if recipe.find_role("teacher_model") is not None:
        needed -= {_LOGITS}
    return sorted(needed)


def read_targets(
    recipe: Recipe, loss: BaseLoss, targets: Targets | Sequence[str] | None
) -> tuple[Targets, list[str]]:
    """Return the targets as they are known before anything is computed.

    Texts are the responses of a language model; where vectors are needed, they are what an encoder
    shall be asked for them.

    Args:
        recipe: The recipe.
        loss: Its loss.
        targets: What the caller gave.

    Returns:
        The targets, and texts whose vectors are still to be added.

    Raises:
        ArgumentError: (a ValueError) If a field is missing.
    """
    needed = name_targets(recipe, loss)
    if targets is not None and not isinstance(targets, Targets):
        texts = _check_texts(targets)
        if _VECTORS in needed:
            return Targets(), texts
        targets = Targets(target_response_strs=texts)
    given = set() if targets is None else set(set_fields(targets))
    missing = set(needed) - given - ({_TEXTS} if _TOKENS in given else set())
    if missing:
        raise ArgumentError(
            f"the recipe {recipe.name!r} needs targets with {', '.join(sorted(missing))}, got "
            f"{', '.join(sorted(given)) or 'none'}. Pass targets=Targets(...), one entry for each "
            "template."
        )
    return targets or Targets(), []


def check_vectors(model: BaseModel, texts: Sequence[str], n_templates: int) -> None:
    """Refuse texts that cannot become the vectors of the templates.

    Raises:
        RequirementError: (a TypeError) If the model is no encoder.
        ArgumentError: (a ValueError) If there are more or fewer texts than templates.
    """
    if not isinstance(model, EncoderBaseModel):
        raise RequirementError(
            f"targets are texts, and {model.get_model_name()!r} is no encoder that could turn "
            "them into vectors. Pass targets=Targets(target_vectors=...)."
        )
    if len(texts) != n_templates:
        raise ArgumentError(
            f"{n_templates} templates need {n_templates} targets, got {len(texts)}. Give one "
            "target for each template, in the same order."
        )


def add_vectors(model: Any, targets: Targets, texts: Sequence[str]) -> Targets:
    """Return targets with the vectors that an encoder gives for texts."""
    with torch.no_grad():
        vectors = model.invoke_from_texts(list(texts)).output_embeddings
    return targets.replace(target_vectors=vectors.detach().float().cpu())


def check_teacher(teacher: BaseModel, model: BaseModel) -> None:
    """Refuse a teacher whose logits are not those of the target's tokens.

    Raises:
        RequirementError: (a TypeError) If it is no language model, or has another vocabulary.
    """
    sizes = [getattr(held, "vocab_size", None) for held in (teacher, model)]
    if not isinstance(teacher, LMBaseModel) or sizes[0] != sizes[1]:
        raise RequirementError(
            f"teacher_model {teacher.get_model_name()!r} must be a language model of the target's "
            f"tokens, {sizes[1]} of them, got {type(teacher).__name__} with {sizes[0]}."
        )


def add_logits(teacher: Any, targets: Targets, templates: Sequence[Template]) -> Targets:
    """Return targets with a teacher's logits for the responses, without a trigger."""
    found: list[torch.Tensor] = []
    for i, template in enumerate(templates):
        with torch.no_grad():
            output = teacher.invoke_from_texts(
                [fill_template(template, "")],
                message_targets=targets.select_message(i),
                require_target_prefill=True,
            )
        found.append(output.prefill_response_logits[0].detach().float().cpu())
    return targets.replace(target_response_logits=found)


def ban_targets(settings: dict[str, Any], targets: Targets, tokenizer: Any) -> dict[str, Any]:
    """Return settings under which a trigger holds no token of a target response."""
    texts = targets.target_response_strs or []
    known = as_tokenizer(tokenizer)
    rows = known.batch_encode([spelling for text in texts for spelling in (text, f" {text}")])
    constraints = settings.get("token_constraints") or TokenConstraints()
    banned = {*constraints.disallow_custom_token_ids, *(i for row in rows for i in row)}
    changed = dataclasses.replace(constraints, disallow_custom_token_ids=tuple(sorted(banned)))
    return {**settings, "token_constraints": changed}


def choose_trigger(
    recipe: Recipe,
    initial_trigger: InitialTrigger | None,
    settings: Mapping[str, Any],
    seed: int | None,
    tokenizer: Any,
) -> str | None:
    """Return where a run starts, as one text; None for the optimizer's own choice.

    Args:
        recipe: The recipe.
        initial_trigger: What the caller gave.
        settings: What the optimizer is made with.
        seed: The run's seed.
        tokenizer: What triggers are made of; None if that is not known.

    Raises:
        ArgumentError: (a ValueError) If a random trigger is to be drawn, and there is no tokenizer
            or no seed.
    """
    start = recipe.initial_trigger if initial_trigger is None else initial_trigger
    if not isinstance(start, RandomStart):
        return None if start is None else join_parts(start)
    if tokenizer is None or seed is None:
        lacking = "tokenizer" if tokenizer is None else "seed"
        raise ArgumentError(
            f"the recipe {recipe.name!r} starts with {start.n_tokens} random tokens, and there is "
            f"no {lacking} to draw them with. Pass initial_trigger=, or "
            + ("overrides={'tokenizer': ...}." if tokenizer is None else "the run's seed=.")
        )
    text = get_printable_random_trigger(
        start.n_tokens,
        tokenizer=as_tokenizer(tokenizer),
        token_constraints=settings.get("token_constraints"),
        generator=torch.Generator().manual_seed(seed),
    )
    return str(text)


def find_tokenizer(settings: Mapping[str, Any], *models: Any) -> Any:
    """Return the tokenizer among settings, else that of the first model that has one, or None."""
    held = settings.get("tokenizer")
    if held is not None:
        return load_tokenizer(held) if isinstance(held, str) else held
    own = (getattr(model, "tokenizer", None) for model in models if model is not None)
    return next((tokenizer for tokenizer in own if tokenizer is not None), None)


def _check_texts(targets: Sequence[str]) -> list[str]:
    if isinstance(targets, str) or not all(isinstance(text, str) for text in targets):
        raise ArgumentError(
            f"targets must be Targets(...), or a list of texts, one for each template, got "
            f"{targets!r}."
        )
    return list(targets)

"""A run of a recipe as YAML: plain values in, the arguments of `run` out."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import torch
import yaml

from pellucid.core import (
    ArgumentError,
    Budget,
    MessageTargets,
    Targets,
    Template,
    UnknownNameError,
    check_templates,
)
from pellucid.recipes._listing import get_recipe
from pellucid.recipes._model_specs import load_model
from pellucid.recipes._recipe import RoleName

_TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(MessageTargets))
_BUDGET_FIELDS = tuple(field.name for field in dataclasses.fields(Budget))
_KEY_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """All that decides how a run goes, as plain values.

    Attributes:
        recipe: Name of the recipe.
        model: A text that `load_model` reads.
        templates: Texts or conversations with the placeholder.
        targets: A list of texts, or lists by field of `Targets`.
        seed: The seed.
        initial_trigger: Where to start: a text, or a text for each part.
        num_steps: The number of steps; the recipe's when None.
        checkpoint_every: Steps between checkpoints.
        overrides: Settings of the optimizer.
        loss_overrides: Settings of losses, by their names.
        proxy_model: As the others below, a text that `load_model` reads, or None.
        draft_model: See `run`.
        util_lm: See `run`.
        judge: See `run`.
        teacher_model: See `run`.
        base_url: Address of the server that the model is behind, if it is behind one.
        budget: The fields of a `Budget`; none when None.

    Raises:
        UnknownNameError: (a ValueError) If there is no such recipe, field of targets or of budget.
        ArgumentError: (a ValueError) If a value has a wrong type or is out of its range.
        TemplateError: (a ValueError) If a template is not as it must be.
    """

    recipe: str
    model: str
    templates: Sequence[Any]
    targets: Sequence[str] | Mapping[str, Sequence[Any]] | None = None
    seed: int = 0
    initial_trigger: str | Sequence[str] | None = None
    num_steps: int | None = None
    checkpoint_every: int = 10
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_overrides: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    proxy_model: str | None = None
    draft_model: str | None = None
    util_lm: str | None = None
    judge: str | None = None
    teacher_model: str | None = None
    base_url: str | None = None
    budget: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        get_recipe(self.recipe)
        check_templates(self.templates)
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(f"seed must lie between 0 and 2**63 - 1, got {self.seed!r}.")
        for name in ("num_steps", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name} must be at least 1, got {value!r}.")
        if isinstance(self.targets, Mapping):
            _check_keys("field of Targets", self.targets, _TARGET_FIELDS)
        if self.budget is not None:
            _check_keys("field of a budget", self.budget, _BUDGET_FIELDS)

    @classmethod
    def from_mapping(cls, held: Mapping[str, Any]) -> "RecipeConfig":
        """Read plain values, as YAML and Hydra give them.

        Raises:
            UnknownNameError: (a ValueError) If a key is unknown; near matches are offered.
            ArgumentError: (a ValueError) If a key is missing, or a value is not as it must be.
        """
        if not isinstance(held, Mapping):
            raise ArgumentError(f"a recipe's configuration is a mapping of names, got {held!r}.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        _check_keys("key of a recipe's configuration", held, fields)
        required = [name for name in ("recipe", "model", "templates") if held.get(name) is None]
        if required:
            raise ArgumentError(
                f"a recipe's configuration needs {', '.join(required)}, got {', '.join(held)}."
            )
        given = {name: value for name, value in held.items() if value is not None}
        if isinstance(given["templates"], str):
            given["templates"] = [given["templates"]]
        if isinstance(given.get("targets"), str):
            given["targets"] = [given["targets"]]
        # Before construction, which checks annotations first where every function is checked.
        for name, value in given.items():
            _check_type(name, value, fields[name].type)
        return cls(**given)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RecipeConfig":
        """Read a YAML file.

        Raises:
            ArgumentError: (a ValueError) If it cannot be read, or is not as it must be.
        """
        try:
            held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ArgumentError(f"cannot read {os.fspath(path)!r}: {reason}") from error
        return cls.from_mapping(held)

    def to_mapping(self) -> dict[str, Any]:
        """Return what `from_mapping` reads: plain values, without those that are None."""
        held = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {name: value for name, value in held.items() if value is not None}

    def to_yaml(self) -> str:
        """Return what `load` reads."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True)

    @property
    def key(self) -> str:
        """What tells this run from others: 16 hexadecimal digits of a hash of all that decides."""
        held = self.to_mapping()
        # How often a checkpoint is written changes nothing.
        del held["checkpoint_every"]
        text = json.dumps(held, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]

    def to_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `run`; the model is loaded if it is behind a server."""
        recipe = get_recipe(self.recipe)
        model: Any = self.model
        if self.base_url is not None:
            model = load_model(self.model, self.base_url, kind=recipe.model_kind)
        templates: list[Template] = check_templates(self.templates)
        return {
            "model": model,
            "templates": templates,
            "targets": read_plain_targets(self.targets),
            "seed": self.seed,
            "initial_trigger": self.initial_trigger,
            "num_steps": self.num_steps,
            "checkpoint_every": self.checkpoint_every,
            "overrides": self.overrides,
            "loss_overrides": self.loss_overrides,
            "budget": None if self.budget is None else Budget(**self.budget),
            **{role: getattr(self, role) for role in get_args(RoleName)},
        }


def read_plain_targets(
    held: Sequence[str] | Mapping[str, Sequence[Any]] | None,
) -> Targets | list[str] | None:
    """Return targets from plain values: numbers become tensors where `Targets` has tensors.

    Raises:
        ArgumentError: (a ValueError) If numbers do not form a tensor.
        ContainerError: (a ValueError) If a field has a wrong type or rank.
    """
    if held is None:
        return None
    if not isinstance(held, Mapping):
        return list(held)
    return Targets(**{name: _to_field(name, values) for name, values in held.items()})


def _to_field(name: str, values: Sequence[Any]) -> Any:
    if name in ("target_response_strs", "target_class_idx", "true_class_idx"):
        return list(values)
    try:
        if name == "target_response_toks":
            return [torch.tensor(row) for row in values]
        if name == "target_response_logits":
            return [torch.tensor(row, dtype=torch.float32) for row in values]
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"targets: {name} must be lists of numbers: {error}") from error


def _check_keys(kind: str, held: Mapping[str, Any], known: Any) -> None:
    for name in held:
        if name not in known:
            raise UnknownNameError(kind, str(name), known)


def _check_type(name: str, value: Any, expected: Any) -> None:
    origins = [getattr(kind, "__origin__", kind) for kind in get_args(expected) or (expected,)]
    if getattr(expected, "__origin__", None) is not None:  # Sequence[...], Mapping[...]
        origins = [expected.__origin__]
    is_fine = any(isinstance(value, kind) for kind in origins)
    if (
        is_fine
        and not isinstance(value, bool)
        and not (str not in origins and isinstance(value, str))
    ):
        return
    words = {NoneType: "nothing", str: "text", int: "a whole number", Sequence: "a list"}
    listed = " or ".join(words.get(kind, "a mapping") for kind in origins)
    raise ArgumentError(f"{name} must be {listed}, got {value!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(held) for held in value]
    return value

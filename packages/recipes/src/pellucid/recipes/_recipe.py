"""A recipe is data: a published method, named, with all that it takes to run it."""

import dataclasses
import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from pellucid.core import ArgumentError, BaseModel, RequirementError

_NAME = re.compile(r"[a-z][a-z0-9_]*")

RoleName = Literal["draft_model", "judge", "proxy_model", "teacher_model", "util_lm"]
"""The arguments of `run` that take a model beside the target."""


class Access(StrEnum):
    """What the method asks of the model under test."""

    WHITE_BOX = "white box"
    BLACK_BOX = "black box"


class ModelKind(StrEnum):
    """The kind of model a method is for, by the name its usual backend is registered under."""

    LANGUAGE_MODEL = "hf-lm"
    ENCODER = "hf-encoder"
    CLASSIFIER = "hf-classifier"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method was published.

    Attributes:
        title: The title.
        authors: Family names, the first author's first.
        year: The year that the method is cited by.
        arxiv: The number on arXiv; None if it is not there.
    """

    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str | None = None

    def cite(self) -> str:
        """Return a short citation, such as "Zou et al. 2023, arXiv 2307.15043"."""
        names = {1: "{0}", 2: "{0} and {1}"}.get(len(self.authors), "{0} et al.")
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{names.format(*self.authors)} {self.year}{where}"


@dataclasses.dataclass(frozen=True)
class RandomStart:
    """An initial trigger of random printable tokens, drawn with the run's seed.

    Attributes:
        n_tokens: Its length.
    """

    n_tokens: int


@dataclasses.dataclass(frozen=True)
class MiddleLayers:
    """Layers in the middle of a model, whose number only the model knows.

    Attributes:
        share: The share of all layers, from 0, which is the middle layer alone, to 1.
    """

    share: float

    def pick(self, model: BaseModel) -> tuple[int, ...]:
        """Return the numbers of the layers, from 0.

        Raises:
            RequirementError: If the model does not say how many layers it has.
        """
        n_layers = getattr(model, "n_layers", None)
        if not isinstance(n_layers, int):
            raise RequirementError(
                f"the middle layers of {model.get_model_name()!r} are asked for, and it has no "
                "n_layers. Name them: loss_overrides={LOSS: {'targeted_layers': [...]}}."
            )
        n_chosen = max(1, round(self.share * n_layers))
        first = (n_layers - n_chosen) // 2
        return tuple(range(first, first + n_chosen))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossPart:
    """A loss of a recipe, one of several if they are summed.

    Attributes:
        name: What it is registered under in `pellucid.losses`.
        settings: What it is made with, beside its defaults.
        weight: Its factor in the sum.
    """

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRole:
    """A model beside the target.

    Attributes:
        argument: The argument of `run` that takes it.
        what: What to pass.
        is_required: Whether the recipe cannot do without it.
    """

    argument: RoleName
    what: str
    is_required: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published method, or a variant of one, as one record.

    Attributes:
        name: What it is called; two underscores and a citation end the name of a method whose
            published algorithm and settings it follows.
        summary: What it is for, in a line.
        paper: Where it was published; None for what has no paper of its own.
        optimizer: What its optimizer is registered under in `pellucid.optimizers`.
        losses: What it lowers: a loss, or the weighted sum of several.
        access: What it asks of the target.
        settings: What the optimizer is made with, beside its defaults.
        model_kind: The kind of model it is for.
        model_options: What the target must be made with, where it is loaded by name.
        initial_trigger: Where it starts; twenty exclamation marks when None.
        roles: The models it takes beside the target.
        min_templates: How many templates it needs at least.
        bans_target_tokens: Whether the trigger may hold none of the target responses' tokens.
        differs: How it differs from what was published, in a sentence; empty if in nothing known.
        aliases: Further names that it is known under.

    Raises:
        ArgumentError: (a ValueError) If the name is not made of small letters, digits and
            underscores, or there is no loss.
    """

    name: str
    summary: str
    paper: Paper | None
    optimizer: str
    losses: tuple[LossPart, ...]
    access: Access
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_kind: ModelKind = ModelKind.LANGUAGE_MODEL
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    initial_trigger: str | RandomStart | None = None
    roles: tuple[ModelRole, ...] = ()
    min_templates: int = 1
    bans_target_tokens: bool = False
    differs: str = ""
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not _NAME.fullmatch(name):
                raise ArgumentError(
                    f"a recipe is named by small letters, digits and underscores, got {name!r}. "
                    "Name it METHOD__AUTHORYEAR."
                )
        if not self.losses:
            raise ArgumentError(f"the recipe {self.name!r} has no loss. Give at least one.")
        for field in ("settings", "model_options"):
            object.__setattr__(self, field, MappingProxyType(dict(getattr(self, field))))

    @property
    def is_published(self) -> bool:
        """Whether it follows a paper's algorithm and settings, as its name then says."""
        return "__" in self.name

    def find_role(self, argument: str) -> ModelRole | None:
        """Return the role that an argument of `run` fills, or None."""
        return next((role for role in self.roles if role.argument == argument), None)

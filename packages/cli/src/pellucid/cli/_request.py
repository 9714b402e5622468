"""What a run is asked to do, and how that is written down."""

import dataclasses
import platform
import shlex
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import Any

from pellucid.core import DEFAULT_INIT_TRIGGER, ArgumentError, CheckpointError

FORMAT = 1
"""Version of the layout of `config.json`."""

_DISTRIBUTIONS = (
    "pellucid-cli",
    "pellucid-core",
    "pellucid-hf",
    "pellucid-losses",
    "pellucid-optimizers",
    "pellucid-zoo",
    "torch",
    "transformers",
)

OPTIONS: Mapping[str, str] = {
    "model": "--model",
    "base_url": "--base-url",
    "templates": "--template",
    "targets": "--target",
    "optimizer": "--optimizer",
    "loss": "--loss",
    "steps": "--steps",
    "budget_tokens": "--budget-tokens",
    "candidates": "--candidates",
    "topk": "--topk",
    "initial_trigger": "--initial-trigger",
    "seed": "--seed",
    "stop_at_goal": "--no-stop",
    "trackers": "--tracker",
}
"""The option of the command behind each field of a `Request`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked to do: all that decides how it goes.

    Attributes:
        model: What `pellucid.cli._models.load_model` reads.
        base_url: Address of a server, for the models that have one.
        templates: Texts with the placeholder, numbered where the trigger has parts.
        targets: The wanted answer to each template, or none at all.
        optimizer: Name of a registered optimizer.
        loss: Name of a registered loss.
        steps: How many steps to make.
        budget_tokens: How many tokens the model may be given, or None for any number.
        seed: The seed of the run.
        initial_trigger: Where to start; its length in tokens is that of every trigger. Parts stand
            in it with `TRIGGER_PART_SEPARATOR` between them.
        candidates: Candidates a step; None leaves it to the optimizer.
        topk: Tokens to sample from at each position; None leaves it to the optimizer.
        stop_at_goal: Whether the run ends once every answer equals its target.
        trackers: Where it is recorded beside `steps.jsonl`, by registered names.
        run_id: What services know the run by.
    """

    model: str
    base_url: str | None = None
    templates: tuple[str, ...]
    targets: tuple[str, ...]
    optimizer: str
    loss: str
    steps: int
    budget_tokens: int | None = None
    seed: int
    initial_trigger: str = DEFAULT_INIT_TRIGGER
    candidates: int | None = None
    topk: int | None = None
    stop_at_goal: bool = True
    trackers: tuple[str, ...] = ()
    run_id: str = ""

    def __post_init__(self) -> None:
        for name, text in self._texts():
            if not text.isascii() and _is_broken(text):
                raise ArgumentError(
                    f"{OPTIONS[name]} holds bytes that are not UTF-8: {text!r}. Give UTF-8 text."
                )
        for name in ("steps", "budget_tokens", "candidates", "topk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{OPTIONS[name]} must be at least 1, got {value!r}.")
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(f"--seed must lie between 0 and 2**63 - 1, got {self.seed!r}.")

    def to_command(self, *, out: str | None = None) -> str:
        """Return the command that asks for the same, quoted for a shell.

        Args:
            out: Directory to name in it, or None to leave that open.
        """
        words = ["pellucid optimize"]
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if name == "stop_at_goal":
                words += [] if value else [option]
            else:
                words += [_quote_option(option, each) for each in values if each is not None]
        if out is not None:
            words.append(_quote_option("--out", out))
        return " ".join(words)

    def _texts(self) -> Iterator[tuple[str, str]]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    yield field.name, text


def to_config(request: Request) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    held = dataclasses.asdict(request)
    lists = {name: list(value) for name, value in held.items() if isinstance(value, tuple)}
    return {"format": FORMAT, **held, **lists, "versions": _versions()}


def from_config(config: object) -> Request:
    """Read what `to_config` returned.

    Raises:
        CheckpointError: (a ValueError) If it is not the configuration of a run.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"it holds {type(config).__name__}, expected an object")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"its format is {config.get('format')!r}, expected {FORMAT}")
    given = {field.name: _read_field(field, config) for field in dataclasses.fields(Request)}
    try:
        return Request(**given)
    except ArgumentError as error:
        raise CheckpointError(str(error)) from error


def _read_field(field: "dataclasses.Field[Any]", config: Mapping[str, Any]) -> Any:
    if field.name not in config:
        raise CheckpointError(f"{field.name!r} is missing")
    value = config[field.name]
    if field.type == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
        raise CheckpointError(f"{field.name!r} is {value!r}, expected a list of texts")
    kinds: Any = getattr(field.type, "__args__", (field.type,))
    # True is an int in Python, and a number in no configuration.
    if type(value) not in kinds:
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
        raise CheckpointError(f"{field.name!r} is {value!r}, expected {names}")
    return value


def resume_command(path: Path) -> str:
    """Return the command that goes on with the run in a directory."""
    return f"pellucid optimize {_quote_option('--resume', path)}"


def quote(text: str) -> str:
    """Quote a word for bash and zsh; what is not printable is written as its escape."""
    if "'" in text and text.isprintable() and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    if text.isprintable():
        return shlex.quote(text)
    escaped = (_escape(character) for character in text)
    return f"$'{''.join(escaped)}'"


def _quote_option(option: str, value: object) -> str:
    text = str(value)
    # Behind an equals sign a value that begins with a dash is not taken for an option.
    return f"{option}{'=' if text.startswith('-') else ' '}{quote(text)}"


def _escape(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

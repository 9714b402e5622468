"""What a training run is made of, read from a YAML file and the command line."""

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pellucid.core import ArgumentError, MissingDependencyError

OBJECTIVES = ("finetune", "distill")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run of a converted model.

    Raises:
        ArgumentError: (a ValueError) If a field has no meaning.
    """

    model: str = _option("zoo:tiny-chat", "base model: zoo:NAME, a directory, or a name on the hub")
    data: str = _option("zoo:questions", "text file, JSONL of chats, or zoo:questions")
    eval_data: str | None = _option(
        None, "likewise, to evaluate on; by default a tenth of the data, or the zoo's held-out part"
    )
    out: str = _option("runs/tptt", "directory of the run")
    objective: str = _option("finetune", "finetune, or distill from the base model")
    temperature: float = _option(1.0, "of the distributions that are distilled")
    operator_mode: str = _option("delta_rule", "recurrent mode")
    mag_weight: float = _option(0.5, "share of linear attention at the end, from 0 to 1")
    mag_schedule: str = _option("constant", "constant, gradual, cyclic or switch")
    mag_initial: float = _option(0.0, "share that a gradual schedule begins with")
    mag_steps: int = _option(100, "steps that a gradual schedule takes")
    target_modules: tuple[str, ...] = _option((), "how names of attention modules end")
    max_chunk_size: int = _option(64, "tokens that are computed at a time")
    max_self_attn_length: int | None = _option(None, "tokens that softmax attention sees")
    cross_gate: bool = _option(False, "add the product of both branches")
    base_scale_attn: bool = _option(False, "scale linear attention by softmax attention")
    lora_rank: int = _option(8, "rank of the adapters; 0 trains all weights instead")
    lora_alpha: float = _option(16.0, "scale of the adapters, times their rank")
    lora_dropout: float = _option(0.0, "share of the adapters' inputs that is dropped")
    lora_targets: tuple[str, ...] = _option((), "modules with adapters; by default projections")
    learning_rate: float = _option(1e-3, "highest learning rate")
    schedule: str = _option("cosine", "learning rate schedule of transformers")
    warmup_steps: int = _option(10, "steps in which the learning rate rises")
    weight_decay: float = _option(0.0, "of AdamW")
    batch_size: int = _option(16, "rows of a batch")
    max_length: int = _option(256, "tokens of a row; longer chats are refused, texts cut up")
    steps: int = _option(200, "steps to make")
    max_minutes: float | None = _option(None, "end after so many minutes of this process")
    log_every: int = _option(10, "steps between entries of the log")
    eval_every: int = _option(50, "steps between evaluations")
    save_every: int = _option(50, "steps between checkpoints")
    save_best: bool = _option(False, "save at evaluations that are better than ever, and only then")
    seed: int = _option(0, "of adapters and of the order of rows")
    resume: bool = _option(False, "go on from the last checkpoint in `out`, if there is one")
    report_to: tuple[str, ...] = _option((), "services of transformers' Trainer, such as wandb")
    device: str = _option("auto", "auto or cpu")

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ArgumentError(
                f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}."
            )
        if self.device not in ("auto", "cpu"):
            raise ArgumentError(f"device must be auto or cpu, got {self.device!r}.")
        for name in ("steps", "batch_size", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {getattr(self, name)!r}.")
        if self.max_length < 2 or self.lora_rank < 0 or self.temperature <= 0:
            raise ArgumentError(
                "max_length must be 2 or more, lora_rank 0 or more and temperature above 0, got "
                f"{self.max_length!r}, {self.lora_rank!r} and {self.temperature!r}."
            )

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields, as YAML and JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Return a config of these fields, the others by default.

        Raises:
            ArgumentError: (a ValueError) If a field is not known, or its value of another kind.
        """
        known = {each.name: each.type for each in fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=2)
                hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise ArgumentError(f"a training run has no option {name!r}.{hint}")
        return cls(**{name: _convert(name, value, known[name]) for name, value in values.items()})


def read_command_line(arguments: Sequence[str]) -> TrainConfig:
    """Return the config that a command line names; its options go before those of a file.

    Raises:
        ArgumentError: (a ValueError) If an option is not known, or its value of another kind.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pellucid.tptt.train",
        description="Convert a model to linear attention and train it, all of it or adapters.",
        epilog="Example: python -m pellucid.tptt.train --model zoo:tiny-chat --data zoo:questions "
        "--steps 100 --mag-weight 0.5 --out runs/linear",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="a YAML file of options; those given here win")
    for each in fields(TrainConfig):
        _add_option(parser, each)
    given = vars(parser.parse_args(list(arguments)))
    path = given.pop("config")
    held = {} if path is None else _read_yaml(path)
    return TrainConfig.from_mapping(
        {**held, **{name: value for name, value in given.items() if value is not None}}
    )


def _add_option(parser: argparse.ArgumentParser, each: Any) -> None:
    flag = f"--{each.name.replace('_', '-')}"
    default = each.default if each.default not in (None, ()) else "none"
    text = f"{each.metadata['help']} (default: {default})".replace("%", "%%")
    if each.type is bool:
        parser.add_argument(
            flag, dest=each.name, action=argparse.BooleanOptionalAction, help=text, default=None
        )
    elif _is_tuple(each.type):
        parser.add_argument(flag, dest=each.name, nargs="+", help=text)
    else:
        parser.add_argument(flag, dest=each.name, help=text)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "YAML files need pyyaml. Install pellucid-tptt[train]."
        ) from error
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"--config {str(path)!r} cannot be read as YAML: {error}") from error
    if not isinstance(held, dict):
        raise ArgumentError(f"--config {str(path)!r} must hold options by name, got {held!r}.")
    return typing.cast("dict[str, Any]", held)


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Return a value of the kind of a field, numbers also from texts."""
    if _is_tuple(kind):
        items = [value] if isinstance(value, str) else list(value or ())
        return tuple(map(str, items))
    if isinstance(kind, types.UnionType):
        if value is None or value == "none":
            return None
        (kind,) = (each for each in typing.get_args(kind) if each is not types.NoneType)
    try:
        if kind in (int, float) and not isinstance(value, bool):
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        elif isinstance(value, kind):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    raise ArgumentError(f"{name} must be {_KINDS[kind]}, got {value!r}.")


_KINDS: dict[Any, str] = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a text",
}

"""One file that holds all a run needs to go on; it is replaced whole or not at all."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pellucid.core import CheckpointError

FILE_NAME = "state.safetensors"
_SCHEMA = 1
_State = TypeVar("_State")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors and plain values of a run.

    Attributes:
        tensors: By name.
        values: Plain values, ready for JSON, by name.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def value(self, name: str) -> Any:
        """Return a plain value.

        Raises:
            CheckpointError: (a ValueError) If there is none of that name.
        """
        if name not in self.values:
            raise CheckpointError(f"the checkpoint lacks {name!r}: it is not whole. Start anew.")
        return self.values[name]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an older one stays whole until the new one is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".{FILE_NAME}.{os.getpid()}"
    # NaN and infinity are not JSON, but Python reads them back exactly.
    metadata = {"pellucid": json.dumps({"schema": _SCHEMA, **checkpoint.values})}
    try:
        save_file(checkpoint.tensors, draft, metadata=metadata)
        draft.replace(directory / FILE_NAME)
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: (a ValueError) If there is none, or it cannot be read.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {os.fspath(path)!r} to resume from.")
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["pellucid"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint {os.fspath(path)!r} cannot be read ({error}). Start the run anew."
        ) from error
    if values.pop("schema", None) != _SCHEMA:
        raise CheckpointError(
            f"the checkpoint {os.fspath(path)!r} was written by another version. Start anew."
        )
    return Checkpoint(tensors, values)


def pack(prefix: str, record: Any) -> Checkpoint:
    """Split a dataclass into tensors and plain values, each name prefixed."""
    held = {f"{prefix}.{f.name}": getattr(record, f.name) for f in dataclasses.fields(record)}
    # Copies, since a file holds no two tensors that share memory, as the current and best may.
    tensors = {name: value.clone() for name, value in held.items() if isinstance(value, Tensor)}
    return Checkpoint(tensors, {n: value for n, value in held.items() if n not in tensors})


def unpack(prefix: str, checkpoint: Checkpoint, kind: type[_State]) -> _State:
    """Build a dataclass from what `pack` made of it.

    Raises:
        CheckpointError: (a ValueError) If a field is missing.
    """
    held = {**checkpoint.values, **checkpoint.tensors}
    names = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    try:
        return kind(**{name: held[f"{prefix}.{name}"] for name in names})
    except KeyError as error:
        raise CheckpointError(
            f"the checkpoint lacks {error.args[0]!r}: it belongs to another optimizer."
        ) from error

"""Checkpoints on disk: whole or not there, and read without running code from them."""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from pellucid.core import CheckpointError


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is safe on the disk.

    A run that is killed, or that fills the disk, while it saves leaves the previous checkpoint as
    it was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: The disk is full, or the place cannot be written to.
        """
        del storage_options
        write_aside(Path(path), lambda stream: _dump(checkpoint, stream))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; see `read_checkpoint`."""
        del weights_only
        return read_checkpoint(path, map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint if it is there."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors, numbers, text and containers is taken from it.

    Args:
        path: A `.ckpt` file.
        map_location: Where its tensors go.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    place = Path(path)
    if not place.is_file():
        nearby = sorted(found.name for found in place.parent.glob("*.ckpt"))
        held = f"there are {', '.join(nearby)}" if nearby else "the directory holds none"
        raise CheckpointError(f"no checkpoint at {str(place)!r}; {held}")
    try:
        checkpoint = torch.load(place, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        message = (
            f"checkpoint {str(place)!r} is damaged or is none "
            f"({place.stat().st_size} bytes); use another one"
        )
        raise CheckpointError(message) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        message = f"{str(place)!r} holds no weights of a harness; give a .ckpt file of a run"
        raise CheckpointError(message)
    return checkpoint


def write_aside(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part.

    Args:
        path: Where it shall be; its directory is made.
        write: Writes the contents to an open file.

    Raises:
        CheckpointError: The file system refuses; what was at `path` is unharmed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        message = (
            f"cannot write {str(path)!r}: {error.strerror or error}; what was there before is "
            "unharmed. Make room, or write elsewhere with paths.log_dir=DIR"
        )
        raise CheckpointError(message) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _sync_directory(directory: Path) -> None:
    # Without it the new name may be lost in a power failure. Windows opens no directories.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Watched:
    """A file that remembers why it refused: torch reports only that it did."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def flush(self) -> None:
        self._stream.flush()


def _dump(checkpoint: dict[str, Any], stream: IO[bytes]) -> None:
    watched = _Watched(stream)
    try:
        # Optimizers' and schedulers' states nest; safetensors holds flat ones.
        torch.save(checkpoint, watched)  # noqa: TID251  # pyright: ignore[reportArgumentType]
    except Exception:
        if watched.refusal is not None:
            raise watched.refusal from None
        raise


__all__ = ["AtomicCheckpointIO", "read_checkpoint", "write_aside"]

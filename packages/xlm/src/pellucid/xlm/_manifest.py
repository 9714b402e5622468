"""What a run was made of: its configuration, its versions and its data."""

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import CheckpointError
from pellucid.xlm._checkpoint_io import write_aside

NAME = "manifest.json"
_PACKAGES = ("pellucid-xlm", "pellucid-families", "torch", "lightning", "numpy", "hydra-core")
# What a resumed run must share with the one that it goes on with.
_BINDING = ("model", "loss", "optimizer", "seed")


def write_manifest(run_dir: Path, cfg: Any, data: Mapping[str, Any] | None) -> Path:
    """Write `manifest.json`, and `config.yaml` as it can be composed again.

    Args:
        run_dir: The run's directory.
        cfg: The composed configuration.
        data: What identifies the data; None if there is none.
    """
    held: Any = OmegaConf.to_container(cfg, resolve=False)
    text = json.dumps(held, sort_keys=True, default=str)
    manifest = {
        "config": held,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "data": data,
        "seed": held.get("seed"),
        "command": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    lines = json.dumps(manifest, indent=2, default=str) + "\n"
    write_aside(run_dir / "config.yaml", lambda s: _write(s, OmegaConf.to_yaml(cfg)))
    write_aside(run_dir / NAME, lambda s: _write(s, lines))
    return run_dir / NAME


def check_resumable(run_dir: Path, cfg: Any) -> None:
    """Compare a configuration with the one that a run was started with.

    Raises:
        CheckpointError: They differ where it matters to the checkpoint.
    """
    path = run_dir / NAME
    if not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged; remove it") from error
    # As they are written: what refers to the tokenizer or the data cannot be resolved here.
    now: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in _BINDING:
        difference = _difference(before.get(key), now.get(key), key)
        if difference is not None:
            raise CheckpointError(
                f"{str(run_dir)!r} holds a run of another configuration ({difference}); choose "
                "another job_name, or start anew with resume_from_checkpoint=false"
            )


def _difference(before: Any, now: Any, path: str) -> str | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}, key=str):
            deeper = _difference(before.get(key), now.get(key), f"{path}.{key}")
            if deeper is not None:
                return deeper
        return None
    return None if before == now else f"{path} was {before!r}, is {now!r}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _write(stream: Any, text: str) -> None:
    stream.write(text.encode())


__all__ = ["NAME", "check_resumable", "write_manifest"]

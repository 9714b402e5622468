"""The job `train`: fit, then test."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pellucid.core import CheckpointError
from pellucid.xlm._assembly import Assembly, assemble, build_trainer, quiet
from pellucid.xlm._checkpoint_callback import checkpoints_in
from pellucid.xlm._checkpoint_io import read_checkpoint, write_aside
from pellucid.xlm._manifest import check_resumable, write_manifest

INTERRUPTED = 130


def train(cfg: Any) -> int:
    """Train as a configuration says, and test what came of it.

    Returns:
        0, or 130 if the run was interrupted; it can be resumed then.

    Raises:
        PellucidError: The configuration is wrong, or a checkpoint does not fit.
    """
    assembly = assemble(cfg)
    resume = find_resume(cfg)
    if resume is not None:
        check_resumable(assembly.run_dir, cfg)
    elif cfg.model_only_checkpoint_path is not None:
        path = str(cfg.model_only_checkpoint_path)
        assembly.harness.adopt(read_checkpoint(path), weights="auto", source=path)
    with quiet():
        trainer = build_trainer(cfg)
        if trainer.is_global_zero:
            _announce(assembly, trainer, resume)
        trainer.fit(
            assembly.harness,
            datamodule=assembly.data,
            ckpt_path=None if resume is None else str(resume),
        )
        if trainer.is_global_zero:
            write_manifest(assembly.run_dir, cfg, assembly.data.fingerprint())
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        if any(getattr(each, "was_interrupted", False) for each in callbacks):
            return INTERRUPTED
        if assembly.data.dataloader_names.get("test"):
            values = trainer.test(assembly.harness, datamodule=assembly.data, verbose=False)
            report(trainer, assembly.run_dir, values, split="test")
    return 0


def find_resume(cfg: Any) -> Path | None:
    """Return the checkpoint to resume from: the named one, or the latest of this run, or none.

    Raises:
        CheckpointError: The named one is not there.
    """
    named = cfg.resume_checkpoint_path
    if named is not None:
        if not Path(named).is_file():
            raise CheckpointError(f"no checkpoint at resume_checkpoint_path={str(named)!r}")
        return Path(named)
    if not cfg.resume_from_checkpoint:
        return None
    saved = checkpoints_in(Path(cfg.paths.checkpoints_dir))
    return saved[-1] if saved else None


def report(
    trainer: Any, run_dir: Path, values: Any, *, split: str, step: int | None = None
) -> None:
    """Print what was measured, and write it to `results_SPLIT_step=N.json`; on the first rank."""
    if not trainer.is_global_zero:
        return
    table: dict[str, float] = {name: value for row in values for name, value in row.items()}
    at = trainer.global_step if step is None else step
    for name, value in sorted(table.items()):
        print(f"{name:<40} {value:.6g}")  # noqa: T201
    text = json.dumps({"step": at, **table}, indent=2) + "\n"
    write_aside(run_dir / f"results_{split}_step={at}.json", lambda s: _write(s, text))


def _announce(assembly: Assembly, trainer: Any, resume: Path | None) -> None:
    cfg, harness = assembly.cfg, assembly.harness
    write_manifest(assembly.run_dir, cfg, None)
    count = sum(weight.numel() for weight in harness.model.parameters())
    start = f"resuming from {resume}" if resume else "from the beginning"
    choice = OmegaConf.select(cfg, "choices.model", default=None) or type(harness.model).__name__
    device = trainer.strategy.root_device.type
    print(  # noqa: T201
        f"{cfg.job_name}: {choice}, {count:,} weights, on {trainer.world_size} {device}, "
        f"{trainer.max_steps} steps, {start}; writes {assembly.run_dir}",
        flush=True,
    )


def _write(stream: Any, text: str) -> None:
    stream.write(text.encode())


__all__ = ["find_resume", "report", "train"]

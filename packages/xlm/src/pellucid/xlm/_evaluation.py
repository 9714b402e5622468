"""The jobs that use a trained model: `eval`, `generate`, `extract_checkpoint`, `push_to_hub`."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pellucid.core import ArgumentError, CheckpointError, UnknownNameError
from pellucid.xlm._addresses import seed_at
from pellucid.xlm._assembly import Assembly, assemble, build_trainer, quiet
from pellucid.xlm._checkpoint_callback import checkpoints_in, step_of
from pellucid.xlm._checkpoint_io import read_checkpoint
from pellucid.xlm._training import report

_SPLITS = {"test": "test", "val": "validate", "validation": "validate"}


def evaluate(cfg: Any) -> int:
    """Measure a checkpoint on a split.

    What the test split reports of a loader is reported of the validation loader of that name too,
    though it may be too slow for every validation of a training run, as bounds on likelihoods are.

    Raises:
        UnknownNameError: There is no such split.
        CheckpointError: There is no checkpoint, or it does not fit.
    """
    if cfg.eval.split not in _SPLITS:
        raise UnknownNameError("eval.split", str(cfg.eval.split), _SPLITS)
    if _SPLITS[cfg.eval.split] == "validate":
        _report_as_tested(cfg)
    assembly, step = load_trained(cfg, "eval")
    with quiet():
        trainer = build_trainer(cfg, is_training=False)
        run = getattr(trainer, _SPLITS[cfg.eval.split])
        values = run(assembly.harness, datamodule=assembly.data, verbose=False)
        report(trainer, assembly.run_dir, values, split=str(cfg.eval.split), step=step)
    return 0


def generate(cfg: Any) -> int:
    """Sample from a checkpoint: complete `generation.prompts`, or the data module's prompts.

    Raises:
        ArgumentError: There is nothing to complete.
        CheckpointError: There is no checkpoint, or it does not fit.
    """
    assembly, step = load_trained(cfg, "generation")
    prompts = OmegaConf.select(cfg, "generation.prompts")
    if prompts is not None:
        return _complete(assembly, [str(prompt) for prompt in prompts])
    if not assembly.data.dataloader_names.get("predict"):
        message = (
            "the data module has no loaders for the split 'predict'; "
            "give generation.prompts=['...'], or configure one"
        )
        raise ArgumentError(message)
    with quiet():
        trainer = build_trainer(cfg, is_training=False)
        trainer.predict(assembly.harness, datamodule=assembly.data, return_predictions=False)
        if trainer.is_global_zero:
            _show(assembly, step)
    return 0


def extract(cfg: Any) -> int:
    """Write the weights of a checkpoint as safetensors."""
    assembly, step = load_trained(cfg, "extract")
    path = assembly.harness.save_model_weights(cfg.extract.out, overwrite=True)
    print(f"step {step}: wrote {path}")  # noqa: T201
    return 0


def push(cfg: Any) -> int:
    """Upload weights and configuration to the hub."""
    repo_id = OmegaConf.select(cfg, "hub.repo_id")
    if repo_id is None:
        raise ArgumentError("push_to_hub needs hub.repo_id=OWNER/NAME")
    assembly, _ = load_trained(cfg, "extract")
    experiment = str(OmegaConf.select(cfg, "choices.experiment", default=None) or "none")
    harness = assembly.harness
    address = harness.push_to_hub(
        str(repo_id), experiment=experiment, private=bool(cfg.hub.private)
    )
    print(address)  # noqa: T201
    return 0


def load_trained(cfg: Any, section: str) -> tuple[Assembly, int]:
    """Assemble a run with the weights that a section of the configuration asks for.

    Args:
        cfg: The configuration.
        section: "eval", "generation" or "extract"; each has `ckpt_path` and `weights`.

    Returns:
        The run, and the optimizer step that its weights were saved at; 0 with the weights "built",
        which are those that the configuration builds the model with.

    Raises:
        ArgumentError: There is a checkpoint to load, and the weights are to be those built.
        CheckpointError: There is no checkpoint, or it does not fit.
    """
    assembly = assemble(cfg)
    repo_id = OmegaConf.select(cfg, "hub.repo_id")
    named = cfg[section].ckpt_path
    if str(cfg[section].weights) == "built":
        if named is not None:
            message = (
                f"{section}.weights=built loads nothing; leave out {section}.ckpt_path={named}"
            )
            raise ArgumentError(message)
        return assembly, 0
    if named is None and section == "generation" and repo_id is not None:
        assembly.harness.load_model_from_hub(str(repo_id))
        return assembly, 0
    path = _find(cfg, section) if named is None else Path(named)
    checkpoint = read_checkpoint(path)
    assembly.harness.adopt(checkpoint, weights=str(cfg[section].weights), source=str(path))
    return assembly, int(checkpoint.get("global_step", 0))


def _report_as_tested(cfg: Any) -> None:
    for loader, metrics in cfg.reported_metrics.get("val", {}).items():
        tested = OmegaConf.select(cfg, f"reported_metrics.test.{loader}", default={})
        cfg.reported_metrics.val[loader] = OmegaConf.merge(tested or {}, metrics or {})


def _find(cfg: Any, section: str) -> Path:
    directory = Path(cfg.paths.checkpoints_dir)
    best = sorted(directory.glob("best_step_*.ckpt"), key=step_of)
    found = best or checkpoints_in(directory)
    if not found:
        message = (
            f"{str(directory)!r} holds no checkpoint; train first, or give {section}.ckpt_path=PATH"
        )
        raise CheckpointError(message)
    return found[-1]


def _complete(assembly: Assembly, prompts: list[str]) -> int:
    harness = assembly.harness.eval()
    generator = torch.Generator(harness.device).manual_seed(seed_at(harness.seed, "prompts"))
    with torch.inference_mode():
        texts = harness.predictor.generate(prompts, generator=generator)
    for prompt, text in zip(prompts, texts, strict=True):
        print(f"{prompt} -> {text}")  # noqa: T201
    return 0


def _show(assembly: Assembly, step: int) -> None:
    for path in sorted((assembly.run_dir / "predictions" / "predict").glob("*/*.jsonl")):
        if path.stem.endswith(f"step={step}"):
            print(f"wrote {path}")  # noqa: T201
            with path.open(encoding="utf-8") as stream:
                for _, line in zip(range(5), stream, strict=False):
                    print(f"  {line.rstrip()[:100]}")  # noqa: T201


__all__ = ["evaluate", "extract", "generate", "load_trained", "push"]

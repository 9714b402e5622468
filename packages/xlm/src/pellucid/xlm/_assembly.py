"""From a configuration to the objects of a run: components, data, harness, trainer."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from pellucid.xlm._addresses import seed_at
from pellucid.xlm._building import build, build_components, explain
from pellucid.xlm._checkpoint_io import AtomicCheckpointIO
from pellucid.xlm._resolvers import live_resolvers, register_resolvers
from pellucid.xlm._unprofiled import Unprofiled

# What Lightning does that others find out of date, and advice for which a run has its own settings.
_QUIET = (
    r".*treespec, LeafSpec.*",
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`Trainer\.(fit|test|validate|predict)` is deprecated.*",
)


@dataclass(frozen=True)
class Assembly:
    """The objects of a run.

    Attributes:
        cfg: The configuration.
        data: The data module.
        harness: With its model as drawn, or with the weights of a checkpoint.
    """

    cfg: Any
    data: Any
    harness: Any

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.cfg.paths.run_dir)


def assemble(cfg: Any) -> Assembly:
    """Build the components, the data module and the harness of a configuration.

    The model's weights follow from the seed; the caller's random state is kept.

    Raises:
        PellucidError: A part is missing or wrong.
    """
    register_resolvers()
    with torch.random.fork_rng():
        torch.manual_seed(seed_at(int(cfg.seed), "weights"))
        components = build_components(cfg)
        tokenizer = components.get("tokenizer")
        with live_resolvers(global_components=components, tokenizer=tokenizer):
            data = build(cfg, "datamodule")
            harness = build(cfg, "lightning_module", cfg, tokenizer, data)
    return Assembly(cfg, data, harness)


def build_trainer(cfg: Any, *, is_training: bool = True) -> lightning.Trainer:
    """Build the trainer with its callbacks and loggers.

    Args:
        cfg: The configuration.
        is_training: Without, there are neither loggers nor callbacks.

    Raises:
        ArgumentError: Lightning refuses the settings, as those of fsdp without an accelerator.
    """
    names = ("callbacks", "loggers") if is_training else ()
    parts: dict[str, list[Any]] = {
        group: [build(cfg, f"{group}.{name}") for name in _present(cfg, group)] for group in names
    }
    callbacks = parts.get("callbacks", [])
    own: Any = OmegaConf.select(cfg, "trainer.profiler", default=None)
    profiler = {} if own else {"profiler": Unprofiled()}
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    try:
        return build(
            cfg,
            "trainer",
            callbacks=callbacks,
            logger=parts.get("loggers") or False,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=saves,
            **profiler,
        )
    except (ValueError, MisconfigurationException) as error:
        raise explain(error, "trainer") from error


@contextmanager
def quiet() -> Generator[None]:
    """Leave out, within a block, what Lightning says that no user of the command can act on."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _QUIET:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(before)


def _present(cfg: Any, group: str) -> list[str]:
    tree = OmegaConf.select(cfg, group) or {}
    return [str(name) for name in tree if tree[name] is not None]


__all__ = ["Assembly", "assemble", "build_trainer", "quiet"]

"""Objects from their configuration, with an error that says which part of it is wrong."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pellucid.core import ArgumentError, PellucidError

_TARGET = "_target_"


def build(cfg: Any, key: str, **arguments: Any) -> Any:
    """Instantiate the part of a configuration under a key.

    Args:
        cfg: The whole configuration, so that interpolations find what they refer to.
        key: Such as "model" or "trainer"; a group that was never chosen is None there.
        arguments: Further arguments of the object, before those of the configuration.

    Raises:
        ArgumentError: The part is missing, names no class, or the class does not take it.
        PellucidError: Whatever the class itself finds wrong.
    """
    part = OmegaConf.select(cfg, key) if isinstance(cfg, DictConfig) else cfg.get(key)
    if part is None:
        raise ArgumentError(f"nothing is configured under {key!r}; choose one with {key}=NAME")
    if not isinstance(part, (DictConfig, Mapping)) or _TARGET not in part:
        raise ArgumentError(f"{key!r} has no {_TARGET}; name the class that it configures there")
    try:
        return hydra.utils.instantiate(part, **arguments)
    except (InstantiationException, OmegaConfBaseException) as error:
        raise explain(error, key) from error


def explain(error: Exception, key: str) -> PellucidError:
    """Return the error to show instead of Hydra's: the cause if it is ours, one line otherwise."""
    cause = root_cause(error)
    if isinstance(cause, PellucidError):
        return cause
    reason = str(cause).strip().split("\n")[0] or type(cause).__name__
    return ArgumentError(f"{key!r} cannot be built: {reason}")


def root_cause(error: BaseException) -> BaseException:
    """Return what an error was first raised from, by `raise ... from`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


__all__ = ["build", "explain", "root_cause"]

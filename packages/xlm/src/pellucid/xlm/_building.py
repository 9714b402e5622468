"""Objects from their configuration, with an error that says which part of it is wrong."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pellucid.core import ArgumentError, PellucidError
from pellucid.xlm._resolvers import live_resolvers

_TARGET = "_target_"


def build(cfg: Any, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Instantiate the part of a configuration under a key.

    Args:
        cfg: The whole configuration, so that interpolations find what they refer to.
        key: Such as "model" or "trainer"; a group that was never chosen is None there.
        args: Further arguments of the object, live objects among them.
        kwargs: Likewise; they win over those of the configuration.

    Raises:
        ArgumentError: The part is missing, names no class, or the class does not take it.
        PellucidError: Whatever the class itself finds wrong.
    """
    try:
        part = OmegaConf.select(cfg, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error, key) from error
    if part is None:
        raise ArgumentError(f"nothing is configured under {key!r}; choose one with {key}=NAME")
    return instantiate(part, key, *args, **kwargs)


def instantiate(part: Any, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a node of a configuration, whose containers become plain ones; see `build`."""
    if not isinstance(part, (DictConfig, Mapping)) or _TARGET not in part:
        raise ArgumentError(f"{key!r} has no {_TARGET}; name the class that it configures there")
    try:
        # Live objects are no part of a configuration: Hydra would copy them.
        make = hydra.utils.instantiate(part, _partial_=True, _convert_="all")
        return make(*args, **kwargs)
    except (InstantiationException, OmegaConfBaseException, TypeError) as error:
        raise explain(error, key) from error


def build_components(cfg: Any) -> dict[str, Any]:
    """Build what `global_components` holds: the tokenizer and the noise schedule."""
    components: dict[str, Any] = {}
    with live_resolvers(global_components=components):
        for name in OmegaConf.select(cfg, "global_components", default={}):
            components[name] = build(cfg, f"global_components.{name}")
    return components


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


__all__ = ["build", "build_components", "explain", "instantiate", "root_cause"]

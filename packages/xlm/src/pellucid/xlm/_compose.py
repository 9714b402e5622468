"""From what stands on the command line to one configuration, with errors that one can act on."""

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pellucid.core import ArgumentError, PellucidError, UnknownNameError
from pellucid.xlm._discovery import discover_families
from pellucid.xlm._resolvers import register_resolvers

CONFIG_DIR = Path(__file__).parent / "configs"
MANDATORY = ("datamodule", "model", "model_type")

_VERSION_BASE = "1.3"
_SIZES = re.compile(r"^(nano|micro|tiny|small|medium|large)_")
_KEY = re.compile(r"Key '(?P<key>[^']+)' is not in struct")
_GROUP = re.compile(r"[+~]*(?P<group>[A-Za-z_/][\w/]*)(@[\w.]+)?=(?P<value>[^=]*)")


class FamilyConfigs(SearchPathPlugin):
    """Lets Hydra find the configurations of every family, and those of the user."""

    extra_dirs: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append their directories to those of xlm, and of no other application of Hydra."""
        main = [part.path for part in search_path.get_path() if part.provider == "main"]
        if not any(path.removeprefix("file://") == str(CONFIG_DIR) for path in main):
            return
        for family in discover_families():
            search_path.append(f"family-{family.name}", f"file://{family.config_dir}")
        for directory in self.extra_dirs:
            search_path.append("command-line", f"file://{directory}")


def register_families(extra_dirs: Iterable[str | Path] = ()) -> None:
    """Make families known to Hydra in this process, and further directories.

    Raises:
        ArgumentError: One of them is no directory.
    """
    places = tuple(Path(directory).resolve() for directory in extra_dirs)
    for place in places:
        if not place.is_dir():
            raise ArgumentError(f"--config-dir {str(place)!r} is no directory; correct it")
    FamilyConfigs.extra_dirs = places
    plugins = Plugins.instance()
    if FamilyConfigs not in plugins.discover(SearchPathPlugin):
        plugins.register(FamilyConfigs)


def compose_config(
    overrides: Sequence[str], *, extra_dirs: Iterable[str | Path] = (), check: bool = True
) -> Any:
    """Compose the configuration of a job.

    Args:
        overrides: As on the command line, such as `experiment=star_easy_arlm`.
        extra_dirs: Further directories of configurations.
        check: Refuse a configuration whose mandatory groups were not chosen.

    Returns:
        A DictConfig without Hydra's own part; interpolations are left as they are.

    Raises:
        UnknownNameError: An option of a group, or a key, does not exist.
        ArgumentError: A mandatory group was not chosen, or the configuration is wrong.
    """
    register_resolvers()
    with _hydra(extra_dirs):
        _check_options(overrides)
        cfg = _compose(overrides)
        smaller = _smaller_model(cfg, overrides)
        if smaller is not None:
            cfg = _compose([*overrides, smaller])
        choices = cfg.hydra.runtime.choices
        if check:
            for group in MANDATORY:
                if choices.get(group) is None:
                    raise ArgumentError(_lack(group))
    OmegaConf.set_struct(cfg, False)
    with_choices = {str(key): value for key, value in choices.items() if "@" not in str(key)}
    del cfg["hydra"]
    cfg.choices = {k: v for k, v in with_choices.items() if not k.startswith("hydra/")}
    return cfg


def list_options(group: str, *, extra_dirs: Iterable[str | Path] = ()) -> list[str]:
    """Return the options of a configuration group, of all families."""
    with _hydra(extra_dirs):
        return _options(group)


@contextmanager
def _hydra(extra_dirs: Iterable[str | Path]) -> Generator[None]:
    register_families(extra_dirs)
    with initialize_config_dir(str(CONFIG_DIR), version_base=_VERSION_BASE, job_name="xlm"):
        yield


def _compose(overrides: Sequence[str]) -> Any:
    try:
        return compose("config", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error) from error


def _explain(error: Exception) -> PellucidError:
    text = str(error)
    root = error.__cause__ or error.__context__
    match = _KEY.search(text) or (root and _KEY.search(str(root)))
    if match:
        base = compose("config", overrides=[], return_hydra_config=False)
        loader = GlobalHydra.instance().config_loader()
        known = {str(key) for key in base} | set(loader.list_groups(""))
        return UnknownNameError("configuration key", match["key"], known)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return ArgumentError(f"the configuration cannot be composed: {' '.join(lines[:2])}")


def _check_options(overrides: Sequence[str]) -> None:
    loader = GlobalHydra.instance().config_loader()
    for override in overrides:
        match = _GROUP.fullmatch(override)
        if match is None or not match["value"] or match["value"][0] in "[{'\"":
            continue
        group, value = match["group"], match["value"]
        options = _options(group)
        is_group = bool(options) and "/" not in value and value not in ("null", "~")
        if is_group and value not in options and not _is_nested(loader, group, value):
            raise UnknownNameError(f"{group}", value, options)


def _is_nested(loader: Any, group: str, value: str) -> bool:
    return value in loader.list_groups(group)


def _options(group: str) -> list[str]:
    return sorted(set(GlobalHydra.instance().config_loader().get_group_options(group)))


def _smaller_model(cfg: Any, overrides: Sequence[str]) -> str | None:
    """Return the override for the size that a debug option asks for, if the family has it."""
    size = OmegaConf.select(cfg, "debug_model")
    chosen = cfg.hydra.runtime.choices.get("model")
    if size is None or chosen is None or any(o.startswith("model=") for o in overrides):
        return None
    option = f"{size}_{_SIZES.sub('', chosen)}"
    return f"model={option}" if option in _options("model") else None


def _lack(group: str) -> str:
    options = _options(group)
    offered = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return (
        f"no {group} was chosen. Give an experiment (experiment=NAME), or {group}=NAME: "
        f"{offered or 'there is none, install a family'}"
    )


__all__ = ["CONFIG_DIR", "compose_config", "list_options", "register_families"]

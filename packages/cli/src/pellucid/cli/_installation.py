"""What of Pellucid is installed, and what of its requirements is not."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions

from packaging.requirements import InvalidRequirement, Requirement

# Importing pellucid.core takes torch, which may be what is broken.

PACKAGES: Mapping[str, str] = {
    "pellucid-api": "language models and encoders behind an API or a server",
    "pellucid-bridge": "hooks, caches and edits of activations by name",
    "pellucid-cli": "the pellucid command",
    "pellucid-core": "the contracts",
    "pellucid-families": "families of language models for xlm",
    "pellucid-hf": "Hugging Face transformers as models",
    "pellucid-losses": "losses over what a model returns",
    "pellucid-optimizers": "search for triggers",
    "pellucid-recipes": "published methods as one call each",
    "pellucid-testing": "conformance suites and tiny models",
    "pellucid-tptt": "linear attention beside softmax attention",
    "pellucid-xlm": "train, evaluate and sample language models",
    "pellucid-zoo": "tiny trained models",
}
"""The distributions of Pellucid, and what each is for."""

GROUP_PREFIX = "pellucid."
"""Begins the name of every entry-point group of Pellucid."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An extra of an installed package.

    Attributes:
        name: Its name.
        lacks: What it needs and does not find, a line each; empty if it is installed.
        command: What installs it.
    """

    name: str
    lacks: tuple[str, ...]
    command: str


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed distribution of Pellucid, or one that registers in its entry-point groups.

    Attributes:
        name: The distribution's name.
        version: Its version.
        lacks: What it requires and does not find, a line each.
        extras: Its extras, sorted by name.
    """

    name: str
    version: str
    lacks: tuple[str, ...]
    extras: tuple[Extra, ...]


def find_packages() -> tuple[Package, ...]:
    """Return every installed package of Pellucid and every package with plugins, sorted by name."""
    _installed.cache_clear()
    return tuple(_describe(found) for found in plugin_distributions())


def plugin_distributions() -> list[Distribution]:
    """Return the distributions of `find_packages`, sorted by name."""
    chosen = {
        name: found
        for name, found in _installed().items()
        if name in PACKAGES
        or any(entry.group.startswith(GROUP_PREFIX) for entry in found.entry_points)
    }
    return [chosen[name] for name in sorted(chosen)]


def find_missing() -> tuple[str, ...]:
    """Return the distributions of Pellucid that are not installed, sorted."""
    return tuple(sorted(set(PACKAGES) - set(_installed())))


def version_of(distribution: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    found = _installed().get(_normalise(distribution))
    return found.version if found else None


def extra_that_brings(distribution: Distribution, module: str) -> str | None:
    """Return the extra of a distribution that brings a module, as far as names tell.

    Args:
        distribution: An installed distribution.
        module: The module's dotted name.
    """
    wanted = _normalise(module)
    top = _normalise(module.partition(".")[0])
    for extra in _extras_of(distribution):
        names = {_normalise(each.name) for each in _requirements_of(distribution, extra)}
        if wanted in names or top in names:
            return extra
    return None


@cache
def _installed() -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        # A name may be found twice on the path; the first is what an import finds.
        found.setdefault(_normalise(distribution.metadata["Name"] or ""), distribution)
    return found


def _describe(distribution: Distribution) -> Package:
    name = _normalise(distribution.metadata["Name"])
    extras = tuple(
        Extra(
            name=extra,
            lacks=tuple(dict.fromkeys(_unmet(distribution, extra))),
            command=f'pip install "{name}[{extra}]"',
        )
        for extra in _extras_of(distribution)
    )
    lacks = tuple(dict.fromkeys(_unmet(distribution, "")))
    return Package(name=name, version=distribution.version, lacks=lacks, extras=extras)


def _extras_of(distribution: Distribution) -> list[str]:
    return sorted(distribution.metadata.get_all("Provides-Extra") or [])


def _unmet(
    distribution: Distribution, extra: str, seen: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[str]:
    """Yield what a distribution, or one extra of it, requires and does not find."""
    key = (_normalise(distribution.metadata["Name"]), extra)
    if key in seen:  # an extra may name itself
        return
    for requirement in _requirements_of(distribution, extra):
        found = _installed().get(_normalise(requirement.name))
        if found is None:
            yield f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(found.version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier} is needed, {found.version} is there"
        else:
            for each in sorted(requirement.extras):
                yield from _unmet(found, each, seen | {key})


def _requirements_of(distribution: Distribution, extra: str) -> Iterator[Requirement]:
    """Yield what an extra adds to the requirements, or with no extra the requirements."""
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # whoever installed it could not read it either
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always != bool(extra) and (always or (marker and marker.evaluate({"extra": extra}))):
            yield requirement


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

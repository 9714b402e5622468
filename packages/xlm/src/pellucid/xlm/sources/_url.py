"""Generated datasets by address: `local://star?level=easy&split=train&seed=42`."""

import dataclasses
import types
import typing
from urllib.parse import parse_qsl, urlencode, urlsplit

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._addition import AdditionSource
from pellucid.xlm.sources._cfg import GrammarSource
from pellucid.xlm.sources._corpus import CorpusSource
from pellucid.xlm.sources._markov import HiddenMarkovSource, MarkovSource
from pellucid.xlm.sources._source import LocalSource
from pellucid.xlm.sources._star import StarGraphSource
from pellucid.xlm.sources._sudoku import SudokuSource

SCHEME = "local://"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

_SOURCES: dict[str, type[LocalSource]] = {
    source.name: source
    for source in (
        AdditionSource,
        CorpusSource,
        GrammarSource,
        HiddenMarkovSource,
        MarkovSource,
        StarGraphSource,
        SudokuSource,
    )
}


def local_sources() -> list[str]:
    """Return the names of the generated datasets, sorted."""
    return sorted(_SOURCES)


def register_local_source(source: type[LocalSource]) -> type[LocalSource]:
    """Make a class of yours addressable under its `name`; also a decorator.

    Raises:
        ArgumentError: The name is taken.
    """
    if _SOURCES.get(source.name, source) is not source:
        raise ArgumentError(f"{source.name!r} is {_SOURCES[source.name].__name__} already")
    _SOURCES[source.name] = source
    return source


def is_local(address: str) -> bool:
    """Say whether an address is that of a generated dataset."""
    return address.startswith(SCHEME)


def open_local(address: str) -> LocalSource:
    """Return the generated dataset at an address.

    Args:
        address: Such as `local://star?level=easy&split=train&seed=42`. The keys are the attributes
            of the source.

    Raises:
        UnknownNameError: There is no such dataset, key or choice; near matches are offered.
        ArgumentError: The address is no address, or a value is not of its key's type.
    """
    parts = urlsplit(address)
    if not is_local(address) or parts.path.strip("/") or parts.fragment:
        raise ArgumentError(f"{address!r} is not of the form {SCHEME}NAME?key=value&key=value")
    if parts.netloc not in _SOURCES:
        raise UnknownNameError("generated dataset", parts.netloc, _SOURCES)
    source = _SOURCES[parts.netloc]
    known = {field.name: field.type for field in dataclasses.fields(source)}
    values: dict[str, object] = {}
    for key, text in _query(address, parts.query):
        if key not in known:
            raise UnknownNameError(f"key of {SCHEME}{source.name}", key, known)
        if key in values:
            raise ArgumentError(f"{address!r} gives {key!r} twice; give it once")
        values[key] = _parse(key, text, known[key])
    return source(**values)  # pyright: ignore[reportArgumentType]


def local_tokenizer(address: str) -> SimpleSpaceTokenizer:
    """Return the tokenizer of the generated dataset at an address: all words that it has.

    Args:
        address: See `open_local`.
    """
    return open_local(address).tokenizer()


def address_of(source: LocalSource) -> str:
    """Return the address that `open_local` makes a source from, with all its keys."""
    values = dataclasses.asdict(source)
    given = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in values.items()
        if value is not None
    }
    return f"{SCHEME}{source.name}?{urlencode(given)}"


def _query(address: str, query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True)
    except ValueError as error:
        raise ArgumentError(
            f"{address!r} is not of the form {SCHEME}NAME?key=value&key=value ({error})"
        ) from error


def _parse(key: str, text: str, annotation: object) -> object:
    kinds = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    kind = next(kind for kind in kinds if kind is not type(None))
    if kind is str:
        return text
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        return int(text) if kind is int else float(text)
    except (KeyError, ValueError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ArgumentError(
            f"{key} is {text!r}; write {wanted.get(typing.cast('type', kind), kind)}"
        ) from None

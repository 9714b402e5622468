"""Context-free grammars: draw sentences, and say whether something is one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.core import ArgumentError

_Item = tuple[str, tuple[str, ...], int, int]


@dataclass(frozen=True)
class Production:
    """One way to write a symbol.

    Attributes:
        symbols: What it is written as: names of other symbols, and words.
        weight: How often, relative to the other ways.
    """

    symbols: tuple[str, ...]
    weight: float


class Grammar:
    """A grammar without empty productions.

    Args:
        rules: Each line `NAME -> a b 2 | c`: the ways to write a name, separated by bars, each with
            a number at its end that says how often (1 if there is none). The first name is that
            of a whole sentence; what is no name is a word.

    Raises:
        ArgumentError: A line is not of that form, or a way to write a name is empty.
    """

    def __init__(self, rules: str) -> None:
        self.productions: dict[str, tuple[Production, ...]] = {}
        for line in filter(None, map(str.strip, rules.splitlines())):
            name, arrow, ways = line.partition("->")
            if not arrow or len(name.split()) != 1:
                raise ArgumentError(f"the rule {line!r} is not of the form NAME -> a b | c")
            self.productions[name.strip()] = tuple(_production(way) for way in ways.split("|"))
        if not self.productions:
            raise ArgumentError("the grammar has no rule; write NAME -> a b | c")
        self.start = next(iter(self.productions))

    @property
    def words(self) -> list[str]:
        """Every word, sorted."""
        used = {s for ways in self.productions.values() for way in ways for s in way.symbols}
        return sorted(used - self.productions.keys())

    def sample(
        self, rng: np.random.Generator, n_rows: int, *, max_length: int
    ) -> list[tuple[str, ...]]:
        """Draw sentences; those longer than `max_length` are drawn again.

        Raises:
            ArgumentError: Sentences are hardly ever that short.
        """
        drawn: list[tuple[str, ...]] = []
        tries, most = 0, 100 * n_rows + 1_000
        uniforms = _uniforms(rng)
        bounds = {name: _bounds(ways) for name, ways in self.productions.items()}
        while len(drawn) < n_rows:
            sentence = self._expand(uniforms, bounds, max_length)
            if sentence is not None:
                drawn.append(sentence)
            tries += 1
            if tries > most:
                raise ArgumentError(
                    f"of {tries} sentences only {len(drawn)} have at most {max_length!r} words; "
                    "give a greater max_length"
                )
        return drawn

    def accepts(self, words: Sequence[str]) -> bool:
        """Say whether words are a sentence (Earley 1970, "An efficient context-free parser")."""
        if not words:
            return False
        chart: list[dict[_Item, None]] = [{} for _ in range(len(words) + 1)]
        self._predict(chart, 0, self.start)
        for at in range(len(words) + 1):
            self._complete(chart, at, words)
        return any(
            name == self.start and dot == len(symbols) and origin == 0
            for name, symbols, dot, origin in chart[-1]
        )

    def _expand(
        self, uniforms: "_Uniforms", bounds: Mapping[str, list[float]], max_length: int
    ) -> tuple[str, ...] | None:
        words: list[str] = []
        stack = [self.start]
        while stack:
            symbol = stack.pop()
            ways = self.productions.get(symbol)
            if ways is None:
                words.append(symbol)
            else:
                stack.extend(reversed(ways[uniforms.choose(bounds[symbol])].symbols))
            # Every symbol still to be written becomes at least one word.
            if len(words) + len(stack) > max_length:
                return None
        return tuple(words)

    def _predict(self, chart: list[dict[_Item, None]], at: int, name: str) -> None:
        for way in self.productions[name]:
            chart[at].setdefault((name, way.symbols, 0, at))

    def _complete(self, chart: list[dict[_Item, None]], at: int, words: Sequence[str]) -> None:
        agenda = list(chart[at])
        while agenda:
            name, symbols, dot, origin = agenda.pop()
            known = len(chart[at])
            if dot == len(symbols):
                for parent, rest, place, begun in list(chart[origin]):
                    if place < len(rest) and rest[place] == name:
                        chart[at].setdefault((parent, rest, place + 1, begun))
            elif symbols[dot] in self.productions:
                self._predict(chart, at, symbols[dot])
            elif at < len(words) and words[at] == symbols[dot]:
                chart[at + 1].setdefault((name, symbols, dot + 1, origin))
            agenda.extend(list(chart[at])[known:])


class _Uniforms:
    """Random numbers one at a time, drawn many at once."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._held: list[float] = []

    def choose(self, bounds: Iterable[float]) -> int:
        """Return the place of the first bound above a random number."""
        if not self._held:
            self._held = self._rng.random(4096).tolist()
        drawn = self._held.pop()
        return next(place for place, bound in enumerate(bounds) if drawn < bound)


def _uniforms(rng: np.random.Generator) -> _Uniforms:
    return _Uniforms(rng)


def _bounds(ways: tuple[Production, ...]) -> list[float]:
    total = sum(way.weight for way in ways)
    cumulative = np.cumsum([way.weight for way in ways]) / total
    return [*cumulative[:-1].tolist(), 1.0]


def _production(way: str) -> Production:
    symbols = way.split()
    weight = 1.0
    if len(symbols) > 1 and symbols[-1].replace(".", "", 1).isdigit():
        weight = float(symbols.pop())
    if not symbols or weight <= 0:
        raise ArgumentError(f"{way!r} is an empty way to write a name, or has no weight above 0")
    return Production(tuple(symbols), weight)

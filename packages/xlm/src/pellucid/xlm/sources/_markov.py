"""Markov chains and hidden Markov chains, whose entropy is known: a test of likelihoods."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pellucid.core import ArgumentError
from pellucid.xlm._preprocessing import tokenize_text
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._source import LocalSource, Proposal, hash_rows, render_tokens

# Below this many expected nats a row may well come twice, and to keep it out of a split would
# change what the others are drawn from.
_LEAST_NATS = 12.0


@dataclass(frozen=True)
class MarkovChain:
    """A stationary chain of first order.

    Attributes:
        transition: Probability of the column after the row, float64.
    """

    transition: np.ndarray

    @staticmethod
    def random(n_states: int, *, seed: int, concentration: float = 0.5) -> "MarkovChain":
        """Draw the rows of the transition matrix from a Dirichlet distribution.

        Args:
            n_states: How many states.
            seed: Of the draw.
            concentration: Small values give transitions that are easy to foresee.
        """
        rng = np.random.default_rng([seed, n_states])
        drawn = rng.dirichlet(np.full(n_states, concentration), size=n_states)
        # A little of everything, so that the chain forgets where it began.
        return MarkovChain(0.99 * drawn + 0.01 / n_states)

    @functools.cached_property
    def stationary(self) -> np.ndarray:
        """The distribution that a transition leaves as it is."""
        n_states = len(self.transition)
        system = np.concatenate([self.transition.T - np.eye(n_states), np.ones((1, n_states))])
        solved = np.linalg.lstsq(system, np.append(np.zeros(n_states), 1.0), rcond=None)[0]
        return np.clip(solved, 0.0, None) / np.clip(solved, 0.0, None).sum()

    def entropy_rate(self) -> float:
        """Return the entropy of the next state given all before, in nats, in closed form."""
        return float(self.stationary @ _entropy(self.transition))

    def sequence_entropy(self, length: int) -> float:
        """Return the entropy of a sequence that begins in the stationary distribution, in nats."""
        return float(_entropy(self.stationary[None])[0]) + (length - 1) * self.entropy_rate()

    def sample(self, rng: np.random.Generator, n_rows: int, length: int) -> np.ndarray:
        """Draw sequences of states, (rows, length), beginning in the stationary distribution."""
        steps = np.cumsum(self.transition, axis=1)
        states = np.empty((n_rows, length), dtype=np.int64)
        for at in range(length):
            bounds = np.cumsum(self.stationary)[None] if at == 0 else steps[states[:, at - 1]]
            states[:, at] = _choose(rng, bounds, n_rows)
        return states

    def nll(self, states: np.ndarray) -> np.ndarray:
        """Return the negative log-likelihood of each sequence, in nats, float64."""
        first = np.log(self.stationary[states[:, 0]])
        return -first - np.log(self.transition[states[:, :-1], states[:, 1:]]).sum(axis=1)


@dataclass(frozen=True)
class EntropyEstimate:
    """An entropy rate, estimated.

    Attributes:
        nats: Per symbol.
        standard_error: Of `nats`; two of them are a 95 % interval.
    """

    nats: float
    standard_error: float


@dataclass(frozen=True)
class HiddenMarkovChain:
    """A Markov chain that is seen through noisy symbols.

    Attributes:
        chain: Of the hidden states.
        emission: Probability of the symbol (column) in the state (row), float64.
    """

    chain: MarkovChain
    emission: np.ndarray

    @staticmethod
    def random(
        n_states: int, n_symbols: int, *, seed: int, concentration: float = 0.5
    ) -> "HiddenMarkovChain":
        """Draw transitions and emissions from Dirichlet distributions."""
        chain = MarkovChain.random(n_states, seed=seed, concentration=concentration)
        rng = np.random.default_rng([seed, n_states, n_symbols])
        drawn = rng.dirichlet(np.full(n_symbols, concentration), size=n_states)
        return HiddenMarkovChain(chain, 0.99 * drawn + 0.01 / n_symbols)

    def sample(self, rng: np.random.Generator, n_rows: int, length: int) -> np.ndarray:
        """Draw sequences of symbols, (rows, length)."""
        states = self.chain.sample(rng, n_rows, length).reshape(-1)
        bounds = np.cumsum(self.emission, axis=1)[states]
        return _choose(rng, bounds, len(states)).reshape(n_rows, length)

    def nll(self, symbols: np.ndarray) -> np.ndarray:
        """Return the negative log-likelihood of each sequence by the forward algorithm, in nats."""
        return self._conditional_nll(symbols).sum(axis=1)

    def entropy_rate(
        self, *, seed: int = 0, n_rows: int = 256, length: int = 2_000, burn_in: int = 200
    ) -> EntropyEstimate:
        """Estimate the entropy rate, which has no closed form, from what the chain itself emits.

        Args:
            seed: Of the sequences.
            n_rows: How many independent sequences; the error is estimated from their spread.
            length: Symbols of each.
            burn_in: Symbols at the beginning of each that are left out, since they are harder to
                foresee than those with a longer past.
        """
        symbols = self.sample(np.random.default_rng([seed, 1]), n_rows, length)
        rates = self._conditional_nll(symbols)[:, burn_in:].mean(axis=1)
        return EntropyEstimate(float(rates.mean()), float(rates.std(ddof=1) / n_rows**0.5))

    def _conditional_nll(self, symbols: np.ndarray) -> np.ndarray:
        """Return -log p(symbol | all before it) for every position."""
        nats = np.empty(symbols.shape)
        belief = np.broadcast_to(self.chain.stationary, (len(symbols), len(self.emission)))
        for at in range(symbols.shape[1]):
            joint = belief * self.emission[:, symbols[:, at]].T
            likelihood = joint.sum(axis=1, keepdims=True)
            nats[:, at] = -np.log(likelihood[:, 0])
            belief = joint / likelihood @ self.chain.transition
        return nats


@dataclass(frozen=True, kw_only=True)
class _StochasticSource(LocalSource):
    """Sequences of one length from a random process.

    Attributes:
        length: Symbols of a row.
        states: States of the chain.
        chain: The seed that the process itself is drawn from; `seed` draws its sequences.
        concentration: Of the process: the smaller, the easier it is to foresee.
    """

    length: int = 64
    states: int = 8
    chain: int = 0
    concentration: float = 0.5

    preprocess_function: ClassVar[Callable[..., Any]] = tokenize_text

    def _check(self) -> None:
        if self.states < 2 or self.length < 1 or self.concentration <= 0 or self.chain < 0:
            raise ArgumentError(
                f"states {self.states!r}, length {self.length!r}, concentration "
                f"{self.concentration!r} and chain {self.chain!r} should be at least 2, 1, more "
                "than 0, and at least 0"
            )
        nats = self._expected_nats()
        if nats < _LEAST_NATS:
            raise ArgumentError(
                f"a row of length {self.length!r} has {nats:.1f} nats; below {_LEAST_NATS:.0f} "
                "rows repeat, and splits without common rows would distort their distribution. "
                "Give a greater length or concentration"
            )

    @abstractmethod
    def _expected_nats(self) -> float:
        """Return how many nats a row has, or a lower bound."""

    @abstractmethod
    def _sample(self, rng: np.random.Generator, n_rows: int) -> np.ndarray:
        """Draw sequences, (rows, length)."""

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw sequences."""
        drawn = self._sample(rng, n_rows)
        return Proposal(hash_rows(drawn), lambda rows: {"text": render_tokens(drawn[rows])})


@dataclass(frozen=True, kw_only=True)
class MarkovSource(_StochasticSource):
    """`local://markov`: text of known entropy. See `process` for its entropy."""

    name: ClassVar[str] = "markov"

    @property
    def process(self) -> MarkovChain:
        """What the rows are drawn from."""
        return MarkovChain.random(self.states, seed=self.chain, concentration=self.concentration)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of the states."""
        return SimpleSpaceTokenizer.for_numbers(self.states)

    def _expected_nats(self) -> float:
        return self.process.sequence_entropy(self.length)

    def _sample(self, rng: np.random.Generator, n_rows: int) -> np.ndarray:
        return self.process.sample(rng, n_rows, self.length)


@dataclass(frozen=True, kw_only=True)
class HiddenMarkovSource(_StochasticSource):
    """`local://hmm`: text of a hidden Markov chain. See `process` for its entropy.

    Attributes:
        symbols: How many different words there are.
    """

    symbols: int = 16

    name: ClassVar[str] = "hmm"

    @property
    def process(self) -> HiddenMarkovChain:
        """What the rows are drawn from."""
        return HiddenMarkovChain.random(
            self.states, self.symbols, seed=self.chain, concentration=self.concentration
        )

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of the symbols."""
        return SimpleSpaceTokenizer.for_numbers(self.symbols)

    def _check(self) -> None:
        if self.symbols < 2:
            raise ArgumentError(f"symbols is {self.symbols!r}; there are at least 2")
        super()._check()

    def _expected_nats(self) -> float:
        # Given the states, symbols are independent: what is left is a lower bound.
        process = self.process
        return self.length * float(process.chain.stationary @ _entropy(process.emission))

    def _sample(self, rng: np.random.Generator, n_rows: int) -> np.ndarray:
        return self.process.sample(rng, n_rows, self.length)


def _entropy(rows: np.ndarray) -> np.ndarray:
    safe = np.where(rows > 0, rows, 1.0)
    return -(rows * np.log(safe)).sum(axis=1)


def _choose(rng: np.random.Generator, bounds: np.ndarray, n_rows: int) -> np.ndarray:
    """Draw a column per row from cumulative probabilities."""
    drawn = rng.random((n_rows, 1)) * bounds[:, -1:]
    return np.minimum((drawn >= bounds).sum(axis=1), bounds.shape[1] - 1)

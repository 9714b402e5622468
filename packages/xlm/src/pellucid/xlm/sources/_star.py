"""Star graphs: find the one path from a node to another among the arms of a star.

The tasks are those on which autoregressive models were shown to guess the arm (Bachmann and
Nagarajan, "The pitfalls of next-token prediction", 2024), in the levels of the insertion language
model's paper (arXiv 2505.05755). A prompt is the shuffled edges, then start and goal; the target is
the edges of the path, so that every node between start and goal stands twice in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm._space_tokenizer import SimpleSpaceTokenizer
from pellucid.xlm.sources._source import (
    LocalSource,
    Proposal,
    TextColumns,
    hash_rows,
    render_tokens,
)


@dataclass(frozen=True)
class StarBatch:
    """Many star graphs; -1 fills what a smaller graph does not have, always at the end.

    Attributes:
        edges: From and to, in shuffled order, (graphs, edges, 2).
        path: Nodes from start to goal, (graphs, nodes).
    """

    edges: np.ndarray
    path: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """The first node of each path."""
        return self.path[:, 0]

    @property
    def goal(self) -> np.ndarray:
        """The last node of each path."""
        last = (self.path >= 0).sum(axis=1) - 1
        return np.take_along_axis(self.path, last[:, None], axis=1)[:, 0]

    def contents(self) -> np.ndarray:
        """Return a hash per graph that neither the order of its edges nor the task changes."""
        codes = np.where(
            self.edges[..., 0] >= 0, self.edges[..., 0] * 2**16 + self.edges[..., 1], -1
        )
        return hash_rows(np.sort(codes, axis=1))

    def prompts(self) -> np.ndarray:
        """Return edges, start and goal of each graph, -1 at the end of short ones."""
        n_graphs = len(self.edges)
        flat = self.edges.reshape(n_graphs, -1)
        prompts = np.concatenate([flat, np.full((n_graphs, 2), -1)], axis=1)
        end = 2 * (self.edges[..., 0] >= 0).sum(axis=1)
        rows = np.arange(n_graphs)
        prompts[rows, end], prompts[rows, end + 1] = self.start, self.goal
        return prompts

    def targets(self) -> np.ndarray:
        """Return the edges of each path, end to end, -1 at the end of short ones."""
        pairs = np.stack([self.path[:, :-1], self.path[:, 1:]], axis=2)
        pairs[pairs[..., 1] < 0] = -1
        return pairs.reshape(len(pairs), -1)

    def take(self, rows: np.ndarray) -> "StarBatch":
        """Return some of the graphs."""
        return StarBatch(self.edges[rows], self.path[rows])


def simple_star_graph(
    rng: np.random.Generator,
    n_graphs: int,
    *,
    degree: int = 3,
    pathlength: int = 5,
    vocab_size: int = 20,
) -> StarBatch:
    """Draw stars whose arms all begin at the start and are equally long.

    Args:
        rng: Where to draw from.
        n_graphs: How many graphs.
        degree: Arms of a star.
        pathlength: Nodes of an arm, start and goal included.
        vocab_size: Nodes are numbers below this.

    Raises:
        ArgumentError: There are not enough numbers for the nodes.
    """
    n_nodes = 1 + degree * (pathlength - 1)
    _check_room(n_nodes, vocab_size, degree=degree, shortest=pathlength)
    nodes = _distinct_nodes(rng, n_graphs, n_nodes, vocab_size)
    rest = nodes[:, 1:].reshape(n_graphs, degree, pathlength - 1)
    start = np.broadcast_to(nodes[:, :1, None], (n_graphs, degree, 1))
    arms = np.concatenate([start, rest], axis=2)
    return StarBatch(_shuffled_edges(rng, arms), arms[:, 0].copy())


def asymmetric_variable_armlength_star_graph(
    rng: np.random.Generator,
    n_graphs: int,
    *,
    degree: int,
    min_pathlength: int,
    max_pathlength: int,
    vocab_size: int,
    min_plan_length: int,
) -> StarBatch:
    """Draw stars whose arms differ in length and pass through the centre.

    Arm 0 is the path: it begins before the centre, or there, and the wrong arms end no sooner than
    `min_plan_length` edges after it.

    Args:
        rng: Where to draw from.
        n_graphs: How many graphs.
        degree: Arms of a star.
        min_pathlength: Fewest nodes of an arm.
        max_pathlength: Most nodes of an arm.
        vocab_size: Nodes are numbers below this.
        min_plan_length: Fewest edges of an arm after the centre.

    Raises:
        ArgumentError: There are not enough numbers for the nodes, or arms too short for the plan.
    """
    most = degree * (max_pathlength - 1) + 1
    _check_room(most, vocab_size, degree=degree, shortest=min_pathlength)
    if not 1 <= min_plan_length < min_pathlength <= max_pathlength:
        raise ArgumentError(
            f"min_plan_length {min_plan_length!r}, min_pathlength {min_pathlength!r} and "
            f"max_pathlength {max_pathlength!r} should ascend from 1 on, the first one strictly"
        )
    lengths = rng.integers(min_pathlength, max_pathlength, size=(n_graphs, degree), endpoint=True)
    centre_at = rng.integers(0, lengths - min_plan_length)
    nodes = _distinct_nodes(rng, n_graphs, most, vocab_size)
    at = np.arange(max_pathlength)
    own = np.cumsum(lengths - 1, axis=1) - (lengths - 1) + 1
    index = own[..., None] + at - (at > centre_at[..., None])
    index = np.where(at == centre_at[..., None], 0, np.minimum(index, most - 1))
    arms = np.take_along_axis(nodes[:, None], index, axis=2)
    arms = np.where(at < lengths[..., None], arms, -1)
    return StarBatch(_shuffled_edges(rng, arms), arms[:, 0].copy())


def _check_room(n_nodes: int, vocab_size: int, *, degree: int, shortest: int) -> None:
    if degree < 1 or shortest < 2:
        raise ArgumentError(
            f"degree {degree!r} and {shortest!r} nodes an arm; a star has an arm of two nodes"
        )
    if n_nodes > vocab_size:
        raise ArgumentError(
            f"the nodes of a star may be {n_nodes}, and vocab_size is {vocab_size!r}; "
            "give fewer or shorter arms, or more numbers"
        )


def _distinct_nodes(
    rng: np.random.Generator, n_graphs: int, n_nodes: int, vocab_size: int
) -> np.ndarray:
    return rng.random((n_graphs, vocab_size)).argsort(axis=1)[:, :n_nodes]


def _shuffled_edges(rng: np.random.Generator, arms: np.ndarray) -> np.ndarray:
    """Return the edges along all arms, shuffled, with those of absent nodes at the end."""
    edges = np.stack([arms[..., :-1], arms[..., 1:]], axis=3).reshape(len(arms), -1, 2)
    absent = edges[..., 1] < 0
    edges[absent] = -1
    order = np.where(absent, 2.0, rng.random(absent.shape)).argsort(axis=1)
    return np.take_along_axis(edges, order[..., None], axis=1)


@dataclass(frozen=True)
class StarLevel:
    """What the graphs of a level look like.

    Attributes:
        degree: Arms of a star.
        shortest: Fewest nodes of an arm.
        longest: Most nodes of an arm.
        plan: Fewest edges of an arm after the centre; None if every arm begins there.
        vocab_size: Nodes are numbers below this.
    """

    degree: int
    shortest: int
    longest: int
    plan: int | None
    vocab_size: int

    def draw(self, rng: np.random.Generator, n_graphs: int) -> StarBatch:
        """Draw graphs of the level."""
        if self.plan is None:
            return simple_star_graph(
                rng,
                n_graphs,
                degree=self.degree,
                pathlength=self.longest,
                vocab_size=self.vocab_size,
            )
        return asymmetric_variable_armlength_star_graph(
            rng,
            n_graphs,
            degree=self.degree,
            min_pathlength=self.shortest,
            max_pathlength=self.longest,
            vocab_size=self.vocab_size,
            min_plan_length=self.plan,
        )


STAR_LEVELS: Mapping[str, StarLevel] = {
    "mini": StarLevel(degree=2, shortest=4, longest=4, plan=None, vocab_size=12),
    "easy": StarLevel(degree=3, shortest=5, longest=5, plan=None, vocab_size=20),
    "medium": StarLevel(degree=3, shortest=3, longest=6, plan=2, vocab_size=20),
    "hard": StarLevel(degree=5, shortest=6, longest=12, plan=5, vocab_size=56),
}
"""Level to what its graphs look like."""


@dataclass(frozen=True, kw_only=True)
class StarGraphSource(LocalSource):
    """`local://star`: prompts are edges, start and goal; targets are the edges of the path.

    No two splits share a graph, whatever its path.

    Attributes:
        level: One of `STAR_LEVELS`.
    """

    level: str = "easy"

    name: ClassVar[str] = "star"

    def _check(self) -> None:
        if self.level not in STAR_LEVELS:
            raise UnknownNameError("level of star graphs", self.level, STAR_LEVELS)

    def propose(self, rng: np.random.Generator, n_rows: int) -> Proposal:
        """Draw graphs."""
        graphs = STAR_LEVELS[self.level].draw(rng, n_rows)

        def render(rows: np.ndarray) -> TextColumns:
            kept = graphs.take(rows)
            return {
                "prompt": render_tokens(kept.prompts()),
                "target": render_tokens(kept.targets()),
            }

        return Proposal(graphs.contents(), render)

    def tokenizer(self) -> SimpleSpaceTokenizer:
        """Return the tokenizer of the nodes."""
        return SimpleSpaceTokenizer.for_numbers(STAR_LEVELS[self.level].vocab_size)

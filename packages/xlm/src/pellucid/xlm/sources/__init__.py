"""Datasets that are generated from a seed, offline, with splits that share no content.

Each is addressable, as in `local://star?level=easy&split=train&seed=42`, which is what
`DatasetManager` takes as its `full_name`. `local_sources` lists them, `open_local` opens one, and
`register_local_source` adds your own.
"""

from pellucid.xlm.sources._addition import AdditionSource
from pellucid.xlm.sources._cfg import GRAMMARS, GrammarSource
from pellucid.xlm.sources._corpus import CorpusSource
from pellucid.xlm.sources._grammar import Grammar, Production
from pellucid.xlm.sources._markov import (
    EntropyEstimate,
    HiddenMarkovChain,
    HiddenMarkovSource,
    MarkovChain,
    MarkovSource,
)
from pellucid.xlm.sources._source import (
    SPLITS,
    LocalSource,
    Proposal,
    TextColumns,
    hash_rows,
    render_tokens,
)
from pellucid.xlm.sources._star import (
    STAR_LEVELS,
    StarBatch,
    StarGraphSource,
    StarLevel,
    asymmetric_variable_armlength_star_graph,
    simple_star_graph,
)
from pellucid.xlm.sources._star_files import generate_star_graphs
from pellucid.xlm.sources._sudoku import SudokuSource
from pellucid.xlm.sources._url import (
    address_of,
    is_local,
    local_sources,
    local_tokenizer,
    open_local,
    register_local_source,
)

__all__ = [
    "GRAMMARS",
    "SPLITS",
    "STAR_LEVELS",
    "AdditionSource",
    "CorpusSource",
    "EntropyEstimate",
    "Grammar",
    "GrammarSource",
    "HiddenMarkovChain",
    "HiddenMarkovSource",
    "LocalSource",
    "MarkovChain",
    "MarkovSource",
    "Production",
    "Proposal",
    "StarBatch",
    "StarGraphSource",
    "StarLevel",
    "SudokuSource",
    "TextColumns",
    "address_of",
    "asymmetric_variable_armlength_star_graph",
    "generate_star_graphs",
    "hash_rows",
    "is_local",
    "local_sources",
    "local_tokenizer",
    "open_local",
    "register_local_source",
    "render_tokens",
    "simple_star_graph",
]

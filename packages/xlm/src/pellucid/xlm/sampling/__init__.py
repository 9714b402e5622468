"""How texts are written: random numbers that belong to rows, and one loop for masked families.

`fill` takes an order (which positions next), a token policy (what is written there), a stop rule
and remasking, and a function of the family that reads. `RowStreams` gives every row numbers of its
own, so that a sample depends neither on the batch that it is drawn in nor on padding.
"""

from pellucid.xlm.sampling._counts import (
    Chance,
    CountRule,
    DoubtLimit,
    EvenShare,
    FixedCount,
    count_within,
    share_of_steps,
)
from pellucid.xlm.sampling._doubts import DOUBTS, Doubt, doubts_at
from pellucid.xlm.sampling._fill import Read, fill
from pellucid.xlm.sampling._filling import FillingPredictor
from pellucid.xlm.sampling._opening import Opening, PresentBlock, block_numbers
from pellucid.xlm.sampling._order import FillOrder, OrderPolicy, rank
from pellucid.xlm.sampling._prompted import PromptedPredictor
from pellucid.xlm.sampling._remasking import Remasking
from pellucid.xlm.sampling._stops import StopAtStrings, StopAtToken, StopRule
from pellucid.xlm.sampling._streams import RowStreams, Stream
from pellucid.xlm.sampling._texts import FillBatch, Filled, FilledDict, Reading, Texts
from pellucid.xlm.sampling._tokens import TokenPolicy

__all__ = [
    "DOUBTS",
    "Chance",
    "CountRule",
    "Doubt",
    "DoubtLimit",
    "EvenShare",
    "FillBatch",
    "FillOrder",
    "Filled",
    "FilledDict",
    "FillingPredictor",
    "FixedCount",
    "Opening",
    "OrderPolicy",
    "PresentBlock",
    "PromptedPredictor",
    "Read",
    "Reading",
    "Remasking",
    "RowStreams",
    "StopAtStrings",
    "StopAtToken",
    "StopRule",
    "Stream",
    "Texts",
    "TokenPolicy",
    "block_numbers",
    "count_within",
    "doubts_at",
    "fill",
    "rank",
    "share_of_steps",
]

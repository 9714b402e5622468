"""Small evaluations on data made on the spot, without any download.

Induction on random tokens that repeat, and the identification of an indirect object in sentences
made of templates. Names are those that users of TransformerLens know.
"""

from pellucid.bridge._analysis._evals_induction import (
    InductionResult,
    induction_loss,
    repeat_tokens,
)
from pellucid.bridge._analysis._evals_ioi import IOIDataset, ioi_eval

__all__ = ["IOIDataset", "InductionResult", "induction_loss", "ioi_eval", "repeat_tokens"]

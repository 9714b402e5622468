"""What directions of a weight mean in tokens, by its singular vectors."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.bridge._caches._norms import Reader
from pellucid.bridge._weights._factored import FactoredMatrix
from pellucid.bridge._weights._writers import find_norm, find_unembedding
from pellucid.core import ArgumentError

_TYPES = ("OV", "w_in", "w_out")


class SVDInterpreter:
    """Reads singular vectors of weights as scores of tokens.

    Millidge and Black 2022, "The singular value decompositions of transformer weight matrices are
    highly interpretable".

    Args:
        model: A bridge.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def get_singular_vectors(
        self,
        vector_type: str,
        layer_index: int,
        num_vectors: int = 10,
        head_index: int | None = None,
    ) -> Float[Tensor, "d_vocab 1 k"]:
        """Return the score of every token along the first singular vectors on the stream's side.

        Args:
            vector_type: "OV" for what a head writes, "w_in" for what neurons read, "w_out" for what
                they write.
            layer_index: The block.
            num_vectors: How many vectors, largest singular value first.
            head_index: The head, for "OV".

        Returns:
            Of shape (d_vocab, 1, k). The final norm's weight is in it; the sign of a singular
            vector means nothing.

        Raises:
            ArgumentError: (a ValueError) If there is no such type, layer, head or number.
        """
        matrix = self._matrix(vector_type, layer_index, head_index)
        n_vectors = min(matrix.ldim, matrix.mdim, matrix.rdim)
        if not 1 <= num_vectors <= n_vectors:
            raise ArgumentError(f"num_vectors must lie in 1..{n_vectors}, got {num_vectors!r}.")
        directions = matrix.V[:, :num_vectors]
        unembed, _ = find_unembedding(self.model)
        table = self.model.hook_table()
        if "ln_final.hook_scale" in table:
            norm, formula = find_norm(table, "ln_final")
            reader = Reader(owner="ln_final", layer=norm, formula=formula)
            unembed = reader.read(unembed.T.to(directions), is_weighted=True).T
        return (unembed.T.to(directions) @ directions).unsqueeze(1)

    def _matrix(self, vector_type: str, layer: int, head: int | None) -> FactoredMatrix:
        if vector_type not in _TYPES:
            known = ", ".join(map(repr, _TYPES))
            raise ArgumentError(f"vector_type must be one of {known}, got {vector_type!r}.")
        n_layers = self.model.cfg.n_layers
        if not 0 <= layer < n_layers:
            raise ArgumentError(f"layer_index must lie in 0..{n_layers - 1}, got {layer!r}.")
        block = f"{next(iter(self.model._stacks))}.{layer}"
        with torch.no_grad():
            if vector_type == "OV":
                circuit = self.model.get_circuit(f"{block}.attn", "OV")
                if head is None or not 0 <= head < circuit.shape[0]:
                    last = circuit.shape[0] - 1
                    raise ArgumentError(f"head_index must lie in 0..{last} for 'OV', got {head!r}.")
                return circuit[head]
            if vector_type == "w_out":
                return _whole(self.model.get_weight(f"{block}.mlp.W_out"))
            weight = self.model.get_weight(f"{block}.mlp.W_in")
            return _whole((weight * self._norm_weight(block).unsqueeze(-1)).mT)

    def _norm_weight(self, block: str) -> Tensor:
        table = self.model.hook_table()
        owner = next(
            (f"{block}.{n}" for n in ("ln2", "ln1") if f"{block}.{n}.hook_in" in table), ""
        )
        one = torch.ones(self.model.cfg.d_model)
        if f"{owner}.hook_scale" not in table:
            return one
        norm, formula = find_norm(table, owner)
        weight = getattr(norm, "weight", None)
        return one if weight is None else weight + formula.offset


def _whole(matrix: Tensor) -> FactoredMatrix:
    matrix = matrix.detach()
    return FactoredMatrix(matrix, torch.eye(matrix.shape[-1]).to(matrix))

"""The methods of a bridge that concern what heads and layers do to each other."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.bridge._caches._norms import residual_directions
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._model._weighing import Weighing
from pellucid.bridge._weights._composition import CompositionScores, score_all_pairs
from pellucid.bridge._weights._writers import list_writers, sum_biases
from pellucid.core import ArgumentError


class Analysing(Weighing):
    """What follows from the weights alone."""

    def tokens_to_residual_directions(self, tokens: Any) -> Float[Tensor, "*rest d_model"]:
        """Return the direction in the residual stream that raises each token's logit.

        It is the token's column of the unembedding, as the weights are: what the final norm does
        before it is not in it.

        Args:
            tokens: One token as text, an id, or a tensor of ids with at most two axes.

        Returns:
            Of the shape of the ids, and an axis of d_model.

        Raises:
            ArgumentError: (a ValueError) If it is none of these, or an id is of no token.
            ArchitectureError: (a ValueError) If logits are not one projection of the stream.
        """
        return residual_directions(self, tokens)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Return what biases have added to the stream before a block, whatever the input.

        Args:
            layer: The block; the number of blocks means after the last one.
            mlp_input: Whether the attention of that block counts as well.
            include_mlp_biases: Whether biases of MLPs count.

        Raises:
            ArgumentError: (a ValueError) If there is no such place.
            ArchitectureError: (a ValueError) If that depends on the input: a norm stands between,
                or experts have biases.
        """
        n_layers = len(self._first_stack())
        if not 0 <= layer <= n_layers or (mlp_input and layer == n_layers):
            raise ArgumentError(
                f"layer={layer!r}{' with mlp_input' if mlp_input else ''} lies outside of the "
                f"{n_layers} blocks."
            )
        blocks = list_writers(self)
        chosen = [writer for block in blocks[:layer] for writer in block]
        if mlp_input:
            chosen += [writer for writer in blocks[layer] if writer.kind != "mlp"]
        if not include_mlp_biases:
            chosen = [writer for writer in chosen if writer.kind != "mlp"]
        for writer in chosen:
            self._check_bias(writer.kind, writer.layer, writer.projection)
        weight = next(self.original_model.parameters())
        return sum_biases(chosen, self.cfg.d_model, weight.detach())

    def _check_bias(self, kind: str, layer: int, projection: Any) -> None:
        if projection is not None:
            return
        part: Any = self.get_component(f"{self._block_name(layer)}.{kind}").original_component
        names = [] if part is None else [name for name, _ in part.named_parameters()]
        biased = [name for name in names if "bias" in name]
        if biased:
            raise ArchitectureError(
                f"what the biases of {kind} in block {layer} add depends on the input "
                f"({biased[0]}), so they have no sum."
            )

    def all_composition_scores(self, mode: str) -> CompositionScores:
        """Return how much each head's queries, keys or values read of what earlier heads write.

        The weights are taken as they are; fold norms into them first for scores that heed norms.

        Args:
            mode: "Q", "K" or "V".

        Raises:
            ArgumentError: (a ValueError) If the mode is another one.
            ArchitectureError: (a ValueError) If the model has several stacks of blocks.
        """
        if mode not in ("Q", "K", "V"):
            raise ArgumentError(f"mode must be 'Q', 'K' or 'V', got {mode!r}.")
        if len(self._stacks) != 1:
            raise ArchitectureError(
                f"heads of one stack of blocks compose, this model has {', '.join(self._stacks)}."
            )
        with torch.no_grad():
            layers, writing = self.OV_for_attn_layers()
            reading = writing if mode == "V" else self.QK_for_attn_layers()[1]
            reading = reading.T if mode == "K" else reading
            scores = score_all_pairs(writing, reading)
        labels = [f"L{layer}H{head}" for layer in layers for head in range(scores.shape[1])]
        return CompositionScores(scores=scores, layer_indices=layers, head_labels=labels)

    def composition_layer_indices(self) -> list[int]:
        """Return the blocks that `all_composition_scores` is about: those with attention."""
        return [number for number, _ in self.blocks_with("attn")]

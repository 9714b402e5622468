"""The methods of a bridge that concern weights in the shapes that its users know."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._errors import WeightError
from pellucid.bridge._model._naming import Naming
from pellucid.bridge._model._state import text_config
from pellucid.bridge._weights._factored import FactoredMatrix
from pellucid.bridge._weights._table import WeightSpec, describe_weights

_LOGGER = logging.getLogger(__name__)

_OF_ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
_OF_MLP = ("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out")
_OF_PARTS = {
    "W_E": "embed.W_E",
    "W_U": "unembed.W_U",
    "b_U": "unembed.b_U",
    "W_pos": "pos_embed.W_pos",
}
STACKED = {
    **{name: f"attn.{name}" for name in _OF_ATTENTION},
    **{name: f"mlp.{name}" for name in _OF_MLP},
}
"""The weights that a bridge has for all of its blocks at once."""


class Weighing(Naming):
    """Weights as views of the model's parameters, which get the gradients.

    Every access reads the parameters as they are at that time. Query heads that share a key head
    share its weights: those of keys and values have an axis of key heads, and `expand_key_heads`
    repeats them so that there is one for each query head.
    """

    def weight_table(self) -> Mapping[str, WeightSpec]:
        """Return all weights by name, such as "blocks.0.attn.W_Q", with their shapes."""
        held = self.__dict__.get("_weight_table")
        if held is None:
            held = describe_weights(self.original_model, self.adapter, text_config(self.hf_config))
            self.__dict__["_weight_table"] = held
        return held

    def forget_weights(self) -> None:
        """Look anew for weights, after modules or biases of the model have been changed."""
        self.__dict__.pop("_weight_table", None)

    def get_weight(self, name: str) -> Tensor:
        """Return one weight by name.

        Raises:
            WeightError: (an AttributeError) If the model has none of this name.
            ArchitectureError: (a ValueError) If it is quantised, kept elsewhere or adapted.
        """
        spec = self.weight_table().get(name)
        if spec is None:
            owner, _, short = name.rpartition(".")
            near = [n.rpartition(".")[2] for n in self.weight_table() if n.startswith(owner + ".")]
            known = f"{owner} has {', '.join(near)}" if near else "weight_table() lists all"
            raise WeightError(f"the model has no weight {name!r}: {known}. {_why_absent(short)}")
        return spec.source.get()

    def expand_key_heads(self, name: str) -> Tensor:
        """Return a weight of keys or values with one head for each query head.

        Args:
            name: Such as "blocks.0.attn.W_K".

        Returns:
            Its heads, each repeated for the queries that share it; a weight that has as many key
            heads as query heads, or none, as it is.

        Raises:
            WeightError: (an AttributeError) If the model has none of this name.
        """
        weight, spec = self.get_weight(name), self.weight_table()[name]
        n_queries = spec.n_queries
        if n_queries is None or weight.shape[0] == n_queries:
            return weight
        return weight.repeat_interleave(n_queries // weight.shape[0], dim=0)

    def stack_params_for(
        self,
        submodule: str,
        attr_path: str,
        reshape_fn: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[list[int], Tensor]:
        """Return a weight of all blocks that have a part, and the numbers of these blocks.

        Args:
            submodule: The part, such as "attn".
            attr_path: The weight within a block, such as "attn.W_Q".
            reshape_fn: Applied to each block's weight.

        Returns:
            The numbers, and the weights of shape (layer, ...).

        Raises:
            WeightError: (an AttributeError) If no block has the part, a block with the part does
                not have the weight, or its shape differs from block to block.
        """
        found = self.blocks_with(submodule)
        if not found:
            raise WeightError(f"no block has a part {submodule!r}: blocks are {self._kinds()}.")
        held = [self.get_weight(f"{part.name}.{attr_path}") for _, part in found]
        held = held if reshape_fn is None else [reshape_fn(weight) for weight in held]
        return [number for number, _ in found], self._stack(attr_path, held)

    # Of all blocks at once.

    @property
    def W_Q(self) -> Tensor:  # noqa: N802 - the names its users know
        """Query weights, of shape (layer, head, d_model, d_head)."""
        return self._of_blocks("W_Q")

    @property
    def W_K(self) -> Tensor:  # noqa: N802
        """Key weights, of shape (layer, kv_head, d_model, d_head)."""
        return self._of_blocks("W_K")

    @property
    def W_V(self) -> Tensor:  # noqa: N802
        """Value weights, of shape (layer, kv_head, d_model, d_head)."""
        return self._of_blocks("W_V")

    @property
    def W_O(self) -> Tensor:  # noqa: N802
        """Output weights of heads, of shape (layer, head, d_head, d_model)."""
        return self._of_blocks("W_O")

    @property
    def b_Q(self) -> Tensor:  # noqa: N802
        """Query biases, of shape (layer, head, d_head)."""
        return self._of_blocks("b_Q")

    @property
    def b_K(self) -> Tensor:  # noqa: N802
        """Key biases, of shape (layer, kv_head, d_head)."""
        return self._of_blocks("b_K")

    @property
    def b_V(self) -> Tensor:  # noqa: N802
        """Value biases, of shape (layer, kv_head, d_head)."""
        return self._of_blocks("b_V")

    @property
    def b_O(self) -> Tensor:  # noqa: N802
        """Biases of attention's output, of shape (layer, d_model)."""
        return self._of_blocks("b_O")

    @property
    def W_in(self) -> Tensor:  # noqa: N802
        """Weights into the neurons, of shape (layer, d_model, d_mlp); experts add an axis."""
        return self._of_blocks("W_in")

    @property
    def W_gate(self) -> Tensor | None:  # noqa: N802
        """Weights of the neurons' gates, shaped as `W_in`; None if no block has any."""
        has_gate = any(name.endswith(".mlp.W_gate") for name in self.weight_table())
        return self._of_blocks("W_gate") if has_gate else None

    @property
    def W_out(self) -> Tensor:  # noqa: N802
        """Weights out of the neurons, of shape (layer, d_mlp, d_model); experts add an axis."""
        return self._of_blocks("W_out")

    @property
    def b_in(self) -> Tensor:
        """Biases of the neurons, of shape (layer, d_mlp)."""
        return self._of_blocks("b_in")

    @property
    def b_gate(self) -> Tensor:
        """Biases of the neurons' gates, of shape (layer, d_mlp)."""
        return self._of_blocks("b_gate")

    @property
    def b_out(self) -> Tensor:
        """Biases of the MLP's output, of shape (layer, d_model)."""
        return self._of_blocks("b_out")

    # Outside of the blocks.

    @property
    def W_E(self) -> Tensor:  # noqa: N802
        """Token embeddings, of shape (d_vocab, d_model)."""
        return self.get_weight("embed.W_E")

    @property
    def W_pos(self) -> Tensor:  # noqa: N802
        """Position embeddings, of shape (pos, d_model), without rows that no position reads."""
        return self.get_weight("pos_embed.W_pos")

    @property
    def W_E_pos(self) -> Tensor:  # noqa: N802
        """Token embeddings and below them position embeddings, of shape (row, d_model)."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def W_U(self) -> Tensor:  # noqa: N802
        """Unembedding, of shape (d_model, d_vocab)."""
        return self.get_weight("unembed.W_U")

    @property
    def b_U(self) -> Tensor:  # noqa: N802
        """Biases of the logits, of shape (d_vocab)."""
        return self.get_weight("unembed.b_U")

    # Circuits.

    @property
    def QK(self) -> FactoredMatrix:  # noqa: N802
        """What each head's scores are made by, of shape (layer, head, d_model, d_model)."""
        return self.QK_for_attn_layers()[1]

    @property
    def OV(self) -> FactoredMatrix:  # noqa: N802
        """What each head writes of what it reads, of shape (layer, head, d_model, d_model)."""
        return self.OV_for_attn_layers()[1]

    def QK_for_attn_layers(self) -> tuple[list[int], FactoredMatrix]:  # noqa: N802
        """Return the numbers of the blocks with attention, and `QK` of these."""
        return self._stack_circuits("QK")

    def OV_for_attn_layers(self) -> tuple[list[int], FactoredMatrix]:  # noqa: N802
        """Return the numbers of the blocks with attention, and `OV` of these."""
        return self._stack_circuits("OV")

    def get_circuit(self, owner: str, which: str) -> FactoredMatrix:
        """Return one block's `QK` or `OV`, of shape (head, d_model, d_model).

        Args:
            owner: The attention, such as "blocks.0.attn".
            which: "QK" or "OV".

        Raises:
            WeightError: (an AttributeError) If the block has no such weights, or its keys and
                values are made of a latent, so that no matrix on the stream stands for them.
        """
        for letter in which if which == "QK" else "V":
            spec = self.weight_table().get(f"{owner}.W_{letter}")
            if spec is not None and not spec.reads_stream:
                raise WeightError(
                    f"{owner} makes keys and values of a latent that it normalises: they are not "
                    f"linear in the stream, and there is no {which}. W_K and W_V read the latent."
                )
        if which == "QK":
            query, key = self.get_weight(f"{owner}.W_Q"), self.expand_key_heads(f"{owner}.W_K")
            return FactoredMatrix(query, key.mT)
        value, output = self.expand_key_heads(f"{owner}.W_V"), self.get_weight(f"{owner}.W_O")
        return FactoredMatrix(value, output)

    # All of them.

    def get_params(self) -> dict[str, Tensor]:
        """Return the weights of embeddings, norms, attention and MLPs by name.

        Weights of keys and values have one head for each query head, and biases that the model
        does not have are zeros. Gradients flow to the model's parameters.
        """
        held: dict[str, Tensor] = {}
        for name in self.weight_table():
            held[name] = self.expand_key_heads(name)
        for name, weight in list(held.items()):
            owner, _, short = name.rpartition(".")
            bias = f"{owner}.b_{short.removeprefix('W_')}"
            if short.startswith("W_") and short not in ("W_E", "W_pos") and bias not in held:
                held[bias] = weight.new_zeros(_bias_shape(short, weight))
        return held

    def tl_parameters(self) -> dict[str, Tensor]:
        """Return what `get_params` returns."""
        return self.get_params()

    def tl_named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Return the pairs of names and weights that `get_params` returns."""
        return iter(self.get_params().items())

    # How.

    def __getattr__(self, name: str) -> Any:
        # A property that raises AttributeError sends Python here; it is to say what is missing.
        if name in STACKED:
            return self._of_blocks(name)
        if name in _OF_PARTS:
            return self.get_weight(_OF_PARTS[name])
        if name in ("QK", "OV"):
            return self._stack_circuits(name)[1]
        return super().__getattr__(name)

    def _of_blocks(self, short: str) -> Tensor:
        if "blocks" not in self._stacks:
            stacks = ", ".join(self._stacks)
            raise WeightError(
                f"{short} of all blocks needs one stack of blocks, this model has {stacks}. Take "
                f"it block by block: bridge.{next(iter(self._stacks))}[0].attn.W_Q."
            )
        path = STACKED[short]
        part = path.partition(".")[0]
        numbers, stacked = self.stack_params_for(part, path)
        n_blocks = len(self._first_stack())
        if len(numbers) < n_blocks:
            _LOGGER.warning(
                "%s is that of blocks %s: the other ones of %d have no %s.",
                short, numbers, n_blocks, part,
            )  # fmt: skip
        return stacked

    def _stack_circuits(self, which: str) -> tuple[list[int], FactoredMatrix]:
        found = self.blocks_with("attn")
        if not found:
            raise WeightError(f"no block has attention: blocks are {self._kinds()}.")
        held = [self.get_circuit(f"{part.name}.attn", which) for _, part in found]
        factors = [self._stack(which, [getattr(one, side) for one in held]) for side in ("A", "B")]
        return [number for number, _ in found], FactoredMatrix(*factors)

    def _stack(self, name: str, held: list[Tensor]) -> Tensor:
        shapes = list(dict.fromkeys(tuple(weight.shape) for weight in held))
        if len(shapes) > 1:
            raise WeightError(
                f"{name} differs in shape from block to block: {', '.join(map(str, shapes))}. Take "
                f"it block by block: bridge.blocks[0].{name}."
            )
        return torch.stack([weight.to(held[0].device) for weight in held])

    def _kinds(self) -> str:
        return ", ".join(dict.fromkeys(self.layer_types()))


def _why_absent(short: str) -> str:
    if short.startswith("b_"):
        return "get_params() has zeros where a model has no bias."
    return "hook_table() lists the parts that there are."


def _bias_shape(short: str, weight: Tensor) -> tuple[int, ...]:
    """Return the shape of the bias that a weight could have."""
    if short == "W_O":
        return (weight.shape[-1],)
    return (*weight.shape[:-2], weight.shape[-1])

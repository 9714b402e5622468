"""The residual stream taken apart: into what layers, heads and embeddings add to it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.bridge._caches._cached import stack_or_none
from pellucid.bridge._caches._norms import NormedActivations
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._slices import Slice
from pellucid.bridge._weights._writers import Writer, list_writers
from pellucid.core import ArgumentError

Labelled = tuple[Tensor, list[str]]
# Relative to the largest entry of a stream.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 0.2}


class StackedActivations(NormedActivations):
    """Parts of the residual stream, along a first axis."""

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Any = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """Return the stream before each block, as the logit lens reads it.

        Args:
            layer: The last block before which it is shown; None and -1 go to the end, after the
                last block.
            incl_mid: Whether it is shown between attention and MLP as well, where a block has such
                a place.
            apply_ln: Whether each is taken for what the norm of `layer` reads, with its own scale.
            pos_slice: Which positions.
            mlp_input: Whether the last one is that between attention and MLP of `layer`.
            return_labels: Whether to return labels: "0_pre", "0_mid", ..., "final_post".

        Returns:
            Of shape (component, [batch], pos, d_model), and the labels.
        """
        last = self._place(layer)
        parts: list[Tensor] = []
        labels: list[str] = []
        for number in range(last + 1):
            parts.append(self._stream(number, pos_slice))
            labels.append("final_post" if number == self.n_layers else f"{number}_pre")
            is_last = number == last
            wants_middle = mlp_input if is_last else incl_mid and self._has_middle(number)
            if wants_middle and number < self.n_layers:
                parts.append(self._middle(number, pos_slice))
                labels.append(f"{number}_mid")
        stack = torch.stack(parts)
        if apply_ln:
            stack = self.apply_ln_to_stack(
                stack, last, mlp_input=mlp_input, pos_slice=pos_slice, recompute_ln=True
            )
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Return what embeddings and the layers before one add to the stream.

        Args:
            layer: The block; None and -1 mean after the last one.
            mlp_input: Whether to go on to the MLP of that block.
            mode: "all", "attn" (with mixers that stand in its place) or "mlp".
            apply_ln: Whether to show them as the norm of `layer` does, with its scale of the run.
            pos_slice: Which positions.
            incl_embeds: Whether embeddings are among them.
            return_labels: Whether to return labels: "embed", "pos_embed", "0_attn_out", ...

        Returns:
            Of shape (component, [batch], pos, d_model), and the labels. With mode "all" and
            embeddings they sum to the stream.

        Raises:
            ArgumentError: (a ValueError) If the mode is unknown.
            ArchitectureError: (a ValueError) If the stream is no sum of what is known to be added.
        """
        if mode not in ("all", "attn", "mlp"):
            raise ArgumentError(f"mode must be 'all', 'attn' or 'mlp', got {mode!r}.")
        placed = self._place(layer)
        chosen = [
            writer
            for writer in self._writers(placed, mlp_input)
            if mode == "all" or (writer.kind == "mlp") == (mode == "mlp")
        ]
        parts, labels = self._embeddings(pos_slice) if incl_embeds else ([], [])
        parts += [self._written(writer, pos_slice) for writer in chosen]
        labels += [writer.label for writer in chosen]
        stack = stack_or_none(parts, self._stream(0, pos_slice))
        if mode == "all" and incl_embeds:
            self._check_sum(stack.sum(0), placed, mlp_input, pos_slice)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, placed, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer *rest"]:
        """Return one kind of activation of all layers before one, along a first axis.

        Args:
            activation_name: Such as "pattern" or "scale".
            layer: The layer before which to end; -1 means all.
            sublayer_type: The part of the block, such as "ln1", where the name alone does not say.
        """
        held = [
            self[activation_name, number, sublayer_type] for number in range(self._place(layer))
        ]
        if not held:
            raise ArgumentError(f"there is no layer before layer {layer!r} to stack.")
        return torch.stack(held)

    def compute_head_results(self) -> None:
        """Keep what each head writes, `hook_result`, which would else be computed when read."""
        for name in self._table:
            if name.endswith(".hook_result") and name not in self.cache_dict:
                self.cache_dict[name] = self[name]

    def stack_head_results(
        self,
        layer: int = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """Return what each head of the layers before one adds to the stream.

        Args:
            layer: The layer; -1 means after the last one.
            return_labels: Whether to return labels: "L0H0", ...
            incl_remainder: Whether the last entry is what of the stream no head has added.
            pos_slice: Which positions.
            apply_ln: Whether to show them as the norm of `layer` does, with its scale of the run.

        Returns:
            Of shape (component, [batch], pos, d_model), and the labels.
        """
        placed = self._place(layer)
        whole = self._stream(placed, pos_slice)
        stack, labels = self._heads(self._writers(placed, False), pos_slice, whole)
        if incl_remainder:
            stack = torch.cat([stack, (whole - stack.sum(0)).unsqueeze(0)])
            labels = [*labels, "remainder"]
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, placed, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def get_head_results(self, layer: int, pos_slice: Any = None) -> Float[Tensor, "*rest d_model"]:
        """Return what each head of one layer adds to the stream, ([batch], pos, head, d_model).

        Raises:
            ArchitectureError: (a ValueError) If the layer has no attention by heads.
        """
        placed = layer + self.n_layers if layer < 0 else layer
        for writer in self._writers(min(max(placed, 0) + 1, self.n_layers), False):
            if writer.layer == placed and writer.kind == "attn" and writer.n_heads is not None:
                return self._head_results(writer, pos_slice)
        raise ArchitectureError(f"layer {layer!r} has no attention whose heads are known.")

    # Parts.

    def _has_middle(self, layer: int) -> bool:
        return f"{next(iter(self.bridge._stacks))}.{layer}.hook_resid_mid" in self._table

    def _writers(self, placed: int, mlp_input: bool) -> list[Writer]:
        """Return what adds to the stream before a place."""
        blocks = list_writers(self.bridge)
        found = [writer for block in blocks[:placed] for writer in block]
        if mlp_input:
            if placed == self.n_layers or not self._has_middle(placed):
                raise ArgumentError(
                    f"there is no stream between attention and MLP at layer {placed}: the blocks "
                    "have none, or they have ended."
                )
            found += [writer for writer in blocks[placed] if writer.kind != "mlp"]
        return found

    def _middle(self, layer: int, pos_slice: Any) -> Tensor:
        # OPT has the positions of all samples in one row there.
        held = self["resid_mid", layer].view_as(self["resid_pre", layer])
        return Slice(pos_slice).apply(held, dim=-2)

    def _written(self, writer: Writer, pos_slice: Any) -> Tensor:
        stream = self[("resid_pre", writer.layer)]
        return Slice(pos_slice).apply(self[writer.name].view_as(stream), dim=-2)

    def _embeddings(self, pos_slice: Any) -> tuple[list[Tensor], list[str]]:
        """Return the embeddings that sum to the first stream, or that stream where none do."""
        whole = self._stream(0, pos_slice)
        names = [name for name in ("embed", "pos_embed") if f"hook_{name}" in self._table]
        if all(f"hook_{name}" in self for name in names):
            parts = [self._at(f"hook_{name}", pos_slice).expand_as(whole) for name in names]
            # A norm, a factor or a projection may stand between them and the stream.
            if parts and _gap(sum(parts[1:], parts[0]), whole) <= _tolerance(whole):
                return parts, names
        return [whole], ["embed"]

    def _heads(
        self, writers: list[Writer], pos_slice: Any, like: Tensor
    ) -> tuple[Tensor, list[str]]:
        """Return what the heads among some writers add, without biases."""
        parts: list[Tensor] = []
        labels: list[str] = []
        for writer in writers:
            if writer.kind == "attn" and writer.n_heads is not None:
                parts.append(self._head_results(writer, pos_slice).movedim(-2, 0))
                labels += [f"L{writer.layer}H{head}" for head in range(writer.n_heads)]
        return torch.cat(parts) if parts else like.new_zeros(0, *like.shape), labels

    def _head_results(self, writer: Writer, pos_slice: Any) -> Tensor:
        kept = self.cache_dict.get(f"{str(writer.inner).removesuffix('.o.hook_in')}.hook_result")
        if kept is not None:
            made = writer.carry(Slice(pos_slice).apply(kept, dim=-3))
        else:
            z = self._at(str(writer.inner), pos_slice, axis=-3)
            weight = writer.weight().unflatten(0, (writer.n_heads or 1, -1)).to(z)
            made = torch.einsum("...hd,hdm->...hm", z, weight)
        divisor = self._divisor(writer, pos_slice)
        return made if divisor is None else (made / divisor.unsqueeze(-2)).to(made.dtype)

    def _divisor(self, writer: Writer, pos_slice: Any) -> Tensor | None:
        """Return what the norm after a writer has divided by, of shape ([batch], pos, 1)."""
        if writer.formula is None or writer.norm_in is None:
            return None
        return writer.formula.scale(self._at(writer.norm_in, pos_slice))

    def _check_sum(self, total: Tensor, placed: int, mlp_input: bool, pos_slice: Any) -> None:
        whole = (self._middle if mlp_input else self._stream)(placed, pos_slice)
        if _gap(total, whole) > _tolerance(whole):
            raise ArchitectureError(
                "what embeddings and layers add does not sum to the stream of this run. Either a "
                "hook has changed the stream itself, or the model adds what its record does not "
                "say; with mode='attn' or 'mlp' the parts are shown all the same."
            )


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.numel() else 0.0


def _tolerance(whole: Tensor) -> float:
    largest = float(whole.abs().max()) if whole.numel() else 0.0
    return _TOLERANCE.get(whole.dtype, 1e-3) * max(largest, 1.0)

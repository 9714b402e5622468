"""The residual stream taken apart down to neurons."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._caches._stacks import StackedActivations
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._slices import Slice
from pellucid.bridge._weights._writers import Writer
from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Which neurons, where, and along which directions."""

    neurons: Slice
    pos_slice: Any
    directions: Tensor | None = None


class NeuronActivations(StackedActivations):
    """What single neurons add to the stream, and the stream as a sum of the finest parts."""

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: Any = None,
        pos_slice: Any = None,
        project_output_onto: Tensor | None = None,
    ) -> Tensor:
        """Return what each neuron of one layer adds to the stream.

        Args:
            layer: The layer.
            neuron_slice: Which neurons.
            pos_slice: Which positions.
            project_output_onto: Directions to measure it along, of shape (d_model) or (d_model, k).

        Returns:
            Of shape ([batch], pos, neuron, d_model), or ([batch], pos, neuron, [k]).

        Raises:
            ArchitectureError: (a ValueError) If the layer has no neurons that all tokens share:
                there is no MLP, or it is one of experts.
        """
        wanted = self._want(neuron_slice, pos_slice, project_output_onto, False, layer, False)
        writer = self._mlp_writer(layer)
        made = self._neuron_results(writer, wanted)
        if project_output_onto is not None and project_output_onto.ndim == 1:
            return made.squeeze(-1)
        return made

    def stack_neuron_results(
        self,
        layer: int = -1,
        pos_slice: Any = None,
        neuron_slice: Any = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
        mlp_input: bool = False,
    ) -> Any:
        """Return what each neuron of the layers before one adds to the stream.

        Layers of experts, whose neurons not all tokens share, are left out.

        Args:
            layer: The layer; -1 means after the last one.
            pos_slice: Which positions.
            neuron_slice: Which neurons of each layer.
            return_labels: Whether to return labels: "L0N0", ...
            incl_remainder: Whether the last entry is what of the stream no such neuron has added.
            apply_ln: Whether to show them as the norm of `layer` does, with its scale of the run.
            project_output_onto: Directions to measure them along, of shape (d_model) or
                (d_model, k); then no entry is as wide as the stream. With `apply_ln` they stand
                behind the norm, before its weight.
            mlp_input: Whether that norm is the one before the MLP.

        Returns:
            Of shape (component, [batch], pos, d_model), or (component, [batch], pos, [k]), and the
            labels.
        """
        placed = self._place(layer)
        wanted = self._want(
            neuron_slice, pos_slice, project_output_onto, apply_ln, placed, mlp_input
        )
        found = self._writers(placed, False)
        writers = [w for w in found if w.kind == "mlp" and w.projection is not None]
        whole = self._project(self._stream(placed, pos_slice), wanted)
        stack, labels = self._neurons(writers, wanted, whole)
        if incl_remainder:
            stack = torch.cat([stack, (whole - stack.sum(0)).unsqueeze(0)])
            labels = [*labels, "remainder"]
        stack = self._finish(stack, wanted, project_output_onto, apply_ln, placed, mlp_input)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Any = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """Return the stream as the sum of heads, neurons, embeddings and biases.

        What cannot be taken apart further (experts, mixers, latent attention) is one entry.

        Args:
            layer: The block before which the stream is meant; None and -1 mean after the last one.
            mlp_input: Whether the stream between attention and MLP of that block is meant.
            expand_neurons: Whether MLPs are shown by neuron, or as one entry each.
            apply_ln: Whether to show all as the norm of `layer` does, with its scale of the run.
            pos_slice: Which positions.
            return_labels: Whether to return labels.
            project_output_onto: Directions to measure them along, of shape (d_model) or
                (d_model, k). With `apply_ln` they stand behind the norm, before its weight.

        Returns:
            Of shape (component, [batch], pos, d_model), or projected (component, [batch], pos,
            [k]), and the labels: heads, neurons or MLPs, others, embeddings, "bias".
        """
        placed = self._place(layer)
        wanted = self._want(None, pos_slice, project_output_onto, apply_ln, placed, mlp_input)
        writers = self._writers(placed, mlp_input)
        whole = self._stream(0, pos_slice)
        like = self._project(whole, wanted)
        heads, labels = self._heads(writers, pos_slice, whole)
        parts = [self._project(heads, wanted)]
        apart = [w for w in writers if w.kind == "attn" and w.n_heads is not None]
        if expand_neurons:
            mlps = [w for w in writers if w.kind == "mlp" and w.projection is not None]
            neurons, names = self._neurons(mlps, wanted, like)
            parts, labels, apart = [*parts, neurons], labels + names, apart + mlps
        others = [(w.label, self._written(w, pos_slice)) for w in writers if w not in apart]
        embeddings, names = self._embeddings(pos_slice)
        others += list(zip(names, embeddings, strict=True))
        others.append(("bias", self._biases(apart, pos_slice, whole)))
        parts += [self._project(part, wanted).unsqueeze(0) for _, part in others]
        labels += [label for label, _ in others]
        made = torch.cat(parts)
        stack = self._finish(made, wanted, project_output_onto, apply_ln, placed, mlp_input)
        return (stack, labels) if return_labels else stack

    # Parts.

    def _mlp_writer(self, layer: int) -> Writer:
        placed = layer + self.n_layers if layer < 0 else layer
        if not 0 <= placed < self.n_layers:
            raise ArgumentError(f"there is no layer {layer!r}; the model has {self.n_layers}.")
        found = [w for w in self._writers(placed + 1, False) if w.layer == placed]
        for writer in found:
            if writer.kind == "mlp" and writer.projection is not None:
                return writer
        raise ArchitectureError(f"layer {placed} has no neurons that all tokens share.")

    def _neuron_results(self, writer: Writer, wanted: _Wanted) -> Tensor:
        post = self[str(writer.inner)]
        stream = self["resid_pre", writer.layer]
        # OPT has the positions of all samples in one row there.
        post = post.view(*stream.shape[:-1], post.shape[-1])
        post = Slice(wanted.pos_slice).apply(post, dim=-2)
        post = wanted.neurons.apply(post, dim=-1)
        weight = wanted.neurons.apply(writer.weight(), dim=0).to(post)
        made = post.unsqueeze(-1) * self._project(weight, wanted)
        divisor = self._divisor(writer, wanted.pos_slice)
        return made if divisor is None else (made / divisor.unsqueeze(-2)).to(made.dtype)

    def _neurons(
        self, writers: list[Writer], wanted: _Wanted, like: Tensor
    ) -> tuple[Tensor, list[str]]:
        parts: list[Tensor] = []
        labels: list[str] = []
        for writer in writers:
            made = self._neuron_results(writer, wanted)
            parts.append(made.movedim(-2, 0))
            numbers = wanted.neurons.indices(len(writer.weight()))
            labels += [f"L{writer.layer}N{number}" for number in numbers]
        return torch.cat(parts) if parts else like.new_zeros(0, *like.shape), labels

    def _biases(self, writers: list[Writer], pos_slice: Any, like: Tensor) -> Tensor:
        total = torch.zeros_like(like)
        for writer in writers:
            constant = writer.constant(self._divisor(writer, pos_slice))
            total = total if constant is None else total + constant.to(total)
        return total

    # Directions.

    def _want(
        self,
        neuron_slice: Any,
        pos_slice: Any,
        directions: Tensor | None,
        apply_ln: bool,
        placed: int,
        mlp_input: bool,
    ) -> _Wanted:
        """Return what is wanted; where a norm is applied, directions are turned back through it."""
        if directions is not None:
            width = self.bridge.cfg.d_model
            if directions.ndim not in (1, 2) or len(directions) != width:
                raise ArgumentError(
                    f"project_output_onto must have shape ({width},) or ({width}, k), got "
                    f"{tuple(directions.shape)}."
                )
            directions = directions if directions.ndim == 2 else directions.unsqueeze(-1)
            if apply_ln:
                reader = self._reader(placed, mlp_input)
                directions = reader.read(directions.T, is_weighted=False).T
        return _Wanted(
            neurons=Slice.unwrap(neuron_slice), pos_slice=pos_slice, directions=directions
        )

    def _project(self, parts: Tensor, wanted: _Wanted) -> Tensor:
        return parts if wanted.directions is None else parts @ wanted.directions.to(parts)

    def _finish(
        self,
        stack: Tensor,
        wanted: _Wanted,
        directions: Tensor | None,
        apply_ln: bool,
        placed: int,
        mlp_input: bool,
    ) -> Tensor:
        """Apply the norm to parts, or what is left of it to parts that are projected already."""
        if directions is None:
            if not apply_ln:
                return stack
            return self.apply_ln_to_stack(
                stack, placed, mlp_input=mlp_input, pos_slice=wanted.pos_slice
            )
        reader = self._reader(placed, mlp_input) if apply_ln else None
        if reader is not None and reader.formula is not None:
            stack = stack / self._scale(reader, wanted.pos_slice).to(stack)
        return stack.squeeze(-1) if directions.ndim == 1 else stack

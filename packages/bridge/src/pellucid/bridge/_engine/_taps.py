"""Ways in which an activation is read, changed and differentiated, as steps on torch's modules."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._norms import NormFormula, find_formula
from pellucid.bridge._engine._execution import (
    AttentionSteps,
    Scratch,
    Step,
    StepFunction,
    active_execution,
)
from pellucid.bridge._engine._readings import AttentionPlace, Reading, Source, same
from pellucid.bridge._engine._torch_hooks import Side
from pellucid.bridge._errors import HookError
from pellucid.bridge._names._views import Heads, HeadsFirst, Latent, Positions, View, Whole
from pellucid.bridge._weights._projections import bias_of, weight_in_out

Fire = Callable[[Tensor], Tensor]

_WHOLE = Whole()


@runtime_checkable
class Tap(Protocol):
    """One way. `fire` stands for the hook functions: it returns the tensor they leave."""

    def steps(self, fire: Fire) -> Iterable[Step | AttentionSteps]:
        """Return what to install."""
        ...

    def reading(self) -> Reading:
        """Return how the activation follows from what passes, where nothing is changed."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Passing:
    """What a module takes or gives, or a part of it.

    Attributes:
        module: The module.
        side: What it takes, or what it gives.
        view: Which part.
        item: Which element, if the module gives a tuple.
    """

    module: nn.Module
    side: Side
    view: View = _WHOLE
    item: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the module's tensor is left out."""
        view = self.view.view if isinstance(self.view, Latent) else self.view
        return isinstance(view, (Whole, Heads, HeadsFirst, Positions)) and not self.item

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Fire on the tensor as it passes."""
        return [Step(self.module, self.side, _through(self.view, fire), self.item)]

    def reading(self) -> Reading:
        """Read the part."""
        derive = same if isinstance(self.view, Whole) else self.view.get
        return Reading((Source(self.module, self.side, self.item),), derive)


@dataclasses.dataclass(frozen=True, eq=False)
class RowsOf:
    """What holds the positions of all samples in one row, one sample after another, by sample.

    Attributes:
        tap: What is seen so.
        block: The block that it is a part of, which takes samples and positions apart.
        has_more: Whether there are several rows for each position: heads, say.
        n_axes: How many axes it has then.
    """

    tap: Tap
    block: nn.Module
    has_more: bool = False
    n_axes: int = 2

    def steps(self, fire: Fire) -> Iterable[Step | AttentionSteps]:
        """Fire on the samples apart."""
        key = (self.block, "shape")

        def remember(stream: Tensor, scratch: Scratch) -> Tensor:
            scratch[key] = stream.shape[:2]
            return stream

        def fire_by_sample(rows: Tensor) -> Tensor:
            run = active_execution()
            seen = rows if run is None else self._part(rows, run.scratch[key])
            made = fire(seen)
            return rows if made is seen else made.reshape(rows.shape)

        return [Step(self.block, "before", remember), *self.tap.steps(fire_by_sample)]

    def reading(self) -> Reading:
        """Read the samples apart."""
        inner = self.tap.reading()

        def derive(stream: Tensor, *given: Any) -> Tensor:
            return self._part(inner.derive(*given), stream.shape[:2])

        sources = (Source(self.block, "before"), *inner.sources)
        return Reading(sources, derive, inner.needs_weights)

    def _part(self, rows: Tensor, shape: Iterable[int]) -> Tensor:
        # Some parts get rows from one release of an architecture and not from another.
        if rows.ndim > self.n_axes:
            return rows
        return rows.unflatten(0, (*shape, -1) if self.has_more else tuple(shape))


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualMiddle:
    """The stream between two parts of a block.

    The block keeps the stream for its skip connection before it hands it to `reader`, so a change
    seen there alone would be half a change: the block's output gets the difference.

    Attributes:
        reader: What takes the stream first.
        block: The block.
        later: What takes the stream after that, with what `reader` led to: these get the
            difference as well.
    """

    reader: nn.Module
    block: nn.Module
    later: tuple[nn.Module, ...] = ()

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Fire before the reader; correct what the skip connection leads to."""
        key = (self, "difference")

        def read(stream: Tensor, scratch: Scratch) -> Tensor:
            made = fire(stream)
            if made is not stream:
                scratch[key] = made - stream
            return made

        def add(stream: Tensor, scratch: Scratch) -> Tensor:
            # OPT hands its MLP the positions of all samples in one row.
            return stream + scratch[key].view_as(stream) if key in scratch else stream

        def finish(stream: Tensor, scratch: Scratch) -> Tensor:
            made = add(stream, scratch)
            scratch.pop(key, None)
            return made

        return [
            Step(self.reader, "before", read),
            *(Step(module, "before", add) for module in self.later),
            Step(self.block, "after", finish),
        ]

    def reading(self) -> Reading:
        """Read what the reader takes."""
        return Reading((Source(self.reader, "before"),), same)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """A module's output times a constant: what the block really adds to the stream."""

    module: nn.Module
    factor: float

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Fire on the product; a change is divided back."""

        def step(given: Tensor, scratch: Scratch) -> Tensor:
            product = given * self.factor
            made = fire(product)
            return given if made is product else made / self.factor

        return [Step(self.module, "after", step)]

    def reading(self) -> Reading:
        """Read the product."""
        return Reading((Source(self.module, "after"),), lambda given: given * self.factor)


@dataclasses.dataclass(frozen=True, eq=False)
class NormPart:
    """What a normalisation layer divides by, or what that leaves before weight and bias."""

    layer: nn.Module
    width: int
    is_scale: bool

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Compute it from the layer's input; after a change, the layer's output from it."""
        formula = self._formula()
        after = self._fire_scale(formula, fire) if self.is_scale else self._fire_rest(formula, fire)

        def keep(given: Tensor, scratch: Scratch) -> Tensor:
            scratch[self.layer, "input"] = given
            scratch.pop((self.layer, "scale"), None)
            return given

        return [Step(self.layer, "before", keep), Step(self.layer, "after", after)]

    def reading(self) -> Reading:
        """Compute it from the layer's input."""

        def derive(given: Tensor) -> Tensor:
            formula = self._formula()
            with torch.no_grad():
                scale = formula.scale(given)
                return scale if self.is_scale else formula.centre(given) / scale

        return Reading((Source(self.layer, "before"),), derive)

    def _formula(self) -> NormFormula:
        formula = find_formula(self.layer, self.width)
        if formula is None:
            raise HookError(
                f"{type(self.layer).__name__} is neither a LayerNorm nor an RMSNorm as far as "
                "trying it shows. Hook what it takes and gives (hook_in, hook_out) instead."
            )
        return formula

    def _fire_scale(self, formula: NormFormula, fire: Fire) -> StepFunction:
        def step(output: Tensor, scratch: Scratch) -> Tensor:
            given = scratch[self.layer, "input"]
            scale = formula.scale(given)
            made = fire(scale)
            if made is scale:
                return output
            scratch[self.layer, "scale"] = made
            return formula.finish(formula.centre(given) / made, self.layer, output.dtype)

        return step

    def _fire_rest(self, formula: NormFormula, fire: Fire) -> StepFunction:
        def step(output: Tensor, scratch: Scratch) -> Tensor:
            given = scratch[self.layer, "input"]
            scale = scratch.get((self.layer, "scale"))
            scale = formula.scale(given) if scale is None else scale
            normalized = formula.centre(given) / scale
            made = fire(normalized)
            if made is normalized:
                return output
            return formula.finish(made, self.layer, output.dtype)

        return step


@dataclasses.dataclass(frozen=True, eq=False)
class HeadResult:
    """What each head writes to the stream: its z times its part of the output projection."""

    projection: nn.Module
    n_heads: int

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Compute it by head; after a change, the projection's output is the sum and the bias."""
        key = (self.projection, "z")

        def keep(z: Tensor, scratch: Scratch) -> Tensor:
            scratch[key] = z
            return z

        def step(output: Tensor, scratch: Scratch) -> Tensor:
            result = self._project(scratch.pop(key))
            made = fire(result)
            if made is result:
                return output
            bias = bias_of(self.projection)
            total = made.sum(-2)
            return total if bias is None else total + bias

        return [Step(self.projection, "before", keep), Step(self.projection, "after", step)]

    def reading(self) -> Reading:
        """Compute it from what the projection takes."""
        return Reading((Source(self.projection, "before"),), self._project, needs_weights=True)

    def _project(self, gathered: Tensor) -> Tensor:
        z = gathered.unflatten(-1, (self.n_heads, -1))
        weight = weight_in_out(self.projection).unflatten(0, (self.n_heads, -1))
        return torch.einsum("bphd,hdm->bphm", z, weight)


@dataclasses.dataclass(frozen=True, eq=False)
class HeadInput:
    """The stream as each head reads it, before the norm: one copy per head and projection.

    Attributes:
        reader: What takes the stream first: the norm before attention, or attention itself.
        norm: That norm, if there is one.
        projections: For each of query, key and value that is concerned, its module, the view of
            its heads, and their number.
        n_heads: How many copies are shown.
    """

    reader: nn.Module
    norm: nn.Module | None
    projections: tuple[tuple[nn.Module, View, int], ...]
    n_heads: int

    def steps(self, fire: Fire) -> Iterable[Step]:
        """Fire on the copies; after a change, project each head's copy by itself."""
        key = (self, "copies")

        def read(stream: Tensor, scratch: Scratch) -> Tensor:
            copies = self._copy(stream)
            made = fire(copies)
            scratch.pop(key, None)
            if made is not copies:
                # Past the norm's hooks: this is not the pass that they watch.
                scratch[key] = made if self.norm is None else self.norm.forward(made)
            return stream

        def project(module: nn.Module, view: View, n_heads: int) -> StepFunction:
            def step(output: Tensor, scratch: Scratch) -> Tensor:
                copies = scratch.get(key)
                if copies is None:
                    return output
                weight = view.get(weight_in_out(module))
                made = torch.einsum("bphm,mhd->bphd", self._fit(copies, n_heads), weight)
                bias = bias_of(module)
                return view.put(output, made if bias is None else made + view.get(bias))

            return step

        return [
            Step(self.reader, "before", read),
            *(Step(m, "after", project(m, view, n)) for m, view, n in self.projections),
        ]

    def reading(self) -> Reading:
        """Read the stream once for each head, in the same memory."""
        return Reading((Source(self.reader, "before"),), self._copy)

    def _copy(self, stream: Tensor) -> Tensor:
        return stream.unsqueeze(-2).expand(*stream.shape[:-1], self.n_heads, -1)

    def _fit(self, copies: Tensor, n_heads: int) -> Tensor:
        if n_heads == self.n_heads:
            return copies
        # Query heads that share a key head can read different things, their key cannot.
        grouped = copies.unflatten(-2, (n_heads, -1))
        first = grouped[..., :1, :]
        if not torch.equal(grouped, first.expand_as(grouped)):
            raise HookError(
                f"{self.n_heads} query heads share {n_heads} key and value heads, which cannot "
                "read different inputs for each query head. Hook hook_q_input, hook_k_input and "
                "hook_v_input apart."
            )
        return first.squeeze(-2)


@dataclasses.dataclass(frozen=True, eq=False)
class InsideAttention:
    """What exists only between projections: rotated queries and keys, scores, pattern, convolution.

    Attributes:
        module: The attention module, or the state space.
        place: Which of these.
    """

    module: nn.Module
    place: AttentionPlace

    def steps(self, fire: Fire) -> Iterable[AttentionSteps]:
        """Fire inside the module."""
        functions: dict[str, Any] = {self.place: (fire,)}
        return [AttentionSteps(self.module, **functions)]

    def reading(self) -> Reading:
        """Read it, or do again what attention did."""

        def derive(noted: Any) -> Tensor:
            return noted if isinstance(noted, Tensor) else noted.read(self.place)

        return Reading((Source(self.module, self.place),), derive)


def _through(view: View, fire: Fire) -> StepFunction:
    if isinstance(view, Whole):
        return lambda whole, scratch: fire(whole)

    def step(whole: Tensor, scratch: Scratch) -> Tensor:
        part = view.get(whole)
        made = fire(part)
        return whole if made is part else view.put(whole, made)

    return step

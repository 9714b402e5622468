"""What norms and the unembedding make of parts of the residual stream."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.bridge._architectures._norms import NormFormula
from pellucid.bridge._caches._cached import CachedActivations
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._slices import Slice
from pellucid.bridge._weights._writers import find_norm, find_unembedding
from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A norm through which the stream is read; none where it is read as it is.

    Attributes:
        owner: Its name, such as "ln_final".
        layer: The norm.
        formula: What it computes.
    """

    owner: str | None = None
    layer: nn.Module | None = None
    formula: NormFormula | None = None

    def read(self, directions: Tensor, is_weighted: bool) -> Tensor:
        """Return directions such that a part of the stream times them is what the norm's is.

        All but the division by the norm's scale is linear, so it may be done to the directions.

        Args:
            directions: Of shape (..., d_model).
            is_weighted: Whether they stand behind the norm's weight, or before it.
        """
        if self.formula is None:
            return directions
        weight = getattr(self.layer, "weight", None)
        if is_weighted and weight is not None:
            directions = directions * (weight.detach().to(directions) + self.formula.offset)
        return self.formula.centre(directions)


class NormedActivations(CachedActivations):
    """Parts of the stream as norms and logits see them."""

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "*rest d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "*rest d_model"]:
        """Return what a norm makes of parts of the stream, up to its weight and bias.

        A norm is linear but for what it divides by. With that as it was in the run, parts that sum
        to the stream become parts that sum to the norm's `hook_normalized`.

        Args:
            residual_stack: Parts of the stream, of shape (component, [batch], pos, d_model).
            layer: The block whose norm is meant; the final norm for None and -1.
            mlp_input: Whether it is the norm before the MLP.
            pos_slice: Which positions of the run the parts stand for.
            batch_slice: Which samples they stand for.
            has_batch_dim: Whether they have an axis of the batch.
            recompute_ln: Whether each part is taken for a whole stream, with a scale of its own.

        Raises:
            ArchitectureError: (a ValueError) If the norm is no LayerNorm or RMSNorm, or stands on
                the stream itself.
            HookNameError: (a KeyError) If the cache holds neither its scale nor what it takes.
        """
        reader = self._reader(layer, mlp_input)
        if reader.formula is None:
            return residual_stack
        centred = reader.formula.centre(residual_stack)
        if recompute_ln:
            scale = reader.formula.scale(residual_stack)
        else:
            scale = self._scale(reader, pos_slice, batch_slice, has_batch_dim)
        return (centred / scale.to(centred.device)).to(residual_stack.dtype)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "*rest d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "*rest"]:
        """Return how much each part of the stream adds to a logit, or a difference of logits.

        Parts that sum to the last stream have attributions that sum to the logit at `hook_unembed`
        less what biases of the final norm and of the unembedding add whatever the stream is. The
        norm's weight is in them, folded or not.

        Args:
            residual_stack: Parts of the stream, of shape (component, [batch], pos, d_model).
            tokens: The token: a text, an id, or a tensor of ids that broadcasts to the stack's axes
                between the first and the last.
            incorrect_tokens: The token whose logit is subtracted, of the same shape.
            pos_slice: Which positions of the run the parts stand for.
            batch_slice: Which samples they stand for.
            has_batch_dim: Whether they have an axis of the batch.

        Returns:
            Of shape (component, [batch], pos).

        Raises:
            ArgumentError: (a ValueError) If the two sets of tokens differ in shape.
            ArchitectureError: (a ValueError) If logits are not made of the stream by one norm and
                one projection.
        """
        directions = self._directions(tokens, incorrect_tokens).to(residual_stack.device)
        reader = self._reader(None, False)
        directions = reader.read(directions, is_weighted=True).to(residual_stack.dtype)
        attributed = torch.einsum("...d,...d->...", residual_stack, directions)
        if reader.formula is None:
            return attributed
        scale = self._scale(reader, pos_slice, batch_slice, has_batch_dim)
        return attributed / scale.squeeze(-1).to(attributed)

    def _directions(self, tokens: Any, incorrect_tokens: Any) -> Tensor:
        right = self.bridge.tokens_to_residual_directions(tokens)
        if incorrect_tokens is None:
            return right
        wrong = self.bridge.tokens_to_residual_directions(incorrect_tokens)
        if right.shape != wrong.shape:
            raise ArgumentError(
                "tokens and incorrect_tokens must have one shape, got "
                f"{tuple(right.shape[:-1])} and {tuple(wrong.shape[:-1])}."
            )
        return right - wrong

    def _reader(self, layer: int | None, mlp_input: bool) -> Reader:
        """Return the norm before a block's attention or MLP, or the final one."""
        _check_streams(self.bridge)
        placed, table = self._place(layer), self._table
        if placed == self.n_layers:
            owners = ("ln_final",)
        else:
            block = f"{next(iter(self.bridge._stacks))}.{placed}"
            # Where attention and MLP share a norm, it is the first one.
            owners = (f"{block}.ln2", f"{block}.ln1") if mlp_input else (f"{block}.ln1",)
            if not self.bridge.cfg.parallel_attn_mlp:
                owners = owners[:1]
        owner = next((one for one in owners if f"{one}.hook_scale" in table), None)
        if owner is None:
            return Reader()
        norm, formula = find_norm(table, owner)
        return Reader(owner=owner, layer=norm, formula=formula)

    def _scale(
        self, reader: Reader, pos_slice: Any, batch_slice: Any = None, has_batch_dim: bool = True
    ) -> Tensor:
        scale = self._at(f"{reader.owner}.hook_scale", pos_slice)
        if not self.has_batch_dim:
            return scale
        # Without an axis of the batch, a stack stands for one sample.
        one = Slice(batch_slice if has_batch_dim or batch_slice is not None else 0)
        return one.apply(scale, dim=0)


def _check_streams(bridge: Any) -> None:
    """See that streams are read through norms, and not normed themselves.

    Raises:
        ArchitectureError: (a ValueError) If norms stand on the stream.
    """
    if bridge.adapter.stacks[0].block.is_post_norm:
        raise ArchitectureError(
            "norms stand on the residual stream of this model, so that no part of it passes one."
        )


def residual_directions(bridge: Any, tokens: Any) -> Tensor:
    """Return the columns of the unembedding for tokens; see `tokens_to_residual_directions`."""
    if isinstance(tokens, str):
        tokens = bridge.to_single_token(tokens)
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        tokens = torch.tensor(tokens)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim > 2:
        raise ArgumentError(
            "tokens must be one token as text, an id, or a tensor of ids with at most two axes, "
            f"got {tokens!r}."
        )
    weight, _ = find_unembedding(bridge)
    d_vocab = weight.shape[1]
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < d_vocab:
        raise ArgumentError(f"token ids must lie in 0..{d_vocab - 1}, got {tokens!r}.")
    return weight.T[tokens.to(weight.device)]

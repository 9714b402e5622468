"""Linear attention injected into an attention module of a pretrained model."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core import ArgumentError, NamedActivation
from pellucid.tptt._layouts import find_head_sizes, require_layout
from pellucid.tptt._linear_attention import LinearAttention
from pellucid.tptt._masks import narrow_mask
from pellucid.tptt._memory import CacheMemory
from pellucid.tptt._share import HasMagWeight
from pellucid.tptt._signals import Signal
from pellucid.tptt._states import LCache
from pellucid.tptt._window import keep_window

_SCALE_EPS = 1e-5
_CACHE_NAMES = ("past_key_values", "past_key_value", "layer_past")


class LiZAttention(HasMagWeight, nn.Module):
    """An attention module with linear attention beside it, mixed by a fixed weight.

    The output is (1 - μ)·base + μ·linear, with μ = `mag_weight` ("memory as gate", arXiv
    2506.17671). Queries, keys and values are those that the module projects anyway, before rotary
    embeddings: they are read where they are made. Where the mixture allows, both branches go
    through the output projection together. With μ = 0 the module is the base module bit for bit,
    and no linear branch is computed.

    The linear branch remembers in the cache that the base module is given.

    Args:
        base_attn: The attention module; it keeps its weights and the names below it.
        layer_idx: The number of its layer.
        base_config: The config of its model, for what the module does not say.
        linear_cache: Shows what is remembered, see `LCache`.
        operator_mode: The name of a recurrent mode.
        recurrent_config: The parts of a mode, in place of its name.
        max_self_attn_length: How many tokens softmax attention sees, itself included; all of them
            when omitted.
        base_scale_attn: Whether to multiply the linear branch by the root mean square of the base's
            output, per token.
        mag_weight: μ, from 0 to 1.
        cross_gate: Whether to add the product of the two branches as they are mixed.
        max_chunk_size: See `LinearAttentionOp`.
        linear_precision: A dtype, or its name.
        padding_side: Kept for its readers; masks are understood on either side.
        disable_linear_attn: Whether to leave the linear branch out.
        bidirectional: See `LinearAttention`.
        pooling_config: See `LinearAttention`.
        compat: See `LinearAttentionOp`.
        gate_granularity: See `LinearAttention`.
        backend: See `linear_attention`.

    Attributes:
        forgets_keys: Whether the cache may forget keys beyond `max_self_attn_length`, as it may
            where all layers of a model that share their masks do so.

    Raises:
        RequirementError: (a TypeError) If the module has no separable queries, keys and values.
        ArgumentError: (a ValueError) If an argument is not of the kind described.
    """

    def __init__(
        self,
        base_attn: nn.Module,
        layer_idx: int,
        base_config: Any,
        linear_cache: LCache | None = None,
        operator_mode: str = "delta_rule",
        recurrent_config: Mapping[str, Any] | None = None,
        max_self_attn_length: int | None = None,
        base_scale_attn: bool = False,
        mag_weight: float = 0.5,
        cross_gate: bool = False,
        max_chunk_size: int = 64,
        linear_precision: str | torch.dtype = "float32",
        padding_side: str = "right",
        disable_linear_attn: bool = False,
        bidirectional: bool = False,
        pooling_config: Mapping[str, Any] | None = None,
        *,
        compat: str | None = None,
        gate_granularity: str = "channel",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if max_self_attn_length is not None and max_self_attn_length < 1:
            raise ArgumentError(
                f"max_self_attn_length must be 1 or more, got {max_self_attn_length!r}."
            )
        self._layout = require_layout(base_attn)
        self._sizes = find_head_sizes(base_attn, base_config)
        self.base_attn = base_attn
        self.base_config = base_config
        self.layer_idx = layer_idx
        self.linear_cache = linear_cache if linear_cache is not None else LCache()
        self.max_self_attn_length = max_self_attn_length
        self.base_scale_attn = base_scale_attn
        self.cross_gate = cross_gate
        self.disable_linear_attn = disable_linear_attn
        self.mag_weight = mag_weight
        self.linear_attn = LinearAttention(
            hidden_dim=self._sizes.heads * self._sizes.width,
            num_heads=self._sizes.heads,
            head_dim=self._sizes.width,
            num_key_value_heads=self._sizes.kv_heads,
            linear_precision=resolve_dtype(linear_precision),
            padding_side=padding_side,
            shared_attn=True,
            layer_idx=layer_idx,
            operator_mode=operator_mode,
            recurrent_config=recurrent_config,
            linear_cache=self.linear_cache,
            max_chunk_size=max_chunk_size,
            bidirectional=bidirectional,
            pooling_config=pooling_config,
            compat=compat,
            gate_granularity=gate_granularity,
            backend=backend,
        )
        self.share = Signal()
        self.train(base_attn.training)
        self.forgets_keys = False
        self._call = _Call()
        self._tapped: tuple[tuple[str, nn.Module], ...] = ()
        self._tap()

    @property
    def memory_gate(self) -> "LiZAttention":
        """The module itself: what sets `memory_gate.mag_weight`, as in tptt 0.12, sets its own."""
        return self

    @property
    def is_sliding(self) -> bool:
        """Whether the base module sees a window of tokens only."""
        return bool(getattr(self.base_attn, "is_sliding", False))

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos d_model"],
        attention_mask: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return what the base module returns, its output mixed with linear attention.

        Args:
            hidden_states: The tokens.
            attention_mask: Given to the base module as it is, but for `max_self_attn_length`.
            **kwargs: Given to the base module.
        """
        base = self.base_attn
        is_off = self.disable_linear_attn or self._mag_weight == 0
        is_off = is_off or kwargs.get("encoder_hidden_states") is not None
        if is_off and self.max_self_attn_length is None:
            return base(hidden_states, attention_mask=attention_mask, **kwargs)
        cache = _find_cache(kwargs)
        options = self._read_mask(attention_mask, cache)
        if self.max_self_attn_length is not None:
            attention_mask = self._narrow(attention_mask, hidden_states, options, cache)
        if is_off:
            return base(hidden_states, attention_mask=attention_mask, **kwargs)
        self._tap()
        call = self._call
        try:
            call.projected = [None] * len(self._layout.projections)
            call.options, call.mixes_inside = options, self._can_mix_inside()
            returned = base(hidden_states, attention_mask=attention_mask, **kwargs)
            if call.mixes_inside:
                return returned
            first, rest = (
                (returned[0], returned[1:]) if isinstance(returned, tuple) else (returned, None)
            )
            linear = self.linear_attn(self._read_projections(), **options)
            call.options = None  # the projection out is now used for the linear branch
            if self._layout.out is not None:
                linear = getattr(base, self._layout.out)(linear)
            mixed = self._mix(first, linear)
            return mixed if rest is None else (mixed, *rest)
        finally:
            call.projected, call.options = [], None

    def named_activations(self) -> Mapping[str, NamedActivation]:
        """Return the weight, which can be seen and changed token by token, by its name."""
        return {
            "linear_attn.hook_mag_weight": NamedActivation(
                module=self.share,
                shape="batch pos 1",
                meaning="the share of linear attention in the output",
            )
        }

    def extra_repr(self) -> str:
        """Name the weight in what `print` shows."""
        return f"layer_idx={self.layer_idx}, mag_weight={self.mag_weight}"

    def _read_mask(self, mask: Any, cache: Any) -> dict[str, Any]:
        """Return how the linear branch shall be called."""
        if cache is None:
            return {"attn_mask": mask}
        memory = CacheMemory(cache)
        self.linear_cache.follow(memory)
        options = {"attn_mask": mask, "use_cache": True, "linear_cache": memory}
        if mask is not None or self.max_self_attn_length is not None:
            layers = getattr(cache, "self_attention_cache", cache).layers
            layer = layers[self.layer_idx] if self.layer_idx < len(layers) else None
            if layer is not None and layer.get_max_length() > 0 and not layer.is_sliding:
                options["first"] = int(layer.get_seq_length())
        return options

    def _narrow(self, mask: Any, x: Tensor, options: Mapping[str, Any], cache: Any) -> Any:
        assert self.max_self_attn_length is not None
        first, columns = options.get("first"), None
        if first is not None:  # a cache of fixed size, whose rows are all there from the start
            columns = int(cache.get_max_length(self.layer_idx))
        else:
            shown = 0 if cache is None else self._count_shown(cache)
            first = shown if mask is None else mask.shape[-1] - x.shape[1]
            if first + x.shape[1] <= self.max_self_attn_length:
                return mask
        config = getattr(self.base_attn, "config", self.base_config)
        return narrow_mask(
            mask,
            x,
            window=self.max_self_attn_length,
            first=first,
            columns=columns,
            implementation=getattr(config, "_attn_implementation", None) or "eager",
            is_causal=bool(getattr(self.base_attn, "is_causal", True)),
        )

    def _count_shown(self, cache: Any) -> int:
        """Return how many tokens of a cache the next ones are given."""
        assert self.max_self_attn_length is not None
        layer = None
        if self.forgets_keys:
            layer = keep_window(cache, self.layer_idx, self.max_self_attn_length)
        return int(cache.get_seq_length(self.layer_idx)) if layer is None else layer.shown

    def _can_mix_inside(self) -> bool:
        """Whether both branches can go through the projection out at once.

        They can where the mixture is linear, and no dropout treats the two differently.
        """
        if self._layout.out is None or self.cross_gate or self.base_scale_attn:
            return False
        if not self.training:
            return True
        out = getattr(self.base_attn, self._layout.out)
        return not any(isinstance(m, nn.Dropout) and m.p for m in out.modules())

    def _read_projections(self) -> tuple[Tensor, Tensor, Tensor]:
        outs: list[Any] = self._call.projected
        for out in outs:
            if out is None:
                raise ArgumentError(
                    f"{type(self.base_attn).__name__} did not use its projections "
                    f"{', '.join(self._layout.projections)}: its linear branch has nothing to work "
                    "on."
                )
        return self._layout.split(self._sizes, outs)

    def _mix(self, base: Tensor, linear: Tensor) -> Tensor:
        if self.base_scale_attn:
            size = base.float().square().mean(dim=-1, keepdim=True).add(_SCALE_EPS).sqrt()
            linear = linear * size.to(linear.dtype)
        share = self._share_of(base)
        base, linear = (1 - share) * base, share * linear
        return base + linear + base * linear if self.cross_gate else base + linear

    def _share_of(self, like: Tensor) -> Tensor | float:
        """Return the share of linear attention; by token where somebody has changed it."""
        if not self.share.is_watched:
            return self._mag_weight
        given = like.new_full((*like.shape[:2], 1), self.mag_weight)
        made = self.share(given)
        return self.mag_weight if made is given else made

    def _tap(self) -> None:
        """Read the projections where they are made, also after others have replaced them."""
        children = self.base_attn._modules
        for name, tapped in self._tapped:
            if children[name] is not tapped or "forward" not in vars(tapped):
                break
        else:
            if self._tapped:
                return
        for _, tapped in self._tapped:
            vars(tapped).pop("forward", None)
        taps: dict[str, Any] = {
            name: functools.partial(_Tap, self._call, place)
            for place, name in enumerate(self._layout.projections)
        }
        if self._layout.out is not None:
            taps[self._layout.out] = functools.partial(_Blend, self)
        for name, tap in taps.items():
            module = getattr(self.base_attn, name)
            module.forward = tap(module.forward)
        # Kept out of the registry of modules: they are those of the base module.
        found = tuple((name, getattr(self.base_attn, name)) for name in taps)
        object.__setattr__(self, "_tapped", found)

    def _mix_before_projection(self, merged: Tensor) -> Tensor | None:
        options = self._call.options
        if options is None or not self._call.mixes_inside:
            return None
        heads, scale = self.linear_attn.read_heads(*self._read_projections(), **options)
        base = merged if merged.shape == heads.shape else merged.view_as(heads)
        linear = (heads * scale).to(merged.dtype)
        mixed = torch.lerp(base, linear, self._share_of(base))
        return mixed if base is merged else mixed.view_as(merged)


def _find_cache(given: Mapping[str, Any]) -> Any:
    """Return the cache that an attention module is given; None if there is none."""
    for name in _CACHE_NAMES:
        cache = given.get(name)
        if cache is not None:
            return cache
    return None


class _Call:
    """What taps need to know of the call that is under way; no module, so quick to change."""

    __slots__ = ("mixes_inside", "options", "projected")

    def __init__(self) -> None:
        self.projected: list[Tensor | None] = []
        self.options: dict[str, Any] | None = None
        self.mixes_inside = False


class _Tap:
    """Stands before the forward of a projection, and keeps what it returns.

    A forward hook would do the same, and take longer than all that is done with it in decoding.
    """

    __slots__ = ("_call", "_forward", "_place")

    def __init__(self, call: _Call, place: int, forward: Callable[..., Any]) -> None:
        self._call = call
        self._place = place
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._forward(*args, **kwargs)
        call = self._call
        if call.options is not None:
            call.projected[self._place] = out
        return out


class _Blend:
    """Stands before the forward of a projection out, and mixes linear attention into its input."""

    __slots__ = ("_forward", "_owner")

    def __init__(self, owner: LiZAttention, forward: Callable[..., Any]) -> None:
        self._owner = owner
        self._forward = forward

    def __call__(self, merged: Any, *args: Any, **kwargs: Any) -> Any:
        mixed = self._owner._mix_before_projection(merged)  # pyright: ignore[reportPrivateUsage] - part of it
        return self._forward(merged if mixed is None else mixed, *args, **kwargs)


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return a dtype, by itself or by name.

    Raises:
        ArgumentError: (a ValueError) If no dtype has that name.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ArgumentError(f"no dtype is called {dtype!r}. Use one such as 'float32'.")
    return found

"""Inside attention: scores, patterns and rotated queries, from the architecture's own code.

Two ways in. Architectures that ask transformers for an attention function get one of ours for the
layers concerned, and for these only; it runs the architecture's own eager function, or whichever
was chosen before where no scores are wanted. All others run as they are. In both, the scores are
what is handed to softmax and the pattern is what comes back; where a module hands queries, keys and
values to one kernel, what the kernel does is done in steps.
"""

import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.bridge._engine._convolutions import ConvolutionInterceptor
from pellucid.bridge._engine._execution import (
    AttentionSteps,
    Execution,
    active_execution,
    find_main,
)
from pellucid.bridge._engine._readings import AttentionPlace
from pellucid.bridge._errors import ArchitectureError

_NAME = "pellucid_bridge"
_SOFTMAX = frozenset({torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax})
_LOCK = threading.Lock()


def merge_steps(steps: Iterable[AttentionSteps]) -> dict[nn.Module, AttentionSteps]:
    """Return one entry for each attention module, functions in the order given."""
    merged: dict[nn.Module, AttentionSteps] = {}
    for step in steps:
        held = merged.get(step.module, AttentionSteps(step.module))
        merged[step.module] = AttentionSteps(
            module=step.module,
            queries=held.queries + step.queries,
            keys=held.keys + step.keys,
            scores=held.scores + step.scores,
            pattern=held.pattern + step.pattern,
            convolution=held.convolution + step.convolution,
            slots={**held.slots, **step.slots},
        )
    return merged


def enter_attention(
    steps: dict[nn.Module, AttentionSteps],
) -> list[Callable[[Execution], Callable[[], None]]]:
    """Return what an execution does at its start so that these steps happen."""
    return [functools.partial(_enter, step) for step in steps.values()]


def asks_for_function(module: nn.Module) -> bool:
    """Say whether an attention module takes its attention function from transformers' registry."""
    return _asks_for_function(type(module))


@functools.cache
def _asks_for_function(kind: type[nn.Module]) -> bool:
    names = inspect.unwrap(kind.forward).__code__.co_names
    return "ALL_ATTENTION_FUNCTIONS" in names or "get_interface" in names


def _enter(step: AttentionSteps, execution: Execution) -> Callable[[], None]:
    execution.attention[step.module] = step
    if asks_for_function(step.module):
        return _divert(step.module)
    if step.queries or step.keys:
        raise ArchitectureError(
            f"{type(step.module).__name__} keeps rotated queries and keys to itself. Hook hook_q "
            "and hook_k instead."
        )
    return _intercept(step, execution)


# First way: through the registry of attention functions.


class _Diverted:
    """A module's configuration, but for the attention function that it names.

    Args:
        original: The configuration.
    """

    _attn_implementation = _attn_implementation_internal = _NAME

    def __init__(self, original: Any) -> None:
        self.pellucid_original = original
        self.pellucid_n_runs = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("pellucid_"):  # Not built yet: it is being copied.
            raise AttributeError(name)
        return getattr(self.pellucid_original, name)


def _divert(module: nn.Module) -> Callable[[], None]:
    """Let an attention module ask for our function; shared by all runs that want it at once."""
    _register()
    held = module.__dict__
    with _LOCK:
        found = held["config"]
        if not isinstance(found, _Diverted):
            found = held["config"] = _Diverted(found)
        found.pellucid_n_runs += 1

    def undo() -> None:
        with _LOCK:
            found.pellucid_n_runs -= 1
            if not found.pellucid_n_runs:
                held["config"] = found.pellucid_original

    return undo


@functools.cache
def _register() -> None:
    _registry().register(_NAME, _attend)


@functools.cache
def _registry() -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: PLC0415 - costs seconds

    return ALL_ATTENTION_FUNCTIONS


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> Any:
    """Stand for an attention function: (batch, head, pos, d_head) in, (batch, pos, head, d) out."""
    execution = active_execution()
    step = None if execution is None else execution.attention.get(module)
    config = module.config
    inner = getattr(config, "pellucid_original", config)._attn_implementation or "eager"
    if execution is not None and step is not None:
        is_repeatable = not (module.training or torch.is_autocast_enabled(query.device.type))
        if step.slots and is_repeatable:
            call = AttentionCall(
                module, inner, (query, key, value), attention_mask, kwargs, frozenset(step.slots)
            )
            call.note(execution.notes, step.slots.values())
        else:
            query, key = _fire(step.queries, query), _fire(step.keys, key)
            if step.scores or step.pattern:
                call = AttentionCall(module, inner, (query, key, value), attention_mask, kwargs)
                return call.run(step)
    function = _registry().get_interface(inner, _eager(type(module)))
    return function(module, query, key, value, attention_mask, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionCall:
    """What an attention function was given, from which scores and patterns can be had.

    Attributes:
        module: The attention module.
        implementation: Its own attention implementation.
        tensors: Queries, keys and values, of shape (batch, head, pos, d_head).
        mask: As that implementation takes it.
        options: Everything else.
        wanted: The places that will be asked for: scores and pattern are made together.
        made: What was made and is still to be asked for.
    """

    module: Any
    implementation: str
    tensors: tuple[Tensor, Tensor, Tensor]
    mask: Any
    options: dict[str, Any]
    wanted: frozenset[AttentionPlace] = frozenset()
    made: dict[AttentionPlace, Tensor] = dataclasses.field(
        default_factory=dict[AttentionPlace, Tensor]
    )

    @property
    def _version(self) -> tuple[int, ...]:
        """Which changes when a tensor is written into, as a tensor's own does."""
        query, key, value = self.tensors
        return query._version, key._version, value._version

    def note(self, notes: list[Any], slots: Iterable[int]) -> None:
        """Keep it for later, apart from the graph."""
        query, key, value = self.tensors
        kept = self
        if torch.is_grad_enabled():
            mask = self.mask.detach() if isinstance(self.mask, Tensor) else self.mask
            tensors = (query.detach(), key.detach(), value.detach())
            kept = dataclasses.replace(self, tensors=tensors, mask=mask)
        version = None if query.is_inference() else kept._version
        for slot in slots:
            notes[slot], notes[slot + 1] = kept, version

    def run(self, step: AttentionSteps) -> Any:
        """Attend as the architecture's eager code does, with functions at scores and pattern."""
        module, (query, key, value), mask = self.module, self.tensors, self.mask
        if self.implementation != "eager":
            mask = _additive_mask(module, mask, query, key, self.options)
        with _SoftmaxInterceptor(step, key.shape[-2]):
            return _eager(type(module))(module, query, key, value, mask, **self.options)

    def read(self, place: AttentionPlace) -> Tensor:
        """Return what stood at a place inside of attention."""
        if place not in self.made:
            places: set[AttentionPlace] = {place, *self.wanted}
            functions: dict[str, Any] = {at: (self._keep(at),) for at in places}
            if place in ("queries", "keys"):
                _fire(functions[place], self.tensors[place == "keys"])
            else:
                last = "pattern" if "pattern" in places else "scores"
                functions[last] = (*functions[last], _leave)
                with torch.no_grad(), contextlib.suppress(_EnoughError):
                    self.run(AttentionSteps(self.module, **functions))
        return self.made.pop(place)

    def _keep(self, place: AttentionPlace) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            self.made[place] = value
            return value

        return keep


class _EnoughError(Exception):
    """What is left of attention need not be done again."""


def _leave(value: Tensor) -> Tensor:
    raise _EnoughError


def _fire(functions: tuple[Callable[[Tensor], Tensor], ...], given: Tensor) -> Tensor:
    # Users see (batch, pos, head, d_head), attention functions (batch, head, pos, d_head).
    if not functions:
        return given
    seen = made = given.transpose(1, 2)
    for function in functions:
        made = function(made)
    return given if made is seen else made.transpose(1, 2)


@functools.cache
def _eager(kind: type[nn.Module]) -> Callable[..., Any]:
    """Return the eager function that an attention class's own forward falls back to."""
    found = inspect.unwrap(kind.forward).__globals__.get("eager_attention_forward")
    if found is None:
        raise ArchitectureError(
            f"{kind.__name__} has no eager attention to take scores and patterns from."
        )
    return found


def _additive_mask(
    module: Any, mask: Any, query: Tensor, key: Tensor, kwargs: dict[str, Any]
) -> Tensor | None:
    """Return the mask that eager attention adds, where another implementation got its own kind."""
    lowest = torch.finfo(query.dtype).min
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    if mask is None:
        is_causal = kwargs.get("is_causal")
        is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if not is_causal or n_queries == 1:
            return None
        allowed = query.new_ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        mask = allowed[None, None]
    elif mask.ndim == 2:
        # Flash attention is told which keys are padding, and to be causal.
        mask = mask[:, None, None, :].bool()
        if n_queries > 1 and getattr(module, "is_causal", True):
            mask = mask & query.new_ones(n_queries, n_keys, dtype=torch.bool).tril(
                n_keys - n_queries
            )
    if mask.dtype != torch.bool:
        return mask
    return query.new_zeros(()).masked_fill(~mask, lowest)


# Second way: the module runs as it is, with softmax or its convolution watched.


def _intercept(step: AttentionSteps, execution: Execution) -> Callable[[], None]:
    open_modes: list[_SoftmaxInterceptor | ConvolutionInterceptor] = []

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if active_execution() is execution:
            mode = _SoftmaxInterceptor(step, None)
            if step.convolution:
                given = args[0] if args else find_main(kwargs)
                mode = ConvolutionInterceptor(module, step.convolution, given.shape[1])
            mode.__enter__()
            open_modes.append(mode)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if open_modes and active_execution() is execution:
            mode = open_modes.pop()
            mode.__exit__(None, None, None)
            if isinstance(mode, ConvolutionInterceptor) and output is not None:
                mode.check(execution)

    handles = [
        step.module.register_forward_pre_hook(before, with_kwargs=True),
        step.module.register_forward_hook(after, always_call=True),
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


class _SoftmaxInterceptor(TorchFunctionMode):
    """Fires on what softmax takes and gives, where it is a batch of attention matrices."""

    def __init__(self, step: AttentionSteps, n_keys: int | None) -> None:
        super().__init__()
        self._step = step
        self._n_keys = n_keys

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func not in _SOFTMAX:
            return func(*args, **kwargs)
        scores, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        n_heads = self._count_joined(scores)
        if scores.ndim != 4 and n_heads is None:
            return func(scores, *rest, **kwargs)
        scores = self._fire_apart(self._step.scores, scores, n_heads)
        pattern = func(scores, *rest, **kwargs)
        return self._fire_apart(self._step.pattern, pattern, n_heads)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Do in steps what one kernel does at once."""
        if enable_gqa:
            n_shared = query.shape[-3] // key.shape[-3]
            key = key.repeat_interleave(n_shared, dim=-3)
            value = value.repeat_interleave(n_shared, dim=-3)
        if is_causal:
            attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        scores = (
            query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        pattern = torch.softmax(self._fire(self._step.scores, scores), dim=-1)
        pattern = self._fire(self._step.pattern, pattern)
        return torch.nn.functional.dropout(pattern, dropout_p) @ value

    def _count_joined(self, scores: Tensor) -> int | None:
        """Return the number of heads where samples and heads stand on one axis: XGLM, TrOCR."""
        if scores.ndim != 3:
            return None
        n_heads = getattr(self._step.module, "num_heads", None)
        fits = isinstance(n_heads, int) and n_heads > 0 and not len(scores) % n_heads
        return n_heads if fits else None

    def _fire_apart(
        self, functions: tuple[Callable[[Tensor], Tensor], ...], given: Tensor, n_heads: int | None
    ) -> Tensor:
        if n_heads is None or not functions:
            return self._fire(functions, given)
        seen = given.unflatten(0, (-1, n_heads))
        made = self._fire(functions, seen)
        return given if made is seen else made.reshape(given.shape)

    def _fire(self, functions: tuple[Callable[[Tensor], Tensor], ...], given: Tensor) -> Tensor:
        if not functions:
            return given
        # A sink is a further column, which no key stands for.
        n_keys = given.shape[-1] if self._n_keys is None else self._n_keys
        seen = made = given if n_keys == given.shape[-1] else given[..., :n_keys]
        for function in functions:
            made = function(made)
        if made is seen:
            return given
        return made if seen is given else torch.cat([made, given[..., n_keys:]], dim=-1)

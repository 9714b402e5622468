"""One run of a model with hooks: installs what a plan needs, and takes it away again."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

Scratch: TypeAlias = dict[Any, Any]
"""What the steps of one run tell each other, by module and purpose."""

Side: TypeAlias = Literal["before", "after"]
StepFunction: TypeAlias = Callable[[Tensor, Scratch], Tensor]
Enter: TypeAlias = Callable[["Execution"], Callable[[], None]]
"""What a run does at its start; returns what undoes it."""

# Names under which modules of transformers take their main input, when not as first argument.
_MAIN_ARGUMENTS = ("hidden_states", "inputs_embeds", "input_ids", "input", "x", "states")

_ACTIVE: "ContextVar[Execution | None]" = ContextVar("pellucid_bridge_execution", default=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What one activation does on one side of one module.

    Attributes:
        module: The module.
        side: Whether it concerns what the module takes or what it gives.
        function: Takes the tensor and the scratch; returns what shall stand in its place.
        item: Which element, if the module gives a tuple.
    """

    module: nn.Module
    side: Side
    function: StepFunction
    item: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionSteps:
    """What happens inside one attention module, see `pellucid.bridge._attention`.

    Attributes:
        module: The attention module.
        queries: Functions of the rotated queries, of shape (batch, pos, head, d_head).
        keys: The same for keys.
        scores: Functions of the masked scores, of shape (batch, head, query_pos, key_pos).
        pattern: Functions of what softmax makes of them.
    """

    module: nn.Module
    queries: tuple[Callable[[Tensor], Tensor], ...] = ()
    keys: tuple[Callable[[Tensor], Tensor], ...] = ()
    scores: tuple[Callable[[Tensor], Tensor], ...] = ()
    pattern: tuple[Callable[[Tensor], Tensor], ...] = ()


class Execution:
    """Steps, installed as torch hooks on the original modules while the context is open.

    A run that is nested in another one, or goes on beside it in another thread, sees its own hooks
    alone. Whatever happens inside, all hooks are removed by their handles at the end.

    Args:
        steps: In the order in which they are to happen.
        enter: Further things to do at the start; each returns what undoes it.
        step: Which step of generation the run is.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        enter: Sequence[Enter] = (),
        *,
        step: int | None = None,
    ) -> None:
        self._sites: dict[tuple[nn.Module, Side], dict[int, list[StepFunction]]] = {}
        for held in steps:
            site = self._sites.setdefault((held.module, held.side), {})
            site.setdefault(held.item, []).append(held.function)
        self._enter = tuple(enter)
        self.step = step
        self._undo: list[Callable[[], None]] = []
        self._token: Token[Execution | None] | None = None
        self.scratch: Scratch = {}
        self.attention: dict[nn.Module, AttentionSteps] = {}

    def __enter__(self) -> "Execution":
        try:
            for enter in self._enter:
                self._undo.append(enter(self))
            for (module, side), functions in self._sites.items():
                self._undo.append(self._install(module, side, functions))
        except BaseException:
            self._remove()
            raise
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _ACTIVE.reset(self._token)
            self._token = None
        self._remove()

    def _remove(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.scratch.clear()

    def _install(
        self, module: nn.Module, side: Side, functions: dict[int, list[StepFunction]]
    ) -> Callable[[], None]:
        if side == "before":
            hook = self._before(functions[0])
            return module.register_forward_pre_hook(hook, with_kwargs=True).remove
        return module.register_forward_hook(self._after(functions)).remove

    def _before(self, functions: list[StepFunction]) -> Callable[..., Any]:
        scratch = self.scratch

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if _ACTIVE.get() is not self:
                return None
            name = None if args else next((n for n in _MAIN_ARGUMENTS if n in kwargs), None)
            given = args[0] if name is None else kwargs[name]
            made = given
            for function in functions:
                made = function(made, scratch)
            if made is given:
                return None
            if name is None:
                return (made, *args[1:]), kwargs
            return args, {**kwargs, name: made}

        return hook

    def _after(self, functions: dict[int, list[StepFunction]]) -> Callable[..., Any]:
        scratch = self.scratch

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if _ACTIVE.get() is not self:
                return None
            made = output
            for item, chosen in functions.items():
                made = _apply(made, item, chosen, scratch)
            return None if made is output else made

        return hook


def active_execution() -> Execution | None:
    """Return the run whose hooks are in force here, if there is one."""
    return _ACTIVE.get()


def _apply(output: Any, item: int, functions: list[StepFunction], scratch: Scratch) -> Any:
    given = output if isinstance(output, Tensor) else output[item]
    made = given
    for function in functions:
        made = function(made, scratch)
    if made is given:
        return output
    if isinstance(output, Tensor):
        return made
    if isinstance(output, (tuple, list)):
        return type(output)([*output[:item], made, *output[item + 1 :]])
    # An output object of transformers: a mapping with an order.
    changed = type(output)(**dict(output.items()))
    changed[list(output.keys())[item]] = made
    return changed

"""One run of a model with hooks: installs what a plan needs, and takes it away again."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from pellucid.bridge._engine._readings import AttentionPlace
from pellucid.bridge._engine._torch_hooks import HookSet, HookSite, Side

Scratch: TypeAlias = dict[Any, Any]
"""What the steps of one run tell each other, by module and purpose."""

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
        item: Which of the module's arguments, or its name; which element if it gives a tuple.
    """

    module: nn.Module
    side: Side
    function: StepFunction
    item: int | str = 0


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionSteps:
    """What happens inside one attention module or state space, see `_attention`.

    Attributes:
        module: The module.
        queries: Functions of the rotated queries, of shape (batch, pos, head, d_head).
        keys: The same for keys.
        scores: Functions of the masked scores, of shape (batch, head, query_pos, key_pos).
        pattern: Functions of what softmax makes of them.
        convolution: Functions of what a state space's convolution gives, of shape (batch, pos,
            feature).
        slots: Which of these a run that changes nothing only has to note, and where in its notes.
    """

    module: nn.Module
    queries: tuple[Callable[[Tensor], Tensor], ...] = ()
    keys: tuple[Callable[[Tensor], Tensor], ...] = ()
    scores: tuple[Callable[[Tensor], Tensor], ...] = ()
    pattern: tuple[Callable[[Tensor], Tensor], ...] = ()
    convolution: tuple[Callable[[Tensor], Tensor], ...] = ()
    slots: Mapping[AttentionPlace, int] = dataclasses.field(
        default_factory=dict[AttentionPlace, int]
    )


@runtime_checkable
class Installable(Protocol):
    """What a run puts on a model."""

    def install(self) -> None:
        """Put it there, unless another run has."""
        ...

    def remove(self) -> None:
        """Take it away, unless another run still needs it."""
        ...


class Plan:
    """Steps as torch hooks on the original modules, of which there is one for each side of each.

    A plan may serve many runs, one after another or at once; its hooks are there while one of them
    goes on, and act in these alone.

    Args:
        steps: In the order in which they are to happen.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        sites: dict[tuple[nn.Module, Side], dict[int | str, list[StepFunction]]] = {}
        for held in steps:
            site = sites.setdefault((held.module, held.side), {})
            site.setdefault(held.item, []).append(held.function)
        self._hooks = HookSet(self._find_hooks(sites))
        self.install, self.remove = self._hooks.install, self._hooks.remove

    def _find_hooks(
        self, sites: dict[tuple[nn.Module, Side], dict[int | str, list[StepFunction]]]
    ) -> Iterator[HookSite]:
        for (module, side), functions in sites.items():
            if side == "before":
                yield module, side, self._before(functions.pop(0, []), functions)
            else:
                yield module, side, self._after(functions)

    def _before(
        self, functions: list[StepFunction], others: dict[int | str, list[StepFunction]]
    ) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run = _ACTIVE.get()
            if run is None or run.plan is not self:
                return None
            name = None if args else _name_main(kwargs)
            given = args[0] if name is None else kwargs[name]
            made = given
            for function in functions:
                made = function(made, run.scratch)
            # Of further arguments, functions take note; they do not change them.
            for item, chosen in others.items():
                for function in chosen:
                    function(take_argument(args, kwargs, item), run.scratch)
            if made is given:
                return None
            if name is None:
                return (made, *args[1:]), kwargs
            return args, {**kwargs, name: made}

        return hook

    def _after(self, functions: dict[int | str, list[StepFunction]]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            run = _ACTIVE.get()
            if run is None or run.plan is not self:
                return None
            made = output
            for item, chosen in functions.items():
                made = _apply(made, item, chosen, run.scratch)
            return None if made is output else made

        return hook


class Execution:
    """A run with a plan, whose hooks are in force while the context is open.

    A run that is nested in another one, or goes on beside it in another thread, sees its own hooks
    alone. Whatever happens inside, all hooks are removed by their numbers at the end.

    Args:
        plan: What to install; None for a run without hooks.
        fire: Called with the name of an activation and the activation; returns what shall stand in
            its place.
        enter: Further things to do at the start; each returns what undoes it.
        step: Which step of generation the run is.
        owner: Whose run it is.
        notes: Where a plan that notes what passes writes it.
    """

    def __init__(
        self,
        plan: Installable | None = None,
        fire: Callable[[str, Tensor], Tensor] | None = None,
        enter: Sequence[Enter] = (),
        *,
        step: int | None = None,
        owner: object = None,
        notes: list[Any] | None = None,
    ) -> None:
        self.plan = plan
        self.notes: list[Any] = [] if notes is None else notes
        self.fire = fire
        self._enter = enter
        self.step = step
        self.owner = owner
        self.is_suspended = False
        self.parent: Execution | None = None
        self._twin: Execution | None = None
        self._undo: list[Callable[[], None]] = []
        self._token: Token[Execution | None] | None = None
        self.scratch: Scratch = {}
        self.attention: dict[nn.Module, AttentionSteps] = {}

    def __enter__(self) -> "Execution":
        try:
            for enter in self._enter:
                self._undo.append(enter(self))
            if self.plan is not None:
                # First, so that what was installed in part is taken away as well.
                self._undo.append(self.plan.remove)
                self.plan.install()
        except BaseException:
            self._remove()
            raise
        self.parent = _ACTIVE.get()
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

    def suspended(self) -> "Execution":
        """Return what is active while a user's function runs: no hook of this run fires then."""
        if self._twin is None:
            self._twin = Execution(step=self.step, owner=self.owner)
            self._twin.is_suspended, self._twin.parent = True, self.parent
        return self._twin

    def _remove(self) -> None:
        while self._undo:
            self._undo.pop()()
        self.scratch.clear()


class Slot:
    """An activation's place in a plan: hands what passes to the run that is active.

    Args:
        name: The activation's canonical name.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: Tensor) -> Tensor:
        """Return the activation as the rest of the model shall see it."""
        run = _ACTIVE.get()
        return value if run is None or run.fire is None else run.fire(self.name, value)


def find_main(kwargs: Mapping[str, Any]) -> Any:
    """Return a module's main input, where it is given by name; None if it has none."""
    name = _name_main(kwargs)
    return None if name is None else kwargs[name]


def take_argument(args: Sequence[Any], kwargs: Mapping[str, Any], item: int | str) -> Any:
    """Return one of a module's arguments, by place or by name; None if it has none of this name."""
    return kwargs.get(item) if isinstance(item, str) else [*args, *kwargs.values()][item]


def active_execution() -> Execution | None:
    """Return the run whose hooks are in force here, if there is one."""
    return _ACTIVE.get()


def suspend() -> "Token[Execution | None] | None":
    """Suspend the active run, if there is one; returns what `resume` takes."""
    active = _ACTIVE.get()
    return None if active is None else _ACTIVE.set(active.suspended())


def resume(token: "Token[Execution | None] | None") -> None:
    """Let the run go on that was active before."""
    if token is not None:
        _ACTIVE.reset(token)


def count_suspended(owner: object) -> int:
    """Return how many runs of an owner wait for functions of theirs, from within which we ask."""
    n, active = 0, _ACTIVE.get()
    while active is not None:
        n += active.is_suspended and active.owner is owner
        active = active.parent
    return n


def _name_main(kwargs: Mapping[str, Any]) -> str | None:
    return next((name for name in _MAIN_ARGUMENTS if name in kwargs), None)


def _apply(output: Any, item: Any, functions: list[StepFunction], scratch: Scratch) -> Any:
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

"""Calls that take turns: each stands still whenever it asks something.

They run on threads of their own, but never two at a time, and questions are answered on the thread
that drives them. So code that calls in the ordinary way can be stopped in the middle of it, and
what several such calls ask at the same time be answered together.
"""

import contextvars
import dataclasses
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

import torch

from pellucid.optimizers._questions import Question

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@dataclasses.dataclass(frozen=True)
class Done:
    """A call has returned."""

    value: Any


@dataclasses.dataclass(frozen=True)
class _Failed:
    error: BaseException


class Abandoned(BaseException):
    """Ends a call at its question because another failed; like GeneratorExit, not to be caught."""


class Strand:
    """One call at a time, which stands still while its question is open."""

    def __init__(self) -> None:
        self._said: SimpleQueue[Question | Done | _Failed] = SimpleQueue()
        self._told: SimpleQueue[Done | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_abandoned = False

    def ask(self, question: Question) -> Any:
        """Ask, and return the answer; to be called by the call itself, on its thread."""
        if self._is_abandoned:
            raise Abandoned
        self._said.put(question)
        told = self._told.get()
        if told is None:
            raise Abandoned
        return told.value

    def start(self, call: Callable[[], Any]) -> Question | Done:
        """Begin a call; returns its first question, or that it is done.

        The call sees the context variables of this thread, and its settings of gradients and
        autocast, as if it were made here.

        Raises:
            BaseException: What the call raised.
        """
        context, settings = contextvars.copy_context(), TorchSettings()
        # A daemon, so that no question left open can keep the process from ending.
        self._thread = threading.Thread(
            target=context.run, args=(self._work, call, settings), daemon=True
        )
        self._thread.start()
        return self._listen()

    def resume(self, answer: Any) -> Question | Done:
        """Answer the open question; returns the next, or that the call is done.

        Raises:
            BaseException: What the call raised.
        """
        self._told.put(Done(answer))
        return self._listen()

    def abandon(self) -> None:
        """Let the call end at its open question, or at its next; no other call can follow it.

        Whatever an interrupt has left undone here, the call finds one of both: nothing is waited
        for.
        """
        self._is_abandoned = True
        self._told.put(None)

    def join(self) -> None:
        """Wait until an abandoned call has ended."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _listen(self) -> Question | Done:
        said = self._said.get()
        if not isinstance(said, Question) and self._thread is not None:
            self._thread.join()
        if isinstance(said, _Failed):
            raise said.error
        return said

    def _work(self, call: Callable[[], Any], settings: "TorchSettings") -> None:
        try:
            with settings.restored():
                said = Done(call())
        except BaseException as error:
            said = _Failed(error)
        self._said.put(said)


class TorchSettings:
    """What torch keeps for each thread and arithmetic depends on, as it is here and now."""

    def __init__(self) -> None:
        self._is_inference = torch.is_inference_mode_enabled()
        self._has_grad = torch.is_grad_enabled()
        self._autocast = [
            (kind, torch.get_autocast_dtype(kind))
            for kind in _DEVICE_TYPES
            if torch.is_autocast_enabled(kind)
        ]

    @contextmanager
    def restored(self) -> Generator[None]:
        """Have the same settings on another thread, until the context is left."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._is_inference))
            stack.enter_context(torch.set_grad_enabled(self._has_grad))
            for kind, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            yield


def weave(
    strands: Sequence[Strand],
    calls: Sequence[Callable[[], Any]],
    answer: Callable[[list[Question]], list[Any]],
) -> list[Any]:
    """Let calls take turns until all have returned; return what they returned.

    Args:
        strands: One for each call.
        calls: What to do.
        answer: Answers questions that are open at the same time, in their order.

    Raises:
        BaseException: What a call or an answer raised, or an interrupt; all calls have then been
            ended at a question, and what they hold is released.
    """
    values: list[Any] = [None] * len(calls)
    open_questions: dict[int, Question] = {}

    def note(i: int, said: Question | Done) -> None:
        if isinstance(said, Done):
            values[i] = said.value
        else:
            open_questions[i] = said

    try:
        for i, (strand, call) in enumerate(zip(strands, calls, strict=True)):
            note(i, strand.start(call))
        while open_questions:
            turn = _choose(open_questions)
            asked = [open_questions.pop(i) for i in turn]
            for i, found in zip(turn, answer(asked), strict=True):
                note(i, strands[i].resume(found))
    except BaseException:
        for strand in strands:
            strand.abandon()
        for strand in strands:
            strand.join()
        raise
    return values


def _choose(open_questions: dict[int, Question]) -> list[int]:
    urgent = [i for i, asked in open_questions.items() if not asked.can_wait]
    return sorted(urgent or open_questions)

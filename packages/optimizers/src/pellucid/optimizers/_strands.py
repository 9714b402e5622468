"""Calls that take turns: each stands still whenever it asks something.

They run on threads of their own, but never two at a time, and questions are answered on the thread
that drives them. So code that calls in the ordinary way can be stopped in the middle of it, and
what several such calls ask at the same time be answered together.
"""

import contextvars
import dataclasses
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from pellucid.optimizers._questions import Question


@dataclasses.dataclass(frozen=True)
class Done:
    """A call has returned."""

    value: Any


@dataclasses.dataclass(frozen=True)
class _Failed:
    error: BaseException


class Strand:
    """One call at a time, which stands still while its question is open."""

    def __init__(self) -> None:
        self._said: SimpleQueue[Question | Done | _Failed] = SimpleQueue()
        self._told: SimpleQueue[Done | _Failed] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_asking = False

    def ask(self, question: Question) -> Any:
        """Ask, and return the answer; to be called by the call itself, on its thread."""
        self._said.put(question)
        told = self._told.get()
        if isinstance(told, _Failed):
            raise told.error
        return told.value

    def start(self, call: Callable[[], Any]) -> Question | Done:
        """Begin a call; returns its first question, or that it is done.

        Raises:
            BaseException: What the call raised.
        """
        context = contextvars.copy_context()
        # A daemon, so that no question left open can keep the process from ending.
        self._thread = threading.Thread(target=context.run, args=(self._work, call), daemon=True)
        self._thread.start()
        return self._listen()

    def resume(self, answer: Any) -> Question | Done:
        """Answer the open question; returns the next, or that the call is done.

        Raises:
            BaseException: What the call raised.
        """
        self._is_asking = False
        self._told.put(Done(answer))
        return self._listen()

    def abandon(self, error: BaseException) -> None:
        """End the call, if there is one, by raising an error at its open question."""
        while self._thread is not None:
            if self._is_asking:
                self._is_asking = False
                self._told.put(_Failed(error))
            self._hear(self._said.get())

    def _listen(self) -> Question | Done:
        said = self._said.get()
        self._hear(said)
        if isinstance(said, _Failed):
            raise said.error
        return said

    def _hear(self, said: Question | Done | _Failed) -> None:
        self._is_asking = isinstance(said, Question)
        if not self._is_asking and self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, call: Callable[[], Any]) -> None:
        try:
            said = Done(call())
        except BaseException as error:
            said = _Failed(error)
        self._said.put(said)


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
        BaseException: What a call or an answer raised; all other calls are ended, too.
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
    except BaseException as error:
        for strand in strands:
            strand.abandon(error)
        raise
    return values


def _choose(open_questions: dict[int, Question]) -> list[int]:
    urgent = [i for i, asked in open_questions.items() if not asked.can_wait]
    return sorted(urgent or open_questions)

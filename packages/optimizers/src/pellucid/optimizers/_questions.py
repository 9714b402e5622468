"""Questions to a model, which several searches may put together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

_Answer = TypeVar("_Answer", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What a search wants to know of some rows, candidates say; answers have one row for each.

    Attributes:
        answer: Takes a problem, the rows and what else there is.
        bound: What it is to be called with.
        focus: The templates that count; all when None.
        is_alone: Whether it is answered by itself: its answer is about all rows together.
        can_wait: Whether it is put off while others ask something else, so that more may join.
    """

    answer: Callable[..., Any]
    bound: inspect.BoundArguments
    focus: tuple[int, ...] | None
    is_alone: bool
    can_wait: bool

    @property
    def problem(self) -> Any:
        """Whom the question is put to."""
        return next(iter(self.bound.arguments.values()))

    @property
    def rows(self) -> Shaped[Tensor, "_ *shape"]:
        """What is asked about."""
        return list(self.bound.arguments.values())[1]

    def joins(self, other: "Question") -> bool:
        """Say whether both can be answered by one call."""
        return (
            not (self.is_alone or other.is_alone)
            and self.answer is other.answer
            and self.problem is other.problem
            and self.focus == other.focus
            and self.rows.shape[1:] == other.rows.shape[1:]
            and _is_same(self._more(), other._more())
        )

    def put(self, rows: Shaped[Tensor, "_ *shape"]) -> Any:
        """Answer the question about these rows."""
        problem_name, rows_name = list(self.bound.arguments)[:2]
        arguments = {**self.bound.arguments, problem_name: self.problem, rows_name: rows}
        bound = inspect.BoundArguments(self.bound.signature, arguments)
        with self.problem.focus_on(self.focus):
            return self.answer(*bound.args, **bound.kwargs)

    def _more(self) -> list[Any]:
        return list(self.bound.arguments.values())[2:]


def question(
    *, alone: Callable[[Mapping[str, Any]], bool] | None = None, can_wait: bool = False
) -> Callable[[_Answer], _Answer]:
    """Let a function of a problem and rows be asked through `problem.ask`, where that is set.

    Args:
        alone: Given the arguments by name, says whether the answer is about all rows together.
        can_wait: Whether it is better put off while others ask something else.
    """

    def decorate(answer: _Answer) -> _Answer:
        signature = inspect.signature(answer)

        @functools.wraps(answer)
        def put(problem: Any, *args: Any, **kwargs: Any) -> Any:
            if problem.ask is None:
                return answer(problem, *args, **kwargs)
            bound = signature.bind(problem.asked, *args, **kwargs)
            bound.apply_defaults()
            is_alone = alone is not None and alone(bound.arguments)
            return problem.ask(Question(answer, bound, problem.focus, is_alone, can_wait))

        return cast("_Answer", put)

    return decorate


def answer_together(questions: Sequence[Question]) -> list[Any]:
    """Answer questions, those that can be joined by one call; answers come in their order."""
    answers: dict[int, Any] = {}
    for group in _group(questions):
        rows = [questions[i].rows for i in group]
        found = questions[group[0]].put(rows[0] if len(rows) == 1 else torch.cat(rows))
        parts = [found] if len(group) == 1 else _split(found, [len(part) for part in rows])
        answers.update(zip(group, parts, strict=True))
    return [answers[i] for i in range(len(questions))]


def _group(questions: Sequence[Question]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, asked in enumerate(questions):
        for group in groups:
            if questions[group[0]].joins(asked):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _split(found: Any, sizes: list[int]) -> list[Any]:
    if isinstance(found, Tensor):
        return list(found.split(sizes))
    make = getattr(found, "_make", tuple)
    return [make(parts) for parts in zip(*(part.split(sizes) for part in found), strict=True)]


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and bool(one == other)

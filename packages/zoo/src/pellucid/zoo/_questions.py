"""Questions that a stored model was trained to answer, with the right answers."""

import json
from dataclasses import dataclass

from pellucid.zoo._models import path


@dataclass(frozen=True)
class Question:
    """A question with its only right answer.

    Attributes:
        kind: What is asked for, such as "colour", "town" or "yes/no".
        question: What the user says.
        answer: What the model is to say, in these very words.
        split: "seen" when the model was trained on this question; "held-out" when it was trained
            on the fact and on the phrasing, but never on both together.
    """

    kind: str
    question: str
    answer: str
    split: str


def questions(name: str) -> tuple[Question, ...]:
    """Some questions and answers from the world that a model knows, of every kind and split.

    Args:
        name: One of `pellucid.zoo.names`.

    Raises:
        UnknownNameError: There is no such model.
    """
    text = (path(name) / "questions.json").read_text(encoding="utf-8")
    return tuple(Question(**record) for record in json.loads(text))

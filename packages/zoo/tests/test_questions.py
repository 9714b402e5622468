import dataclasses
from collections import Counter

import pytest

from pellucid import zoo

KINDS = set("animal colour craft food greeting instrument job market river town yes/no".split())


def test_the_sample_has_every_kind_in_both_splits() -> None:
    asked = zoo.questions("tiny-chat")
    assert Counter(question.split for question in asked) == {"held-out": 200, "seen": 100}
    for split in ("held-out", "seen"):
        assert {question.kind for question in asked if question.split == split} == KINDS


def test_no_question_is_asked_twice() -> None:
    texts = [question.question for question in zoo.questions("tiny-chat")]
    assert len(set(texts)) == len(texts)


def test_a_question_is_frozen() -> None:
    question = zoo.questions("tiny-chat")[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        question.answer = "No."  # pyright: ignore[reportAttributeAccessIssue]

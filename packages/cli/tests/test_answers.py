import pytest

from pellucid.cli._answers import ask, ask_without_trigger, equal_targets, remove_placeholder
from pellucid.testing import TinyLM

SLOT = "{{OPTIMIZED_TRIGGER}}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (f"Where is it? {SLOT}", "Where is it?"),
        (f"{SLOT} Where is it?", "Where is it?"),
        (f"Where {SLOT} is it?", "Where is it?"),
        (f"Where is {SLOT}?", "Where is?"),
        (f"Where is it?\n{SLOT}\nSay it.", "Where is it?\nSay it."),
        (f"one{SLOT}two", "onetwo"),
        (f"one {SLOT}two", "one two"),
        (f"{SLOT}", ""),
        (f"{SLOT} Where {SLOT} is it{SLOT}?", "Where is it?"),
        ("Where {{OPTIMIZED_TRIGGER_2}} is\n{{OPTIMIZED_TRIGGER_1}}it", "Where is\nit"),
    ],
)
def test_the_placeholder_leaves_tidy_text(template, text):
    assert remove_placeholder(template) == text


def test_answers_are_those_of_the_model():
    model = TinyLM(seed=1)
    templates = [f"I see {SLOT} now", f"You {SLOT}"]
    assert ask(model, templates, "a dog", ["x"]) == model(
        ["I see a dog now", "You a dog"], max_new_tokens=64
    )
    assert ask_without_trigger(model, templates) == model(["I see now", "You"], max_new_tokens=64)


def test_answers_may_be_longer_than_the_longest_target():
    asked = {}

    class Recorder(TinyLM):
        def __call__(self, input_texts, **kwargs):
            asked.update(kwargs)
            return ["x"] * len(input_texts)

    ask(Recorder(seed=1), [SLOT], "a", ["y" * 500])
    assert asked["max_new_tokens"] > 500


@pytest.mark.parametrize(
    ("answers", "targets", "equal"),
    [
        (["a"], [" a\n"], True),
        (["a", "b"], ["a", "c"], False),
        ([None], ["a"], False),
        (["a"], ["A"], False),
        (["a"], [], None),
    ],
)
def test_the_goal_is_equality(answers, targets, equal):
    assert equal_targets(answers, targets) is equal

import copy

import pytest
from core_samples import TEMPLATE
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    Targets,
    TemplateError,
    check_templates,
    fill_template,
    split_template,
)

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": f"Tell me. {OPTIMIZED_TRIGGER_PLACEHOLDER}"},
]
TEXTS = st.text().filter(lambda text: "{" not in text and "}" not in text)


@given(TEXTS, TEXTS, st.text())
def test_splitting_and_filling_preserve_every_character(before, after, trigger):
    template = before + OPTIMIZED_TRIGGER_PLACEHOLDER + after
    assert split_template(template) == (before, after)
    assert fill_template(template, trigger) == before + trigger + after
    assert check_templates([template, template * 3]) == [template, template * 3]


def test_a_conversation_is_filled_and_left_as_it_is():
    before = copy.deepcopy(TALK)
    filled = fill_template(TALK, "please")
    assert filled == [TALK[0], {"role": "user", "content": "Tell me. please"}]
    assert before == TALK


def test_what_is_checked_is_independent_of_what_was_passed():
    passed = [copy.deepcopy(TALK)]
    checked = check_templates(passed)
    passed[0][1]["content"] = "changed"
    passed.clear()
    assert checked == [TALK]


def test_tuples_serve_as_lists():
    assert check_templates((TEMPLATE, tuple(TALK))) == [TEMPLATE, TALK]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], r"a list of at least one template, got \[\]"),
        ((), "at least one template"),
        (TEMPLATE, "must be a list .* Pass .template."),
        (None, "got None"),
        (5, "got 5"),
        (["no slot"], r"template 0 holds .* 0 times, expected at least once: 'no slot'"),
        ([TEMPLATE, "Say {{OPTIMIZED_TRIGGER_0}}"], "_0}}, expected a number from 1"),
        (["Say {{OPTIMIZED_TRIGGER_one}}"], "_one}}, expected a number from 1"),
        (["Say {{OPTIMIZED_TRIGGER_}}"], "_}}, expected a number from 1"),
        ([TEMPLATE, "Say {{OPTIMIZED_TRIGGER_2}}"], "both .*OPTIMIZED_TRIGGER}} and .*_2}}"),
        ([TEMPLATE + "{{OPTIMIZED_TRIGGER_1}}"], "Number all placeholders .* and none"),
        ([[{"role": "user", "content": "hi"}]], "template 0 holds .* 0 times"),
        ([TEMPLATE, 7], "template 1 must be a text or a list of messages .* got 7"),
        ([[]], "template 0 must be a text or a list"),
        ([["hi"]], "template 0 must be a text or a list"),
        (TALK, "template 0 must be a text or a list"),
        ([[{"role": "user"}]], "'role' and 'content'"),
        ([[{"role": "user", "content": None}]], "both texts"),
    ],
)
def test_bad_templates_are_refused_by_number_and_value(templates, message):
    with pytest.raises(TemplateError, match=message) as caught:
        check_templates(templates)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AssertionError)


def test_templates_and_targets_agree_in_number():
    assert check_templates([TEMPLATE], Targets()) == [TEMPLATE]
    assert check_templates([TEMPLATE], Targets(target_response_strs=["a"])) == [TEMPLATE]
    for strs in (["a"], ["a", "b", "c"]):
        with pytest.raises(TemplateError, match=f"2 templates need 2 targets, got {len(strs)}"):
            check_templates([TEMPLATE, TEMPLATE], Targets(target_response_strs=strs))


@pytest.mark.parametrize("text", ["no slot", TEMPLATE * 2])
def test_only_a_template_can_be_split(text):
    with pytest.raises(TemplateError, match="expected once"):
        split_template(text)

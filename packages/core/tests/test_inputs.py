import pytest
import torch
from core_samples import TEMPLATE, CharTokenizer, unhooked
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    DefaultTokenInputManager,
    InputsManager,
    Targets,
    TemplateError,
    TextInputManager,
    TokenInputManager,
    count_differing,
)
from pellucid.testing import TinyTokenizer

TOKENIZER = CharTokenizer()
IDS = [TOKENIZER.encode(TEMPLATE), TOKENIZER.encode("{{OPTIMIZED_TRIGGER}}  é\n")]
TARGETS = Targets(target_response_strs=["yes", "no"])
# Characters that stand for one id each and are not special.
TRIGGERS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_text_is_filled_in_unaltered(triggers):
    manager = TextInputManager([TEMPLATE, "{{OPTIMIZED_TRIGGER}}"], TARGETS)
    first = manager.get_triggered_inputs(0, triggers)
    assert first.input_texts == [f"Say {trigger} now" for trigger in triggers]
    assert first.input_trigger_strs == triggers
    assert first.message_targets.target_response_strs == "yes"
    second = manager.get_triggered_inputs(1, triggers)
    assert second.input_texts == triggers
    assert second.message_targets.target_response_strs == "no"


def test_conversations_are_filled_in():
    talk = [{"role": "user", "content": "{{OPTIMIZED_TRIGGER}}?"}]
    filled = TextInputManager([talk]).get_triggered_inputs(0, ["a", "b"])
    assert [messages[0]["content"] for messages in filled.input_texts] == ["a?", "b?"]
    assert filled.message_targets is None
    assert talk[0]["content"] == "{{OPTIMIZED_TRIGGER}}?"


@pytest.mark.parametrize("triggers", ["abc", ("a",), ["a", 1], None])
def test_triggers_are_a_list_of_texts(triggers):
    with pytest.raises(ArgumentError, match="trigger_strs must be a list of texts"):
        unhooked(TextInputManager.get_triggered_inputs)(TextInputManager([TEMPLATE]), 0, triggers)


@pytest.mark.parametrize(
    "templates", [[], ["none"], [TEMPLATE + "{{OPTIMIZED_TRIGGER_1}}"], TEMPLATE]
)
def test_templates_are_validated_once_and_at_construction(templates):
    with pytest.raises(TemplateError):
        TextInputManager(templates)


def test_fewer_targets_than_templates_are_refused_at_construction():
    with pytest.raises(TemplateError, match="2 templates need 2 targets, got 1"):
        TextInputManager([TEMPLATE] * 2, TARGETS.select_indices([0]))
    with pytest.raises(TemplateError, match="1 templates need 1 targets, got 2"):
        DefaultTokenInputManager(TOKENIZER, IDS[:1], TARGETS)


@pytest.mark.parametrize(
    "build",
    [
        lambda: DefaultTokenInputManager(TOKENIZER, IDS, TARGETS),
        lambda: DefaultTokenInputManager(TOKENIZER, templates_ids=IDS, targets=TARGETS),
        lambda: DefaultTokenInputManager(tokenizer=TOKENIZER, tok_ids=IDS, targets=TARGETS),
    ],
)
def test_both_spellings_of_the_constructor(build):
    manager = build()
    assert isinstance(manager, TokenInputManager)
    assert isinstance(manager, InputsManager)
    assert manager.n_templates == 2
    assert manager.targets is TARGETS
    assert manager.tokenizer is TOKENIZER
    assert manager.vocab_size == TOKENIZER.vocab_size
    filled = manager.get_triggered_inputs(1, torch.tensor([[65, 32], [0xE9, 66]]))
    assert filled.input_texts == ["A   é\n", "éB  é\n"]
    assert filled.input_trigger_strs == ["A ", "éB"]
    assert filled.input_trigger_ids.tolist() == [[65, 32], [0xE9, 66]]
    assert filled.message_targets.target_response_strs == "no"


@pytest.mark.parametrize(
    ("arguments", "times"), [({}, 0), ({"templates_ids": IDS, "tok_ids": IDS}, 2)]
)
def test_token_ids_are_given_once(arguments, times):
    with pytest.raises(ArgumentError, match=f"got them {times} times"):
        DefaultTokenInputManager(TOKENIZER, **arguments)


def test_decoded_templates_are_validated():
    with pytest.raises(TemplateError, match="expected at least once"):
        DefaultTokenInputManager(TOKENIZER, [TOKENIZER.encode("no slot")])


def test_the_placeholder_argument_is_honoured():
    ids = [TOKENIZER.encode("a<T>b")]
    manager = DefaultTokenInputManager(TOKENIZER, ids, optimized_trigger_placeholder="<T>")
    assert manager.get_triggered_inputs(0, torch.tensor([[67]])).input_texts == ["aCb"]
    with pytest.raises(TemplateError, match="0 times"):
        DefaultTokenInputManager(TOKENIZER, ids)


def test_no_keyword_is_swallowed():
    manager = DefaultTokenInputManager(TOKENIZER, IDS)
    with pytest.raises(ArgumentError, match=r"unknown arguments \['do_prefill'\]"):
        manager.get_triggered_inputs(0, torch.tensor([[65]]), do_prefill=True)
    with pytest.raises(TypeError):
        DefaultTokenInputManager(TOKENIZER, IDS, placeholder="<T>")


@given(TRIGGERS)
def test_triggers_are_read_and_written_as_the_tokenizer_does(trigger):
    manager = DefaultTokenInputManager(TOKENIZER, IDS)
    ids = manager.encode_trigger(trigger)
    assert ids.dtype == torch.int64
    assert manager.decode_triggers(ids[None]) == [trigger]
    assert manager.retokenization_mask(ids[None]).tolist() == [True]


def test_what_does_not_survive_as_text_is_masked():
    manager = DefaultTokenInputManager(TOKENIZER, IDS)
    candidates = torch.tensor([[65, 66], [65, 1], [2, 0]])  # special tokens vanish from text
    assert manager.retokenization_mask(candidates).tolist() == [True, False, False]


def test_a_template_that_does_not_exist_has_no_inputs():
    with pytest.raises(IndexError):
        TextInputManager([TEMPLATE]).get_triggered_inputs(1, ["a"])


ids = st.lists(st.integers(0, 5), max_size=12)


@given(ids, ids)
def test_differing_tokens_are_counted(one, other):
    count = count_differing(one, other)
    assert (count == 0) == (one == other)
    assert abs(len(one) - len(other)) <= count <= max(len(one), len(other))


def test_tokens_are_counted_from_the_first_difference_to_the_last():
    assert count_differing([1, 2, 3, 4], [9, 1, 2, 3, 4]) == 1
    assert count_differing([1, 2, 3, 4], [1, 2, 9, 4]) == 1
    assert count_differing([1, 2, 3, 4], [9, 2, 3, 9]) == 4


def test_gap_of_a_trigger_is_zero_exactly_where_it_survives():
    tokenizer = TinyTokenizer()
    manager = DefaultTokenInputManager(tokenizer, [tokenizer.encode(TEMPLATE)])
    rows = torch.tensor([tokenizer.encode("ab"), [*tokenizer.encode("t"), *tokenizer.encode("h")]])
    assert [manager.tokenization_gap(row) for row in rows] == [0, 2]
    assert manager.retokenization_mask(rows).tolist() == [True, False]

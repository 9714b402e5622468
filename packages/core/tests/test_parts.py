"""Templates with several places, and triggers of several parts."""

import pytest
import torch
from core_samples import CharTokenizer
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import (
    DEFAULT_INIT_TRIGGER,
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    TRIGGER_PART_SEPARATOR,
    ArgumentError,
    DefaultTokenInputManager,
    OptimizerResult,
    TemplateError,
    TextInputManager,
    TriggerTokens,
    choose_start,
    columns_of,
    count_parts,
    cut_template,
    fill_template,
    first_places,
    highest_part,
    join_parts,
    number_placeholder,
    place_slots,
    slice_input,
    split_parts,
)

SEP = TRIGGER_PART_SEPARATOR
TEXTS = st.text(st.characters(exclude_characters=f"{{}}{SEP}", exclude_categories=["Cs"]))
PARTS = st.lists(TEXTS, min_size=1, max_size=4)


@st.composite
def placed(draw):
    """Texts around places, and which part stands in each; every part stands somewhere."""
    n_parts = draw(st.integers(1, 3))
    more = draw(st.lists(st.integers(0, n_parts - 1), max_size=3))
    parts = draw(st.permutations([*range(n_parts), *more]))
    texts = draw(st.lists(TEXTS, min_size=len(parts) + 1, max_size=len(parts) + 1))
    return texts, list(parts), n_parts


def write(texts, placeholders):
    pairs = zip(texts, [*placeholders, ""], strict=True)
    return "".join(text + placeholder for text, placeholder in pairs)


@given(PARTS)
def test_parts_survive_being_one_text(parts):
    assert split_parts(join_parts(parts)) == parts
    assert choose_start(parts, len(parts)) == join_parts(parts)
    assert choose_start(join_parts(parts), len(parts)) == join_parts(parts)


@given(placed(), st.lists(TEXTS, min_size=3, max_size=3))
def test_filling_is_plain_concatenation(layout, triggers):
    texts, parts, n_parts = layout
    template = write(texts, [number_placeholder(part + 1) for part in parts])
    expected = write(texts, [triggers[part] for part in parts])
    assert fill_template(template, triggers[:n_parts]) == expected
    assert fill_template(template, join_parts(triggers[:n_parts])) == expected
    messages = [{"role": "user", "content": template}]
    assert fill_template(messages, triggers)[0]["content"] == expected
    pieces = cut_template(template)
    assert (list(pieces.texts), list(pieces.parts), pieces.is_numbered) == (texts, parts, True)
    assert pieces.fill(triggers) == expected
    assert count_parts([template]) == highest_part([template]) == n_parts


@given(st.lists(TEXTS, min_size=2, max_size=5), st.text())
def test_a_trigger_stands_in_all_of_its_places(texts, trigger):
    template = write(texts, [OPTIMIZED_TRIGGER_PLACEHOLDER] * (len(texts) - 1))
    assert fill_template(template, trigger) == trigger.join(texts)
    assert count_parts([template]) == highest_part([template]) == 0
    assert not cut_template(template).is_numbered


def test_a_trigger_that_spells_a_placeholder_is_not_filled_in_turn():
    first, second = number_placeholder(1), number_placeholder(2)
    assert fill_template(f"{first}-{second}", [second, "b"]) == f"{second}-b"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 4), st.data())
def test_places_are_where_concatenation_puts_them(n_fixed, n_trigger, data):
    n_slots = len(n_fixed)
    n_after = data.draw(st.integers(0, 3))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=n_trigger, max_size=n_trigger))
    columns = columns_of(lengths)
    chosen = data.draw(st.lists(st.sampled_from(columns), min_size=n_slots, max_size=n_slots))
    slots = place_slots([*n_fixed, n_after], chosen)
    tokens = [f"t{i}" for i in range(sum(lengths))]
    whole = []
    for n, part in zip(n_fixed, chosen, strict=True):
        whole += ["."] * n + tokens[part]
    whole += ["."] * n_after
    for slot, part in zip(slots, chosen, strict=True):
        assert whole[slot.positions] == tokens[part]
    slices = slice_input(slots, n_after, 2)
    assert whole[slices["input_before"]] == ["."] * n_fixed[0]
    assert slices["trigger"] == slots[0].positions
    assert slices["input_after"] == slice(len(whole) - n_after, len(whole))
    assert slices["appended"] == slice(len(whole), len(whole) + 2)
    assert "appended" not in slice_input(slots, n_after, 0)
    if set(tokens) <= set(whole):
        assert first_places(slots, len(tokens)) == [whole.index(token) for token in tokens]
    else:
        with pytest.raises(ArgumentError, match="has no place in this template"):
            first_places(slots, len(tokens))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: join_parts([]), ArgumentError, r"at least one text, got \[\]"),
        (lambda: join_parts(["a", f"b{SEP}c"]), ArgumentError, "which separates parts"),
        (lambda: choose_start("a", 2), ArgumentError, "'a' has 1 parts.*places for 2"),
        (lambda: choose_start(["a", "b"], 0), ArgumentError, "has 2 parts.*places for 1"),
        (lambda: choose_start(["a", "b"], 3), ArgumentError, "has 2 parts.*places for 3"),
        (lambda: count_parts(["{{OPTIMIZED_TRIGGER_2}}"]), TemplateError, "_1}} in none of them"),
        (
            lambda: count_parts(["{{OPTIMIZED_TRIGGER_1}}", "{{OPTIMIZED_TRIGGER_3}}"]),
            TemplateError,
            "_2}} in none of them",
        ),
        (
            lambda: fill_template("{{OPTIMIZED_TRIGGER_2}}", "only one"),
            TemplateError,
            "a place for part 2 of the trigger, which has 1",
        ),
        (lambda: fill_template("{{OPTIMIZED_TRIGGER}}", ["a", "b"]), TemplateError, "one trigger"),
        (lambda: cut_template("nothing"), TemplateError, "0 times"),
        (lambda: cut_template("{{OPTIMIZED_TRIGGER_01}}"), TemplateError, "a number from 1"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_start_is_shared_out_among_the_parts():
    assert choose_start(None, 0) == choose_start(None, 1) == DEFAULT_INIT_TRIGGER
    parts = split_parts(choose_start(None, 3))
    assert [part.count("!") for part in parts] == [7, 7, 6]
    assert all(split_parts(choose_start(None, 30)))
    # Where nothing is numbered, nothing separates parts.
    assert choose_start(f"a{SEP}b", 0) == f"a{SEP}b"


@given(placed(), st.data())
def test_text_and_default_token_managers_fill_every_part(layout, data):
    texts, parts, n_parts = layout
    tokenizer = CharTokenizer()
    letters = st.text("abc é", min_size=1, max_size=3)
    trigger_parts = data.draw(st.lists(letters, min_size=n_parts, max_size=n_parts))
    template = write(["x"] * len(texts), [number_placeholder(part + 1) for part in parts])
    expected = write(["x"] * len(texts), [trigger_parts[part] for part in parts])
    trigger = join_parts(trigger_parts)
    by_text = TextInputManager([template]).get_triggered_inputs(0, [trigger])
    assert by_text.input_texts == [expected]
    manager = DefaultTokenInputManager(tokenizer, [tokenizer.encode(template)])
    ids = manager.encode_trigger(trigger)
    manager.arrange_parts([len(part) for part in manager.encode_parts(trigger)])
    assert manager.decode_triggers(ids[None]) == [trigger]
    assert manager.retokenization_mask(ids[None]).tolist() == [True]
    assert manager.tokenization_gap(ids) == 0
    assert manager.get_triggered_inputs(0, ids[None]).input_texts == [expected]


def test_a_separator_within_a_part_is_left_out_and_does_not_survive():
    tokenizer = CharTokenizer()
    tokens = TriggerTokens(tokenizer, 2)
    tokens.arrange_parts([2, 1])
    rows = torch.tensor([[65, ord(SEP), 66], [65, 67, 66]])
    assert tokens.decode_triggers(rows) == [f"A{SEP}B", f"AC{SEP}B"]
    assert tokens.retokenization_mask(rows).tolist() == [False, True]


@pytest.mark.parametrize(
    ("n_parts", "lengths", "message"),
    [
        (0, [1], "do not number the placeholder"),
        (2, [3], r"2 parts of at least one token, got the lengths \[3\]"),
        (2, [3, 0], r"got the lengths \[3, 0\]"),
    ],
)
def test_senseless_lengths_are_refused(n_parts, lengths, message):
    with pytest.raises(ArgumentError, match=message):
        TriggerTokens(CharTokenizer(), n_parts).arrange_parts(lengths)


def test_a_part_that_these_templates_do_not_hold_keeps_its_columns():
    tokens = TriggerTokens(CharTokenizer(), 1)
    assert tokens.columns(5) == [slice(0, 5)]
    tokens.arrange_parts([2, 3])
    assert tokens.columns(5) == [slice(0, 2), slice(2, 5)]
    with pytest.raises(ArgumentError, match="5 in all, got a trigger of 4"):
        tokens.columns(4)


def test_a_result_offers_the_parts(tmp_path):
    ids = torch.tensor([1, 2, 3])
    result = OptimizerResult(best_trigger_ids=ids, best_trigger_str=f"a{SEP}b", part_lengths=[1, 2])
    result.save(tmp_path / "result.json")
    for held in (result, OptimizerResult.load(tmp_path / "result.json")):
        assert held.best_trigger_parts == ["a", "b"]
        assert [row.tolist() for row in held.best_trigger_part_ids] == [[1], [2, 3]]
    whole = OptimizerResult(best_trigger_ids=ids, best_trigger_str=f"a{SEP}b")
    assert whole.best_trigger_parts == [f"a{SEP}b"]
    assert [row.tolist() for row in whole.best_trigger_part_ids] == [[1, 2, 3]]
    assert OptimizerResult().best_trigger_parts is OptimizerResult().best_trigger_part_ids is None

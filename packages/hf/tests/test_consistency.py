"""A trigger given as tokens and as text is the same, for every kind of tokenizer."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets, TemplateError, fill_template
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer

TEMPLATES = [
    f"Tell me {P} now, please.",
    f"{P} is the question",
    f"the answer is {P}",
    f"Why?\n{P}",
    f"({P})",
    P,
]


def make(tokenizer, **options):
    return LMHFModel(tiny_llama(vocab_size=len(tokenizer)), tokenizer=tokenizer, **options)


def whole_ids(model, template, text):
    """What the text path gives the model, by the tokenizer's own account."""
    filled = fill_template(template, text)
    tokenizer = model.tokenizer.wrapped
    if tokenizer.chat_template is None:
        return tokenizer(filled)["input_ids"]
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": filled}], add_generation_prompt=True, return_dict=False
    )


def token_ids(model, template_idx, row):
    inputs = model._token_input_manager.get_triggered_inputs(template_idx, row[None])
    return inputs.input_ids[0].tolist()


def sample_rows(model, n=300, length=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, len(model.tokenizer.wrapped), (n, length), generator=generator)


@pytest.mark.parametrize("template", TEMPLATES)
def test_accepted_triggers_have_the_same_tokens_in_both_flows(any_tokenizer, template):
    model = make(any_tokenizer)
    model.set_inputs_from_tokens([template])
    rows = sample_rows(model)
    texts = model.decode_triggers(rows)
    accepted = model.retokenization_mask(rows).tolist()
    for row, text, is_accepted in zip(rows, texts, accepted, strict=True):
        same = whole_ids(model, template, text) == token_ids(model, 0, row)
        assert is_accepted == same, (row, text)
    # A test that accepts nothing says nothing.
    assert sum(accepted) >= 3


@pytest.mark.parametrize("template", TEMPLATES)
def test_plain_words_survive_the_way_there_and_back(any_tokenizer, template):
    model = make(any_tokenizer)
    model.set_inputs_from_tokens([template])
    trigger = "old sea the"
    ids = model.encode_trigger(trigger)
    if model.retokenization_mask(ids[None]).item():
        assert model.decode_triggers(ids[None]) == [trigger]
        assert token_ids(model, 0, ids) == whole_ids(model, template, trigger)
    else:
        # Only where the trigger's edge merges with the template's sign.
        assert template == f"({P})"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="abc XYZ.!?\n é7", min_size=1, max_size=12))
def test_any_text_that_is_accepted_comes_back_as_it_was(any_tokenizer, text):
    model = make(any_tokenizer)
    model.set_inputs_from_tokens(TEMPLATES[:1])
    ids = model.encode_trigger(text)
    if len(ids) and model.retokenization_mask(ids[None]).item():
        (again,) = model.decode_triggers(ids[None])
        assert whole_ids(model, TEMPLATES[0], again) == whole_ids(model, TEMPLATES[0], text)


def test_the_space_before_the_slot_belongs_to_the_first_token(made):
    tokenizer = made.merging_bpe_tokenizer()
    model = make(tokenizer)
    model.set_inputs_from_tokens([f"Tell me {P} now"])
    ids = model.encode_trigger("the house")
    assert tokenizer.decode(ids) == " the house"
    assert model.decode_triggers(ids[None]) == ["the house"]
    assert model.retokenization_mask(ids[None]).item()


def test_losses_of_both_flows_agree_where_the_mask_is_true(any_tokenizer, made):
    model = make(any_tokenizer)
    templates = [f"Tell me {P} now", f"Is it {P} so?"]
    targets = Targets(target_response_strs=["Yes", "No no"])
    model.set_inputs_from_tokens(templates, targets)
    assert model._token_input_manager.disagreements == ()
    rows = sample_rows(model)
    rows = rows[model.retokenization_mask(rows)][:20]
    assert len(rows) >= 3
    by_tokens = model.compute_loss_from_tokens(rows, made.PrefillCE(), keep_message_dim=True)
    model.set_inputs_from_texts(templates, targets)
    by_texts = model.compute_loss_from_texts(
        model.decode_triggers(rows), made.PrefillCE(), keep_message_dim=True
    )
    torch.testing.assert_close(by_texts, by_tokens, atol=1e-5, rtol=0)


def test_all_templates_must_agree(made):
    model = make(made.merging_bpe_tokenizer())
    templates = [f"Tell me {P} now", f"Tell me {P}he"]
    rows = sample_rows(model, n=3000)
    alone = []
    for template in templates:
        model.set_inputs_from_tokens([template])
        alone.append(model.retokenization_mask(rows))
    model.set_inputs_from_tokens(templates)
    assert torch.equal(model.retokenization_mask(rows), alone[0] & alone[1])
    assert not torch.equal(alone[0], alone[1])


def test_templates_with_other_left_contexts_are_refused(made):
    model = make(made.merging_bpe_tokenizer())
    templates = [f"Why?\n{P} now", f"Tell me {P} now", f"Is it {P} so?"]
    message = r"template 0: a trigger has other tokens after 'Why\?\\n'.*consistency='trigger'"
    with pytest.raises(TemplateError, match=message):
        model.set_inputs_from_tokens(templates)


def test_disagreements_are_named_and_counted_where_they_are_allowed(made):
    model = make(made.merging_bpe_tokenizer(), consistency="trigger")
    model.set_inputs_from_tokens([f"Why?\n{P} now", f"Tell me {P} now", f"Is it {P} so?"])
    (reported,) = model._token_input_manager.disagreements
    assert reported.startswith("template 0: ")
    ids = model.encode_trigger("the house")
    assert model.tokenization_gap(ids) >= 1
    model.set_inputs_from_tokens([f"Tell me {P} now", f"Is it {P} so?"])
    assert model._token_input_manager.disagreements == ()
    assert model.tokenization_gap(ids) == 0


def test_gap_is_zero_exactly_where_the_mask_is_true(any_tokenizer):
    model = make(any_tokenizer)
    model.set_inputs_from_tokens([f"Tell me {P} now", f"Is it {P} so?"])
    rows = sample_rows(model)
    gaps = torch.tensor([model.tokenization_gap(row) for row in rows])
    assert torch.equal(gaps == 0, model.retokenization_mask(rows))


def test_levels_are_ordered_and_none_accepts_all():
    masks = {}
    for level in ("none", "trigger", "full"):
        model = make(tiny_tokenizer(), consistency=level)
        model.set_inputs_from_tokens([f"{P}he"])
        masks[level] = model.retokenization_mask(sample_rows(model, n=3000))
    assert masks["none"].all()
    assert 0 < masks["full"].sum() < masks["trigger"].sum() < len(masks["none"])


def test_special_tokens_in_a_trigger_are_never_accepted(made):
    model = make(tiny_tokenizer())
    model.set_inputs_from_tokens([f"Tell me {P} now"])
    rows = torch.tensor([[i, 40] for i in model.tokenizer.all_special_ids])
    assert not model.retokenization_mask(rows).any()


def test_a_chat_template_that_trims_is_taken_at_its_word(made):
    tokenizer = made.metaspace_tokenizer("first", chat=True)
    model = make(tokenizer)
    template = f"{P} tell me"
    model.set_inputs_from_tokens([template])
    ids = model.encode_trigger("  the house")
    # Leading spaces never reach the model, so the same tokens as without them come out.
    assert torch.equal(ids, model.encode_trigger("the house"))


def test_conversations_take_the_slot_in_any_turn():
    model = make(tiny_tokenizer())
    turns = [
        ("system", "Be brief."),
        ("user", "Is it so?"),
        ("assistant", "Yes."),
        ("user", "Why?"),
    ]
    for place in range(4):
        template = [{"role": role, "content": text} for role, text in turns]
        template[place]["content"] += f" {P}"
        model.set_inputs_from_tokens([template])
        ids = model.encode_trigger("! !")
        filled = fill_template(template, "! !")
        expected = tiny_tokenizer().apply_chat_template(
            filled, add_generation_prompt=True, return_dict=False
        )
        assert token_ids(model, 0, ids) == expected


def test_a_user_supplied_chat_template_is_used():
    chat = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    model = make(tiny_tokenizer(), chat_template_kwargs={"chat_template": chat})
    model.set_inputs_from_tokens([f"a {P} b"])
    ids = model.encode_trigger("! !")
    assert tiny_tokenizer().decode(token_ids(model, 0, ids)) == "<a ! ! b>"


def test_special_tokens_are_added_where_there_is_no_chat_template():
    from pellucid.testing import tiny_wordpiece_tokenizer

    tokenizer = tiny_wordpiece_tokenizer()
    model = make(tokenizer)
    model.set_inputs_from_tokens([f"red {P} blue"])
    row = model.encode_trigger("seven")
    ids = token_ids(model, 0, row)
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)

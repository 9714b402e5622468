"""A trigger that stands several times, and one of several parts, against plain concatenation."""

import pytest
import torch

from pellucid.core import TRIGGER_PART_SEPARATOR as SEP
from pellucid.core import ArgumentError, Targets, TemplateError, fill_template
from pellucid.hf import ClassifierHFModel, EncoderHFModel, LMHFModel
from pellucid.hf._inputs import HuggingFaceTokenInputManager
from pellucid.testing import tiny_bert, tiny_llama, tiny_tokenizer, tiny_wordpiece_tokenizer

P, P1, P2 = (f"{{{{OPTIMIZED_TRIGGER{number}}}}}" for number in ("", "_1", "_2"))

TWICE = [f"Tell me\n{P} now\n{P} please", f"Why?\n{P}"]
PARTS = [f"Tell me\n{P2} now\n{P1} or\n{P2} please", f"Why?\n{P1}", f"So\n{P2}\nthen\n{P1}"]
TALK = [
    {"role": "system", "content": f"Be\n{P}\nkind."},
    {"role": "user", "content": f"Tell me.\n{P}"},
]
LENGTHS = (2, 4)


def ready(lm, templates):
    targets = Targets(target_response_strs=["Yes, it is.", "No", "I do"][: len(templates)])
    lm.set_inputs_from_tokens(templates, targets)
    if templates is PARTS:
        lm.arrange_parts(LENGTHS)
    return lm


def rows_of(n=7, seed=3, n_ids=384):
    return torch.randint(0, n_ids, (n, 6), generator=torch.Generator().manual_seed(seed))


def whole_rows(lm, template_idx, row, weights=None):
    """The whole input, piece by piece: as ids, or as embeddings of weighted tokens."""
    inputs = lm._token_input_manager
    parts = row.split(LENGTHS) if inputs.n_parts else [row]
    pieces = [inputs._fixed_ids[template_idx][0]]
    for part, after in zip(
        inputs._slot_parts[template_idx], inputs._fixed_ids[template_idx][1:], strict=True
    ):
        pieces += [parts[part], after]
    return pieces


def naive_loss(lm, template_idx, row):
    target = lm._token_input_manager.targets.select_message(template_idx).target_response_toks
    ids = torch.cat([*whole_rows(lm, template_idx, row), target])
    with torch.no_grad():
        logprobs = lm._model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
    at = range(len(ids) - len(target) - 1, len(ids) - 1)
    return -sum(logprobs[i, t] for i, t in zip(at, target, strict=True)) / len(target)


@pytest.mark.parametrize("templates", [TWICE, PARTS], ids=["twice", "parts"])
def test_losses_are_those_of_one_candidate_at_a_time(lm, made, templates):
    ready(lm, templates)
    rows = rows_of()
    rows[3:5, 1:] = rows[2, 1:]  # candidates that begin or end alike
    rows[5:, :5] = rows[0, :5]
    losses = lm.compute_loss_from_tokens(rows, made.PrefillCE(), keep_message_dim=True)
    expected = [[naive_loss(lm, i, row) for row in rows] for i in range(len(templates))]
    torch.testing.assert_close(losses, torch.tensor(expected), atol=1e-5, rtol=0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    again = lm.compute_loss_from_tokens(rows[order], made.PrefillCE(), keep_message_dim=True)
    torch.testing.assert_close(again, losses[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("templates", [TWICE, PARTS], ids=["twice", "parts"])
def test_prefix_cache_changes_nothing_and_ends_at_the_first_slot(made, templates):
    cached, plain = (
        ready(LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer(), use_prefix_cache=on), templates)
        for on in (True, False)
    )
    losses = [m.compute_loss_from_tokens(rows_of(), made.PrefillCE()) for m in (cached, plain)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    n_before = [len(fixed[0]) for fixed in cached._token_input_manager._fixed_ids]
    assert [report.n_tokens for report in cached.prefix_cache_report] == n_before
    assert all(report.is_shared for report in cached.prefix_cache_report)


@pytest.mark.parametrize("templates", [TWICE, PARTS], ids=["twice", "parts"])
def test_gradients_are_those_of_autograd_through_one_hot_tokens(lm, made, templates):
    ready(lm, templates)
    row, loss = rows_of(1)[0], made.PrefillCE()
    found = lm.compute_grad_from_tokens(loss, row[None], keep_message_dim=True)[:, 0]
    by_embeds = lm.compute_grad_from_embeds(loss, lm._embed(row[None]), keep_message_dim=True)[:, 0]
    table = lm.embedding_matrix
    for i in range(len(templates)):
        one_hot = torch.nn.functional.one_hot(row, len(table)).to(table).requires_grad_()
        embeds = one_hot @ table
        target = lm._token_input_manager.targets.select_message(i).target_response_toks
        parts = whole_rows(lm, i, embeds)
        whole = torch.cat([p if p.ndim == 2 else table[p] for p in [*parts, target]])
        logits = lm._model(inputs_embeds=whole[None]).logits[0, -len(target) - 1 : -1]
        wanted = torch.nn.functional.cross_entropy(logits, target)
        grad, at_embeds = torch.autograd.grad(wanted, [one_hot, embeds])
        torch.testing.assert_close(found[i], grad, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(by_embeds[i], at_embeds, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("templates", [TWICE, PARTS], ids=["twice", "parts"])
def test_tokens_and_text_agree_where_the_mask_is_true(any_tokenizer, made, templates):
    size = len(any_tokenizer)
    lm = ready(LMHFModel(tiny_llama(vocab_size=size), tokenizer=any_tokenizer), templates)
    rows = rows_of(400, n_ids=size)
    accepted = lm.retokenization_mask(rows)
    assert accepted.sum() >= 3
    texts = lm.decode_triggers(rows)
    gaps = torch.tensor([lm.tokenization_gap(row) for row in rows[:60]])
    assert torch.equal(gaps == 0, accepted[:60])
    for row, text, is_accepted in zip(rows, texts, accepted, strict=True):
        for i, template in enumerate(templates):
            ids = lm._encode_prompts([fill_template(template, text)])[0]
            same = ids == torch.cat(whole_rows(lm, i, row)).tolist()
            assert same or not is_accepted
    kept = rows[accepted][:5]
    for row in kept:
        assert lm.encode_trigger(lm.decode_triggers(row[None])[0]).tolist() == row.tolist()
    targets = Targets(target_response_strs=["Yes", "No no", "so"][: len(templates)])
    lm.set_inputs_from_tokens(templates, targets)
    lm.set_inputs_from_texts(templates, targets)
    if templates is PARTS:
        lm.arrange_parts(LENGTHS)
    torch.testing.assert_close(
        lm.compute_loss_from_texts(lm.decode_triggers(kept), made.PrefillCE()),
        lm.compute_loss_from_tokens(kept, made.PrefillCE()),
        atol=1e-5,
        rtol=0,
    )


def test_slots_may_stand_in_several_messages(made):
    lm = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    lm.set_inputs_from_tokens([TALK], Targets(target_response_strs=["Yes"]))
    ids = lm.encode_trigger("old sea the")
    assert lm.retokenization_mask(ids[None]).item()
    filled = fill_template(TALK, "old sea the")
    by_text = lm.invoke_from_texts([filled]).full_ids[0].tolist()
    inputs = lm._token_input_manager.get_triggered_inputs(0, ids[None])
    assert inputs.input_ids[0].tolist() == by_text
    first, second = inputs.input_trigger_slots
    assert inputs.input_ids[0, first.positions].tolist() == ids.tolist()
    assert inputs.input_ids[0, second.positions].tolist() == ids.tolist()
    assert inputs.input_slices["trigger"] == first.positions
    assert inputs.input_slices["input_after"].start == second.positions.stop


def test_logits_of_the_trigger_are_those_before_its_first_places(lm):
    ready(lm, PARTS[:1] + PARTS[2:])
    lm.arrange_parts(LENGTHS)
    rows = rows_of(3)
    found = lm.compute_logits_from_tokens(rows, True, return_trigger_logits_only=True)
    for i in range(2):
        filled = lm._token_input_manager.get_triggered_inputs(i, rows)
        with torch.no_grad():
            logits = lm._model(input_ids=filled.input_ids).logits
        second, first, *_ = filled.input_trigger_slots  # part 2 stands before part 1
        for slot in (second, first):
            at = slot.positions
            torch.testing.assert_close(
                found[i][:, slot.columns], logits[:, at.start - 1 : at.stop - 1], atol=1e-4, rtol=0
            )
    with pytest.raises(ArgumentError, match="a trigger of several parts is not one token"):
        lm.compute_logits_from_tokens(rows, return_after_trigger_logits_only=True)
    ready(lm, PARTS)
    with pytest.raises(ArgumentError, match="a part that has no place in this template"):
        lm.compute_logits_from_tokens(rows, return_trigger_logits_only=True)


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_readers_read_every_place(kind):
    tokenizer = tiny_wordpiece_tokenizer()
    if kind == "encoder":
        model, field = EncoderHFModel(tiny_bert(), tokenizer=tokenizer), "output_embeddings"
    else:
        from transformers import BertForSequenceClassification

        bert = BertForSequenceClassification(tiny_bert().config).eval()
        model, field = ClassifierHFModel(bert, tokenizer=tokenizer), "output_class_logits"
    template = f"the {P1} house {P2} in the {P1} town"
    model.set_inputs_from_tokens([template])
    trigger = SEP.join(["red", "yes no"])
    ids = model.encode_trigger(trigger)
    model.arrange_parts([len(part) for part in model.encode_trigger_parts(trigger)])
    assert model.retokenization_mask(ids[None]).item()
    assert model.decode_triggers(ids[None]) == [trigger]
    filled = model._token_input_manager.get_triggered_inputs(0, ids[None])
    by_text = model.invoke_from_texts(["the red house yes no in the red town"])
    by_ids = model.invoke_from_tokens(filled.input_ids)
    torch.testing.assert_close(getattr(by_ids, field), getattr(by_text, field))


def test_parts_must_be_arranged_and_fit():
    lm = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    lm.set_inputs_from_tokens(PARTS)
    rows = rows_of(2)
    with pytest.raises(ArgumentError, match=r"has 2 parts.*Call arrange_parts"):
        lm.decode_triggers(rows)
    with pytest.raises(ArgumentError, match=r"at least one token, got the lengths \[6\]"):
        lm.arrange_parts([6])
    lm.arrange_parts([3, 4])
    with pytest.raises(ArgumentError, match="7 in all, got a trigger of 6"):
        lm.retokenization_mask(rows)
    with pytest.raises(ArgumentError, match="has 1 parts, the templates number 2"):
        lm.encode_trigger("one part")
    lm.set_inputs_from_tokens(TWICE)
    with pytest.raises(ArgumentError, match="do not number the placeholder"):
        lm.arrange_parts([3, 3])


def test_every_place_counts_for_the_models_context():
    lm = LMHFModel(tiny_llama(max_position_embeddings=40), tokenizer=tiny_tokenizer())
    lm.set_inputs_from_tokens([f"a\n{P}\nb\n{P}\nc"])
    lm.check_trigger_length(2)
    with pytest.raises(TemplateError, match=r"template 0 .* positions, the model has 40"):
        lm.check_trigger_length(20)
    with pytest.raises(TemplateError, match="positions, the model has 40"):
        lm._token_input_manager.get_triggered_inputs(0, torch.zeros(1, 20, dtype=torch.int64))


def test_places_after_other_kinds_of_space_are_refused_unless_that_is_allowed(made):
    tokenizer = made.merging_bpe_tokenizer()
    template = f"Tell me {P} now\n{P}"

    def make(level):
        model = tiny_llama(vocab_size=len(tokenizer))
        return LMHFModel(model, tokenizer=tokenizer, consistency=level)

    with pytest.raises(TemplateError, match="template 0: a trigger has other tokens after"):
        make("full").set_inputs_from_tokens([template])
    lm = make("trigger")
    lm.set_inputs_from_tokens([template])
    assert len(lm._token_input_manager.disagreements) == 1


def test_a_template_given_as_ids_may_hold_several_placeholders():
    tokenizer = tiny_tokenizer()
    texts = [f"Tell me {P} and {P}.", f"a{P2}b{P1}c{P2}"]
    embed = torch.nn.Embedding(384, 8)
    for text, parts in zip(texts, ([], [1, 2]), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        manager = HuggingFaceTokenInputManager(tokenizer, "cpu", [ids], embed)
        if parts:
            manager.arrange_parts(parts)
        row = torch.tensor([[65, 66, 67]])
        filled = manager.get_triggered_inputs(0, row)
        expected = []
        pieces = [[65, 66, 67]] * 2 if not parts else [[66, 67], [65], [66, 67]]
        around = text.replace(P1, P).replace(P2, P).split(P)
        for before, piece in zip(around, [*pieces, []], strict=True):
            expected += [*tokenizer.encode(before, add_special_tokens=False), *piece]
        assert filled.input_ids[0].tolist() == expected
        torch.testing.assert_close(filled.input_embeds, embed(filled.input_ids))

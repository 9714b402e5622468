"""The tiny models with triggers in several places: the plain text is the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, Targets, fill_template, join_parts
from pellucid.testing import TinyEncoder, TinyLM, TinyResponseLoss, TinyVectorLoss

P, P1, P2 = (f"{{{{OPTIMIZED_TRIGGER{number}}}}}" for number in ("", "_1", "_2"))
TWICE = [f"Say {P} or {P} now.", f"{P} I"]
PARTS = [f"Q{P2}: {P1}? {P2}.", f"{P1}!", f"({P2})"]
LENGTHS = (2, 3)
rows = st.lists(st.integers(3, 127), min_size=5, max_size=5)


def prepare(build, templates):
    if build is TinyLM:
        model = TinyLM(dtype=torch.float64)
        targets = Targets(target_response_strs=["yes you", "no", "I"][: len(templates)])
        loss = TinyResponseLoss()
    else:
        model, loss = TinyEncoder(dtype=torch.float64), TinyVectorLoss()
        vectors = torch.randn(len(templates), 16, generator=torch.Generator().manual_seed(0))
        targets = Targets(target_vectors=vectors.double())
    model.set_inputs_from_tokens(templates, targets)
    model.set_inputs_from_texts(templates, targets)
    if templates is PARTS:
        model.arrange_parts(LENGTHS)
    return model, loss


both = pytest.mark.parametrize("build", [TinyLM, TinyEncoder])
layouts = pytest.mark.parametrize("templates", [TWICE, PARTS], ids=["twice", "parts"])


@both
@layouts
@settings(max_examples=25)
@given(row=rows)
def test_ids_are_spliced_in_as_pieces_of_text_are_joined(build, templates, row):
    model, _ = prepare(build, templates)
    ids = torch.tensor([row])
    tokenizer, inputs = model.tokenizer, model._token_input_manager
    pieces = [row[:2], row[2:]] if templates is PARTS else [row]
    for i, template in enumerate(templates):
        expected = list(model._prefix_ids)
        rest = template
        while "{{" in rest:
            before, rest = rest.split("{{", 1)
            name, rest = rest.split("}}", 1)
            part = int(name[-1]) - 1 if templates is PARTS else 0
            expected += [*tokenizer.encode(before), *pieces[part]]
        expected += tokenizer.encode(rest)
        assert inputs.get_triggered_inputs(i, ids).input_ids[0].tolist() == expected


@both
@layouts
@settings(max_examples=25)
@given(row=rows)
def test_both_flows_agree_where_the_trigger_survives_in_every_place(build, templates, row):
    model, loss = prepare(build, templates)
    ids = torch.tensor([row])
    text = model.decode_triggers(ids)
    if not model.retokenization_mask(ids).item():
        return
    by_tokens = model.compute_loss_from_tokens(ids, loss, True)
    by_texts = model.compute_loss_from_texts(text, loss, True)
    torch.testing.assert_close(by_tokens, by_texts)
    assert model.encode_trigger(text[0]).tolist() == row


@both
@layouts
def test_some_triggers_survive_and_some_do_not(build, templates):
    model, _ = prepare(build, templates)
    ids = torch.randint(3, 128, (200, 5), generator=torch.Generator().manual_seed(0))
    survives = model.retokenization_mask(ids)
    assert 0 < survives.sum() < len(ids)
    for row, text, stays in zip(ids, model.decode_triggers(ids), survives, strict=True):
        same = all(
            [*model._prefix_ids, *model.tokenizer.encode(fill_template(template, text))]
            == model._token_input_manager.get_triggered_inputs(i, row[None]).input_ids[0].tolist()
            for i, template in enumerate(templates)
        )
        assert same == stays


@both
@layouts
def test_gradients_sum_over_all_places(build, templates):
    model, loss = prepare(build, templates)
    ids = torch.randint(3, 128, (2, 5), generator=torch.Generator().manual_seed(1))
    grad = model.compute_grad_from_tokens(loss, ids)
    at_embeds = model.compute_grad_from_embeds(loss, model.embedding_matrix[ids])
    torch.testing.assert_close(at_embeds @ model.embedding_matrix.T, grad)
    # Against central differences of relaxed tokens, one direction at a time.
    one_hot = torch.nn.functional.one_hot(ids, model.vocab_size).double()
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        direction = torch.randn(one_hot.shape, generator=generator, dtype=torch.float64)
        ends = [
            model.compute_grad_from_tokens(
                loss, candidate_trigger_probs=one_hot + sign * 1e-6 * direction, return_loss=True
            )[1].sum()
            for sign in (1, -1)
        ]
        torch.testing.assert_close(
            (ends[0] - ends[1]) / 2e-6, (grad * direction).sum(), rtol=1e-4, atol=1e-6
        )


def test_a_repeated_trigger_is_the_same_as_spelling_it_out():
    model, loss = prepare(TinyLM, TWICE)
    trigger = "XYZ"
    whole = model.compute_loss_from_texts([trigger], loss, True)[0, 0]
    model.set_inputs_from_texts(
        [f"Say {trigger} or {P} now."], Targets(target_response_strs=["yes you"])
    )
    torch.testing.assert_close(model.compute_loss_from_texts([trigger], loss)[0], whole)


def test_logits_of_the_trigger_are_those_before_its_first_place():
    model, _ = prepare(TinyLM, TWICE[:1])
    ids = torch.tensor([[10, 20, 30]])
    found = model.compute_logits_from_tokens(ids, return_trigger_logits_only=True)
    after = model.compute_logits_from_tokens(ids, return_after_trigger_logits_only=True)
    filled = model._token_input_manager.get_triggered_inputs(0, ids)
    logits = model.invoke_from_tokens(filled.input_ids).full_logits
    start = filled.input_trigger_slots[0].positions.start
    torch.testing.assert_close(found, logits[:, start - 1 : start + 2])
    torch.testing.assert_close(after, logits[:, start + 2 : start + 3])
    parts, _ = prepare(TinyLM, PARTS)
    with pytest.raises(ArgumentError, match="several parts"):
        parts.compute_logits_from_tokens(
            torch.tensor([[10] * 5]), return_after_trigger_logits_only=True
        )


def test_parts_of_other_lengths_are_refused():
    model, loss = prepare(TinyLM, PARTS)
    with pytest.raises(ArgumentError, match="5 in all, got a trigger of 4"):
        model.compute_loss_from_tokens(torch.tensor([[10] * 4]), loss)
    assert [len(ids) for ids in model.encode_trigger_parts(join_parts(["ab", "xyz"]))] == [2, 3]

"""What the suites do not say of the tiny models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, NotDifferentiableError, SliceKey, Targets
from pellucid.testing import TinyEncoder, TinyLM, TinyResponseLoss, TinyVectorLoss
from pellucid.testing._tiny_losses import TinyFirstTokenLoss, TinyTextLoss
from pellucid.testing._tiny_weights import EncoderWeights, LMWeights

TEMPLATES = ["Say {{OPTIMIZED_TRIGGER}} now.", "{{OPTIMIZED_TRIGGER}}"]
TARGETS = Targets(target_response_strs=["yes you", "no"])


def ready(model):
    model.set_inputs_from_tokens(TEMPLATES, TARGETS)
    model.set_inputs_from_texts(TEMPLATES, TARGETS)
    return model


def test_one_seed_is_one_model():
    one, same, other = TinyLM(seed=3), TinyLM(seed=3), TinyLM(seed=4)
    assert torch.equal(one.embedding_matrix, same.embedding_matrix)
    assert not torch.equal(one.embedding_matrix, other.embedding_matrix)
    assert one(["hello"]) == same(["hello"])
    wide = TinyLM(seed=3, dtype=torch.float64)
    assert torch.equal(wide.embedding_matrix.float(), one.embedding_matrix)


@pytest.mark.parametrize("build", [TinyLM, TinyEncoder])
def test_building_leaves_the_global_generator_alone(build):
    before = torch.random.get_rng_state()
    build(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("weights", [LMWeights, EncoderWeights])
def test_no_weight_is_constant(weights):
    settings = (30, 8, 0) if weights is LMWeights else (30, 8)
    model = weights(*settings, torch.Generator().manual_seed(0))
    for name, weight in model.named_parameters():
        assert weight.std() > 0.05, name
        assert not weight.requires_grad


def test_logits_differ_clearly_between_tokens():
    ids = torch.randint(128, (8, 12), generator=torch.Generator().manual_seed(0))
    logits = TinyLM().invoke_from_tokens(ids).full_logits
    assert logits.std(dim=-1).min() > 1


def test_padded_rows_are_known_and_never_predicted():
    model = TinyLM(padded_rows=5)
    assert model.vocab_size == 133
    ids = torch.full((1, 4), 130)
    assert model.invoke_from_tokens(ids).full_logits[..., 128:].max() < -10
    ready(model)
    assert not model.retokenization_mask(ids).any()
    assert model.compute_loss_from_tokens(ids, TinyResponseLoss()).isfinite().all()


@settings(max_examples=25)
@given(st.lists(st.integers(0, 127), min_size=1, max_size=6), st.integers(0, 5))
def test_both_flows_are_one_model(row, seed):
    model = ready(TinyLM(seed=seed, dtype=torch.float64))
    ids = torch.tensor([row])
    by_token = model.compute_loss_from_tokens(ids, TinyResponseLoss(), True)
    by_text = model.compute_loss_from_texts(model.decode_triggers(ids), TinyResponseLoss(), True)
    assert torch.allclose(by_token, by_text) or not model.retokenization_mask(ids).all()


@pytest.mark.parametrize("loss", [TinyTextLoss(), TinyFirstTokenLoss(), TinyResponseLoss()])
def test_flows_agree_on_every_field(loss):
    model = ready(TinyLM(dtype=torch.float64))
    texts = ["!", "xyz", "Quite 7 of it"]  # none of them merges with a template's space
    rows = [model.compute_loss_from_tokens(model.encode_trigger(t)[None], loss) for t in texts]
    assert torch.allclose(
        torch.cat(rows).double(), model.compute_loss_from_texts(texts, loss).double()
    )


def test_generation_is_the_naive_loop():
    model = TinyLM(seed=1, max_new_tokens=5)
    output = model(["hello you"], return_full_output=True)
    ids = [1, *model.tokenizer.encode("hello you")]
    for token, logits in zip(
        output.generated_response_ids[0], output.generated_response_logits[0], strict=True
    ):
        wanted = model.invoke_from_tokens(torch.tensor([ids])).full_logits[0, -1]
        assert torch.allclose(logits, wanted, atol=1e-5)
        assert int(token) == int(wanted.argmax())
        ids.append(int(token))
    text = model.tokenizer.decode_trigger(output.generated_response_ids[0])
    assert output.generated_response_strs == [text]


def test_a_response_ends_with_the_end_token():
    model = TinyLM(max_new_tokens=4)
    model._model.head_bias.data[2] = 100
    output = model(["hi", "the cat"], return_full_output=True)
    assert [row.tolist() for row in output.generated_response_ids] == [[2], [2]]
    assert output.generated_response_strs == ["", ""]


def test_the_response_ignores_the_prefilled_target():
    model = TinyLM()
    targets = TARGETS.select_message(0)
    plain = model.invoke_from_texts(["hello"], require_generation=True)
    filled = model.invoke_from_texts(["hello"], targets, True, True)
    assert plain.generated_response_strs == filled.generated_response_strs


def test_first_tokens_are_named_with_their_log_probabilities():
    output = TinyLM().invoke_from_texts(["hello"], require_first_token_logprobs=True)
    (row,) = output.response_first_token_logprobs
    assert len(row) == 20
    assert list(row.values()) == sorted(row.values(), reverse=True)
    assert all(value <= 0 for value in row.values())


def test_attention_is_causal_and_sums_to_one():
    loss = TinyResponseLoss()
    loss.require_attentions = loss.require_hidden_states = True
    model, ids = TinyLM(), torch.arange(10, 18)[None]
    output = model.invoke_from_tokens(ids, require_attentions=True, require_hidden_states=True)
    pattern = output.full_attentions[0, 0, 0]
    assert torch.allclose(pattern.sum(dim=-1), torch.ones(8))
    assert torch.equal(pattern, pattern.tril())
    assert output.full_hidden_states.shape == (1, 1, 8, 16)


def test_parts_of_the_input_lie_where_they_are_said_to():
    model = ready(TinyLM())
    ids = model.encode_trigger("red cat")[None]
    manager = model._token_input_manager
    given = manager.get_triggered_inputs(0, ids, append_target=True)
    text = {
        key: model.tokenizer.decode(given.input_ids[0, part].tolist())
        for key, part in given.input_slices.items()
    }
    assert text == {
        SliceKey.INPUT_BEFORE: "<bos>Say ",
        SliceKey.TRIGGER: "red cat",
        SliceKey.INPUT_AFTER: " now.",
        SliceKey.INPUT_LAST_TOKEN: ".",
        SliceKey.APPENDED: "yes you",
    }
    assert given.message_targets.target_response_strs == "yes you"
    with pytest.raises(ArgumentError, match="wide"):
        manager.get_triggered_inputs(0, ids, wide=True)


def test_targets_given_as_tokens_are_kept():
    model = TinyLM()
    own = Targets(target_response_strs=["no"], target_response_toks=[torch.tensor([5, 6])])
    model.set_inputs_from_tokens(TEMPLATES[:1], own)
    ids = model.encode_trigger("red")[None]
    given = model._token_input_manager.get_triggered_inputs(0, ids, append_target=True)
    assert given.input_ids[0, given.input_slices[SliceKey.APPENDED]].tolist() == [5, 6]


def test_whole_logits_need_templates_of_one_length():
    model = TinyLM()
    ids = torch.arange(10, 14)[None]
    model.set_inputs_from_tokens(["a {{OPTIMIZED_TRIGGER}} b", "c {{OPTIMIZED_TRIGGER}} d"])
    assert model.compute_logits_from_tokens(ids, keep_message_dim=True).shape == (2, 1, 9, 128)
    model.set_inputs_from_tokens(TEMPLATES)
    with pytest.raises(ArgumentError, match="templates differ in length"):
        model.compute_logits_from_tokens(ids)


def test_a_missing_target_is_an_error():
    model = TinyLM()
    model.set_inputs_from_tokens(TEMPLATES)
    with pytest.raises(ArgumentError, match="target_response_strs"):
        model.compute_loss_from_tokens(torch.arange(4)[None], TinyResponseLoss())
    with pytest.raises(ArgumentError, match="target_response_strs"):
        model.invoke_from_texts(["hi"], require_target_prefill=True)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda m, ids: m.compute_grad_from_tokens(TinyTextLoss(), ids), NotDifferentiableError),
        (lambda m, ids: m.compute_grad_from_tokens(TinyResponseLoss()), ArgumentError),
        (
            lambda m, ids: m.compute_grad_from_tokens(TinyResponseLoss(), ids, temperature=2),
            TypeError,
        ),
        (lambda m, ids: m.compute_loss_from_tokens(ids[:0], TinyResponseLoss()), ArgumentError),
        (lambda m, ids: m.invoke_from_tokens(), ArgumentError),
        (lambda m, ids: m.invoke_from_tokens(ids, require_target_prefill=True), ArgumentError),
    ],
)
def test_bad_input_is_refused(use, error):
    with pytest.raises(error):
        use(ready(TinyLM()), torch.arange(4)[None])


def test_normalized_gradients_have_length_one():
    model, ids = ready(TinyLM()), torch.arange(10, 16).reshape(2, 3)
    grads = model.compute_grad_from_tokens(TinyResponseLoss(), ids, normalize_grads=True)
    assert torch.allclose(grads.norm(dim=-1), torch.ones(2, 3))
    rows, losses = model.compute_grad_from_tokens(
        TinyResponseLoss(), ids, keep_message_dim=True, return_loss=True
    )
    assert rows.shape == (2, 2, 3, 128)
    assert losses.shape == (2, 2)


def test_the_empty_text_has_a_vector():
    vectors = TinyEncoder()(["", "red", ""])
    assert vectors.isfinite().all()
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_order_matters_to_the_encoder():
    vectors = TinyEncoder()(["red cat", "cat red"])
    assert not torch.allclose(vectors[0], vectors[1])


def test_a_few_gradient_steps_lower_the_loss():
    model = ready(TinyLM())
    ids = model.encode_trigger("! ! ! !")
    loss = TinyResponseLoss()
    before = best = float(model.compute_loss_from_tokens(ids[None], loss)[0])
    for place in range(2 * len(ids)):
        found = model.compute_topk_from_tokens(loss, ids[None], 16).token_ids[0, place % len(ids)]
        rows = ids.repeat(16, 1)
        rows[:, place % len(ids)] = found
        losses = model.compute_loss_from_tokens(rows, loss)
        if losses.min() < best:
            ids, best = rows[losses.argmin()], float(losses.min())
    assert best < before - 0.5


def test_vector_loss_without_a_target_has_one_of_its_own():
    model = TinyEncoder()
    model.set_inputs_from_texts(["{{OPTIMIZED_TRIGGER}}"])
    losses = model.compute_loss_from_texts(["red", "cat"], TinyVectorLoss())
    assert losses.abs().max() <= 1
    assert losses[0] != losses[1]

"""Encoders: pooling, both flows, gradients, on several architectures."""

import pytest
import torch
from torch.nn.functional import normalize, one_hot
from transformers import (
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import BaseLoss, Targets, select_topk
from pellucid.hf import EncoderHFModel
from pellucid.testing import EncoderContract, tiny_bert, tiny_wordpiece_tokenizer

TEXTS = ["The cat sees a dog.", "Music", "Anna likes the red house near the sea every day."]
TEMPLATES = [f"The cat {P} sees", f"{P} near the sea"]


class TowardsVector(BaseLoss):
    """Cosine distance to a target vector."""

    def __call__(self, output_embeddings, target_vectors):
        return 1 - normalize(output_embeddings, dim=-1) @ normalize(target_vectors, dim=-1)


def build(model_class, config_class, **config):
    tokenizer = tiny_wordpiece_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class(**sizes))
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    return model.eval()


MODELS = {
    "bert": tiny_bert,
    "roberta": lambda: build(RobertaModel, RobertaConfig),
    "modernbert": lambda: build(ModernBertModel, ModernBertConfig),
    "t5": lambda: build(T5EncoderModel, T5Config, d_model=32, d_kv=8, d_ff=64, num_heads=4),
    "llama": lambda: build(LlamaModel, LlamaConfig),
}


def naive_vector(model, ids, pooling="mean"):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling]


class TestBert(EncoderContract):
    def make_model(self):
        return EncoderHFModel(tiny_bert(), tokenizer=tiny_wordpiece_tokenizer())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_one_text_at_a_time(name, pooling):
    model, tokenizer = MODELS[name](), tiny_wordpiece_tokenizer()
    encoder = EncoderHFModel(model, tokenizer=tokenizer, pooling=pooling)
    vectors = encoder(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        expected = naive_vector(model, tokenizer(text)["input_ids"], pooling)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)
    unit = EncoderHFModel(model, tokenizer=tokenizer, pooling=pooling, normalize=True)(TEXTS)
    torch.testing.assert_close(unit, normalize(vectors, dim=-1), atol=1e-5, rtol=1e-5)
    assert vectors.shape == (3, encoder.d_model)


@pytest.mark.parametrize("name", MODELS)
def test_both_flows_and_both_gradients_agree(name):
    model = MODELS[name]()
    encoder = EncoderHFModel(model, tokenizer=tiny_wordpiece_tokenizer())
    vectors = torch.randn((2, 32), generator=torch.Generator().manual_seed(0))
    targets = Targets(target_vectors=vectors)
    encoder.set_inputs_from_tokens(TEMPLATES, targets)
    rows = torch.randint(
        5, encoder.vocab_size, (200, 3), generator=torch.Generator().manual_seed(1)
    )
    rows = rows[encoder.retokenization_mask(rows)][:6]
    assert len(rows) == 6
    loss = TowardsVector()
    by_tokens = encoder.compute_loss_from_tokens(rows, loss, keep_message_dim=True)
    grads = encoder.compute_grad_from_tokens(loss, rows)
    at_embeds = encoder.compute_grad_from_embeds(loss, encoder.effective_embedding_matrix[rows])
    torch.testing.assert_close(
        grads, at_embeds @ encoder.effective_embedding_matrix.mT, rtol=1e-4, atol=1e-6
    )
    found = encoder.compute_topk_from_tokens(loss, rows, 4)
    torch.testing.assert_close(found.scores, select_topk(grads, 4).scores, rtol=1e-4, atol=1e-6)
    encoder.set_inputs_from_texts(TEMPLATES, targets)
    by_texts = encoder.compute_loss_from_texts(
        encoder.decode_triggers(rows), loss, keep_message_dim=True
    )
    torch.testing.assert_close(by_texts, by_tokens, atol=1e-5, rtol=0)


@pytest.fixture(params=MODELS)
def ready(request):
    """An encoder of each architecture in turn, with one template, candidates and the target."""
    encoder = EncoderHFModel(MODELS[request.param](), tokenizer=tiny_wordpiece_tokenizer())
    target = torch.randn((1, 32), generator=torch.Generator().manual_seed(0))
    encoder.set_inputs_from_tokens(TEMPLATES[:1], Targets(target_vectors=target))
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(5, encoder.vocab_size, (5, 3), generator=generator)
    return encoder, rows, target[0]


def test_losses_equal_those_of_one_candidate_at_a_time(ready):
    encoder, rows, target = ready
    tokenizer = tiny_wordpiece_tokenizer()
    losses = encoder.compute_loss_from_tokens(rows, TowardsVector())
    before = tokenizer("The cat", add_special_tokens=False)["input_ids"]
    after = tokenizer("sees", add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for row, loss in zip(rows.tolist(), losses, strict=True):
        vector = naive_vector(encoder._model, [cls, *before, *row, *after, sep])
        expected = 1 - torch.cosine_similarity(vector, target, dim=0)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_order_company_and_chunks_change_nothing(ready):
    encoder, rows, _ = ready
    whole = encoder.compute_loss_from_tokens(rows, TowardsVector())
    others = [encoder.compute_loss_from_tokens(rows.flip(0), TowardsVector()).flip(0)]
    others.append(
        torch.cat([encoder.compute_loss_from_tokens(row[None], TowardsVector()) for row in rows])
    )
    for size in (1, 2):
        encoder._forward_pass_batch_size = size
        others.append(encoder.compute_loss_from_tokens(rows, TowardsVector()))
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)


def test_gradients_are_those_of_one_hot_tokens_and_finite_differences(ready):
    encoder, rows, target = ready
    loss, table = TowardsVector(), encoder.effective_embedding_matrix
    weights = one_hot(rows, encoder.vocab_size).float().requires_grad_()
    inputs = encoder._token_input_manager.get_triggered_inputs(
        0, rows, trigger_embeds=weights @ table
    )
    states = encoder._model(inputs_embeds=inputs.input_embeds).last_hidden_state
    (expected,) = torch.autograd.grad(loss(states.mean(dim=1), target).sum(), weights)
    found = encoder.compute_grad_from_tokens(loss, rows)
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)
    embeds = table[rows[:1]]
    grad = encoder.compute_grad_from_embeds(loss, embeds)
    step = 1e-3 * embeds.norm() * grad / grad.norm()
    up, down = (
        encoder.compute_grad_from_embeds(loss, embeds + sign * step, return_loss=True)[1]
        for sign in (1, -1)
    )
    slope = (up - down).item() / (2 * step.norm().item())
    assert slope == pytest.approx(grad.norm().item(), rel=1e-2)


def test_roberta_counts_positions_from_the_one_after_padding():
    encoder = EncoderHFModel(MODELS["roberta"](), tokenizer=tiny_wordpiece_tokenizer())
    limit = 128 - tiny_wordpiece_tokenizer().pad_token_id - 1
    text = "cat " * (limit - 2)
    assert encoder([text]).shape == (1, 32)
    with pytest.raises(ValueError, match=f"the model has {limit}"):
        encoder([text + "cat"])


def test_bad_input():
    tokenizer = tiny_wordpiece_tokenizer()
    with pytest.raises(ValueError, match="pooling must be mean, cls or last, got 'max'"):
        EncoderHFModel(tiny_bert(), tokenizer=tokenizer, pooling="max")
    with pytest.raises(TypeError, match=r"is an encoder and a decoder.*T5EncoderModel"):
        EncoderHFModel(
            build(T5Model, T5Config, d_model=32, d_kv=8, d_ff=64, num_heads=4), tokenizer=tokenizer
        )
    encoder = EncoderHFModel(tiny_bert(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"list of texts, got .cat."):
        encoder.invoke_from_texts("cat")
    with pytest.raises(ValueError, match="predicts no tokens"):
        encoder.invoke_from_tokens(torch.tensor([[1]]), require_generation=True)
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        encoder.invoke_from_tokens()

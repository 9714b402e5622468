"""The text side of CLIP: both flows, gradients, projections, against transformers' own forward."""

import functools

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch.nn.functional import normalize, one_hot
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import BaseLoss, Targets, names
from pellucid.hf import CLIPTextEncoderHFModel
from pellucid.testing import EncoderContract, tiny_bert, tiny_tokenizer, tiny_wordpiece_tokenizer

TEXTS = ["a photo of a cat", "Music", "the red house near the sea, every day"]
TEMPLATES = [f"a photo of {P} near", f"{P} the sea"]
CORPUS = ["a photo of a cat near the red house", "the sea, every day; music one two three"] * 50


class TowardsVector(BaseLoss):
    """Cosine distance to a target vector."""

    def __call__(self, output_embeddings, target_vectors):
        return 1 - normalize(output_embeddings, dim=-1) @ normalize(target_vectors, dim=-1)


@functools.cache
def train_backend():
    """Train once: among merges that are equally frequent, the trainer picks any."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<end>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<start>", "<end>"],
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(i) for i in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return tokenizer.to_str()


def clip_tokenizer():
    """Lower case, words that end in </w>, one token before a text and one after it, as in CLIP."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(train_backend()),
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<end>",
    )


def build(model_class=CLIPTextModelWithProjection):
    tokenizer = clip_tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 20,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=40,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=8, patch_size=4, **sizes)
    config = {CLIPModel: None, CLIPVisionModel: vision}.get(model_class, text)
    if config is None:
        config = CLIPConfig(
            text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    return model.eval()


def own_vectors(model, texts, *, projected=True):
    """What transformers returns, one text at a time."""
    tokenizer, rows = clip_tokenizer(), []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            if not projected:
                text_model = model if isinstance(model, CLIPTextModel) else model.text_model
                rows.append(text_model(input_ids=ids).pooler_output[0])
            elif isinstance(model, CLIPModel):
                rows.append(model.get_text_features(input_ids=ids).pooler_output[0])
            else:
                rows.append(model(input_ids=ids).text_embeds[0])
    return torch.stack(rows)


class TestCLIP(EncoderContract):
    def make_model(self):
        return CLIPTextEncoderHFModel(build(), tokenizer=clip_tokenizer())


class TestState(EncoderContract):
    """The suite on the state itself, in the text side of a whole CLIP."""

    def make_model(self):
        return CLIPTextEncoderHFModel(
            build(CLIPModel), tokenizer=clip_tokenizer(), without_final_projection=True
        )


@pytest.mark.parametrize("model_class", [CLIPModel, CLIPTextModelWithProjection, CLIPTextModel])
def test_vectors_are_those_of_transformers(model_class):
    model = build(model_class)
    bare = CLIPTextEncoderHFModel(model, tokenizer=clip_tokenizer(), without_final_projection=True)
    expected = own_vectors(model, TEXTS, projected=False)
    torch.testing.assert_close(bare(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert bare.d_model == 32
    if model_class is CLIPTextModel:
        return
    encoder = CLIPTextEncoderHFModel(loaded_model=model, tokenizer=clip_tokenizer())
    expected = own_vectors(model, TEXTS)
    torch.testing.assert_close(encoder(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert encoder.d_model == 20
    unit = CLIPTextEncoderHFModel(model, tokenizer=clip_tokenizer(), normalize=True)
    torch.testing.assert_close(unit(TEXTS), normalize(expected, dim=-1), atol=1e-5, rtol=1e-5)


@pytest.fixture
def ready():
    """An encoder with two templates, candidates, and their targets."""
    encoder = CLIPTextEncoderHFModel(build(), tokenizer=clip_tokenizer())
    vectors = torch.randn((2, 20), generator=torch.Generator().manual_seed(0))
    encoder.set_inputs_from_tokens(TEMPLATES, Targets(target_vectors=vectors))
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(2, encoder.vocab_size, (900, 3), generator=generator)
    rows = rows[encoder.retokenization_mask(rows)][:5]
    assert len(rows) == 5
    return encoder, rows, vectors


def test_losses_of_both_flows_are_those_of_transformers(ready):
    encoder, rows, vectors = ready
    loss, texts = TowardsVector(), encoder.decode_triggers(rows)
    by_tokens = encoder.compute_loss_from_tokens(rows, loss, keep_message_dim=True)
    for template, target, found in zip(TEMPLATES, vectors, by_tokens, strict=True):
        own = own_vectors(encoder._model, [template.replace(P, text) for text in texts])
        expected = 1 - torch.cosine_similarity(own, target[None], dim=-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    encoder.set_inputs_from_texts(TEMPLATES, Targets(target_vectors=vectors))
    by_texts = encoder.compute_loss_from_texts(texts, loss, keep_message_dim=True)
    torch.testing.assert_close(by_texts, by_tokens, atol=1e-5, rtol=0)


def test_gradients_are_those_of_one_hot_tokens_and_finite_differences(ready):
    encoder, rows, _ = ready
    loss, table = TowardsVector(), encoder.effective_embedding_matrix
    grads = encoder.compute_grad_from_tokens(loss, rows, keep_message_dim=True)
    for i, found in enumerate(grads):
        weights = one_hot(rows, encoder.vocab_size).float().requires_grad_()
        inputs = encoder._token_input_manager.get_triggered_inputs(
            i, rows, trigger_embeds=weights @ table
        )
        output = encoder.invoke_from_tokens(input_embeds=inputs.input_embeds)
        total = loss(output.output_embeddings, inputs.message_targets.target_vectors).sum()
        (expected,) = torch.autograd.grad(total, weights)
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)
    grad = encoder.compute_grad_from_embeds(loss, table[rows[:1]])
    step = 1e-2 * grad / grad.norm()
    up, down = (
        encoder.compute_grad_from_embeds(loss, table[rows[:1]] + sign * step, return_loss=True)[1]
        for sign in (1, -1)
    )
    assert (up - down).item() / 2e-2 == pytest.approx(grad.norm().item(), rel=1e-2)


def test_an_end_token_in_the_trigger_moves_no_pooling_and_is_not_accepted(ready):
    encoder, rows, _ = ready
    with_end = rows[:1].clone()
    with_end[0, 1] = 1
    assert not encoder.retokenization_mask(with_end).any()
    loss = TowardsVector()
    embeds = encoder.effective_embedding_matrix[with_end]
    _, by_embeds = encoder.compute_grad_from_embeds(loss, embeds, return_loss=True)
    torch.testing.assert_close(by_embeds, encoder.compute_loss_from_tokens(with_end, loss))


def test_nothing_stays_hooked(ready):
    encoder, rows, _ = ready
    encoder.compute_grad_from_tokens(TowardsVector(), rows)
    assert not encoder.embedding_layer._forward_hooks


def test_it_loads_the_text_side_of_a_saved_model(tmp_path):
    build(CLIPModel).save_pretrained(tmp_path)
    clip_tokenizer().save_pretrained(tmp_path)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast)
    encoder = CLIPTextEncoderHFModel(str(tmp_path), device="cpu")
    expected = own_vectors(build(CLIPModel), TEXTS)
    torch.testing.assert_close(encoder(TEXTS), expected, atol=1e-5, rtol=1e-5)
    assert not hasattr(encoder._model, "vision_model")
    assert encoder.get_model_name() == str(tmp_path)


def test_it_is_registered():
    assert "hf-clip-text-encoder" in names("pellucid.models")


def test_bad_input():
    tokenizer = clip_tokenizer()
    with pytest.raises(TypeError, match="needs a CLIP model with a text side, got BertModel"):
        CLIPTextEncoderHFModel(tiny_bert(), tokenizer=tiny_wordpiece_tokenizer())
    with pytest.raises(TypeError, match="got CLIPVisionModel"):
        CLIPTextEncoderHFModel(build(CLIPVisionModel), tokenizer=tokenizer)
    with pytest.raises(TypeError, match="CLIPTextModel has no text_projection"):
        CLIPTextEncoderHFModel(build(CLIPTextModel), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="384 ids, the model embeds"):
        CLIPTextEncoderHFModel(build(), tokenizer=tiny_tokenizer())
    without_end = clip_tokenizer()
    without_end.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(TypeError, match=r"puts \[\] after a text"):
        CLIPTextEncoderHFModel(build(), tokenizer=without_end)
    encoder = CLIPTextEncoderHFModel(build(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="the model has 40"):
        encoder(["cat " * 60])
    with pytest.raises(ValueError, match="the model has 40"):
        encoder.set_inputs_from_tokens(["cat " * 60 + P])

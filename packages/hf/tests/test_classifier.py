"""Classifiers: logits, both flows, gradients, on several architectures."""

import pytest
import torch
from tokenizers import processors
from torch.nn.functional import cross_entropy, one_hot
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import BaseLoss, Targets, select_topk
from pellucid.hf import ClassifierHFModel
from pellucid.testing import ClassifierContract, tiny_bert, tiny_wordpiece_tokenizer

TEXTS = ["The cat sees a dog.", "Music", "Anna likes the red house near the sea every day."]
TEMPLATES = [f"The cat {P} sees", f"{P} near the sea"]
CLASSES = {
    "bert": (BertForSequenceClassification, BertConfig),
    "roberta": (RobertaForSequenceClassification, RobertaConfig),
    "modernbert": (ModernBertForSequenceClassification, ModernBertConfig),
    "llama": (LlamaForSequenceClassification, LlamaConfig),
    "mistral": (MistralForSequenceClassification, MistralConfig),
    "gemma3": (Gemma3TextForSequenceClassification, Gemma3TextConfig),
    "qwen3": (Qwen3ForSequenceClassification, Qwen3Config),
    "gpt2": (GPT2ForSequenceClassification, GPT2Config),
    "gpt_neox": (GPTNeoXForSequenceClassification, GPTNeoXConfig),
    "opt": (OPTForSequenceClassification, OPTConfig),
}
DECODERS = ["llama", "mistral", "gemma3", "qwen3", "gpt2", "gpt_neox", "opt"]
OPTIONS = {
    "mistral": {"sliding_window": 4, "num_key_value_heads": 2},
    "gemma3": {"sliding_window": 4, "head_dim": 8, "num_key_value_heads": 2},
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


class TowardsClass(BaseLoss):
    """Cross entropy of the target class."""

    def __call__(self, output_class_logits, target_class_idx):
        targets = torch.full((len(output_class_logits),), target_class_idx)
        return cross_entropy(output_class_logits, targets, reduction="none")


def build(name):
    model_class, config_class = CLASSES[name]
    tokenizer = tiny_wordpiece_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(
            config_class(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=128,
                pad_token_id=tokenizer.pad_token_id,
                num_labels=3,
                id2label={0: "low", 1: "middle", 2: "high"},
                label2id={"low": 0, "middle": 1, "high": 2},
                **OPTIONS.get(name, {}),
            )
        )
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))
    return model.eval()


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    """A tiny classifier of each architecture in turn."""
    return build(request.param)


class TestBert(ClassifierContract):
    def make_model(self):
        return ClassifierHFModel(build("bert"), tokenizer=tiny_wordpiece_tokenizer())


class TestLlama(ClassifierContract):
    """A decoder, which reads the state of the last token."""

    def make_model(self):
        return ClassifierHFModel(build("llama"), tokenizer=tiny_wordpiece_tokenizer())


class TestGPT2(ClassifierContract):
    """A decoder with learned positions."""

    def make_model(self):
        return ClassifierHFModel(build("gpt2"), tokenizer=tiny_wordpiece_tokenizer())


def test_logits_are_those_of_one_text_at_a_time(model):
    tokenizer = tiny_wordpiece_tokenizer()
    classifier = ClassifierHFModel(model, tokenizer=tokenizer)
    assert classifier.n_classes == 3
    assert classifier.id2label == {0: "low", 1: "middle", 2: "high"}
    for text, logits in zip(TEXTS, classifier(TEXTS), strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_losses_equal_those_of_one_candidate_at_a_time(model):
    tokenizer = tiny_wordpiece_tokenizer()
    classifier = ClassifierHFModel(model, tokenizer=tokenizer, forward_pass_batch_size=2)
    classifier.set_inputs_from_tokens(TEMPLATES[:1], Targets(target_class_idx=[2]))
    rows = torch.randint(5, len(tokenizer), (5, 3), generator=torch.Generator().manual_seed(1))
    losses = classifier.compute_loss_from_tokens(rows, TowardsClass())
    before = tokenizer("The cat", add_special_tokens=False)["input_ids"]
    after = tokenizer("sees", add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for row, loss in zip(rows.tolist(), losses, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[cls, *before, *row, *after, sep]])).logits[0]
        torch.testing.assert_close(loss, -logits.log_softmax(dim=-1)[2], atol=1e-5, rtol=0)


def test_both_flows_and_both_gradients_agree(model):
    classifier = ClassifierHFModel(model, tokenizer=tiny_wordpiece_tokenizer())
    targets = Targets(target_class_idx=[0, 2])
    classifier.set_inputs_from_tokens(TEMPLATES, targets)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(5, classifier.vocab_size, (200, 3), generator=generator)
    rows = rows[classifier.retokenization_mask(rows)][:4]
    assert len(rows) == 4
    loss = TowardsClass()
    by_tokens = classifier.compute_loss_from_tokens(rows, loss, keep_message_dim=True)
    grads = classifier.compute_grad_from_tokens(loss, rows)
    table = classifier.effective_embedding_matrix
    at_embeds = classifier.compute_grad_from_embeds(loss, table[rows])
    torch.testing.assert_close(grads, at_embeds @ table.mT, rtol=1e-4, atol=1e-6)
    found = classifier.compute_topk_from_tokens(loss, rows, 4)
    torch.testing.assert_close(found.scores, select_topk(grads, 4).scores, rtol=1e-4, atol=1e-6)
    classifier.set_inputs_from_texts(TEMPLATES, targets)
    by_texts = classifier.compute_loss_from_texts(
        classifier.decode_triggers(rows), loss, keep_message_dim=True
    )
    torch.testing.assert_close(by_texts, by_tokens, atol=1e-5, rtol=0)


def test_gradients_are_those_of_one_hot_tokens_and_finite_differences(model):
    classifier = ClassifierHFModel(model, tokenizer=tiny_wordpiece_tokenizer())
    classifier.set_inputs_from_tokens(TEMPLATES[1:], Targets(target_class_idx=[2]))
    generator, table = torch.Generator().manual_seed(1), classifier.effective_embedding_matrix
    rows = torch.randint(5, classifier.vocab_size, (3, 3), generator=generator)
    weights = one_hot(rows, classifier.vocab_size).float().requires_grad_()
    inputs = classifier._token_input_manager.get_triggered_inputs(
        0, rows, trigger_embeds=weights @ table
    )
    logits = model(inputs_embeds=inputs.input_embeds[:1]).logits
    for i in (1, 2):  # one at a time: transformers wants a padding token for more
        logits = torch.cat([logits, model(inputs_embeds=inputs.input_embeds[i : i + 1]).logits])
    (expected,) = torch.autograd.grad(TowardsClass()(logits, 2).sum(), weights)
    found = classifier.compute_grad_from_tokens(TowardsClass(), rows)
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)
    grad = classifier.compute_grad_from_embeds(TowardsClass(), table[rows[:1]])
    step = 1e-2 * grad / grad.norm()
    up, down = (
        classifier.compute_grad_from_embeds(
            TowardsClass(), table[rows[:1]] + sign * step, return_loss=True
        )[1]
        for sign in (1, -1)
    )
    assert (up - down).item() / 2e-2 == pytest.approx(grad.norm().item(), rel=1e-2)


@pytest.mark.parametrize("name", DECODERS)
def test_a_trigger_that_ends_in_padding_is_read_to_its_end(name):
    tokenizer = tiny_wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    model = build(name)
    classifier = ClassifierHFModel(model, tokenizer=tokenizer, consistency="none")
    classifier.set_inputs_from_tokens([f"The cat sees {P}"], Targets(target_class_idx=[0]))
    row = torch.tensor([[9, 10, tokenizer.pad_token_id]])
    loss = classifier.compute_loss_from_tokens(row, TowardsClass())
    ids = classifier._token_input_manager.get_triggered_inputs(0, row).input_ids
    with torch.no_grad():
        states = model.base_model(input_ids=ids).last_hidden_state
        expected = -model.score(states[0, -1]).log_softmax(dim=-1)[0]
    torch.testing.assert_close(loss[0], expected, atol=1e-5, rtol=0)
    _, by_embeds = classifier.compute_grad_from_embeds(
        TowardsClass(), classifier.effective_embedding_matrix[row], return_loss=True
    )
    torch.testing.assert_close(by_embeds, loss, atol=1e-5, rtol=0)


def test_bad_input():
    tokenizer = tiny_wordpiece_tokenizer()
    with pytest.raises(TypeError, match="needs a model that classifies texts, got BertModel"):
        ClassifierHFModel(tiny_bert(), tokenizer=tokenizer)
    ctrl = build("gpt2")
    ctrl.__class__ = type("CTRLForSequenceClassification", (type(ctrl),), {})
    with pytest.raises(TypeError, match="finds a text's last token by its padding"):
        ClassifierHFModel(ctrl, tokenizer=tokenizer)
    classifier = ClassifierHFModel(build("bert"), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="predicts no tokens"):
        classifier.invoke_from_tokens(torch.tensor([[1]]), require_generation=True)

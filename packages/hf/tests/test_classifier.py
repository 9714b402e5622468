"""Classifiers: logits, both flows, gradients, on several architectures."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import BaseLoss, ClassifierBaseModel, Targets, select_topk
from pellucid.hf import ClassifierHFModel
from pellucid.testing import EncoderContract, tiny_bert, tiny_wordpiece_tokenizer

TEXTS = ["The cat sees a dog.", "Music", "Anna likes the red house near the sea every day."]
TEMPLATES = [f"The cat {P} sees", f"{P} near the sea"]
CLASSES = {
    "bert": (BertForSequenceClassification, BertConfig),
    "roberta": (RobertaForSequenceClassification, RobertaConfig),
    "modernbert": (ModernBertForSequenceClassification, ModernBertConfig),
}


class TowardsClass(BaseLoss):
    """Cross entropy of the target class."""

    def __call__(self, output_class_logits, target_class_idx):
        targets = torch.full((len(output_class_logits),), target_class_idx)
        return cross_entropy(output_class_logits, targets, reduction="none")


def build(model_class, config_class):
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
            )
        )
        with torch.no_grad():  # norms of 1 and biases of 0 would hide mistakes
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))
    return model.eval()


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    """A tiny classifier of each architecture in turn."""
    return build(*CLASSES[request.param])


class TestBert(EncoderContract):
    """The suite of encoders, with logits for vectors."""

    _base = ClassifierBaseModel
    _answer_field = "output_class_logits"
    _probes = (TowardsClass(),)

    def make_model(self):
        return ClassifierHFModel(build(*CLASSES["bert"]), tokenizer=tiny_wordpiece_tokenizer())

    def make_targets(self, model):
        return Targets(target_class_idx=[i % 3 for i in range(len(self.templates))])

    def test_vectors_have_the_declared_width(self):
        model = self._model()
        assert model(list(self.texts)).shape == (len(self.texts), model.n_classes)


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


def test_bad_input():
    tokenizer = tiny_wordpiece_tokenizer()
    with pytest.raises(TypeError, match="needs a model that classifies texts, got BertModel"):
        ClassifierHFModel(tiny_bert(), tokenizer=tokenizer)
    with pytest.raises(TypeError, match="finds a text's last token by its padding"):
        ClassifierHFModel(build(LlamaForSequenceClassification, LlamaConfig), tokenizer=tokenizer)
    classifier = ClassifierHFModel(build(*CLASSES["bert"]), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="predicts no tokens"):
        classifier.invoke_from_tokens(torch.tensor([[1]]), require_generation=True)

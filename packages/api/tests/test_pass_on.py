import pytest
import torch

from pellucid.api import PassOnModel
from pellucid.core import ArgumentError, BaseLoss
from pellucid.testing import TinyTokenizer


class Oracle(BaseLoss):
    """Longer inputs are better."""

    is_differentiable = False

    def __call__(self, input_texts, input_trigger_strs):
        assert len(input_texts) == len(input_trigger_strs)
        return torch.tensor([-float(len(text)) for text in input_texts])


def test_a_loss_reads_what_the_model_was_given():
    model = PassOnModel(TinyTokenizer())
    model.set_inputs_from_texts(["a {{OPTIMIZED_TRIGGER}}"])
    losses = model.compute_loss_from_texts(["b", "ccc"], Oracle())
    assert losses.tolist() == [-3.0, -5.0]
    stats = model.get_usage_stats()
    assert (stats["forward_calls"], stats["forward_samples"]) == (1, 2)
    assert stats["total_tokens"] > 0


def test_triggers_are_made_of_the_tokenizers_tokens():
    model = PassOnModel(TinyTokenizer())
    model.set_inputs_from_tokens(["The {{OPTIMIZED_TRIGGER}} cat"])
    assert model.decode_triggers(model.encode_trigger("red")[None]) == ["red"]
    assert model.vocab_size == TinyTokenizer().vocab_size
    with pytest.raises(ArgumentError, match="conversation"):
        model.set_inputs_from_tokens([[{"role": "user", "content": "{{OPTIMIZED_TRIGGER}}"}]])


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ArgumentError, match="BaseTokenizer"):
        PassOnModel(7)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import resolve

from pellucid.core import ArgumentError, LossResolutionError, ModelOutput
from pellucid.losses import NLLBoundLoss, TextBasedLoss

NATS, COUNTS = torch.tensor([6.0, 2.0, 0.0]), torch.tensor([3, 4, 0])


class Scorer:
    """Finds every letter worth one nat."""

    def invoke_from_texts(self, input_texts):
        lengths = [len(text) for text in input_texts]
        return ModelOutput(
            text_nll_bounds=torch.tensor(lengths, dtype=torch.float32),
            text_token_counts=torch.tensor([text.count(" ") + 1 for text in input_texts]),
        )


def test_bounds_by_token_and_as_they_are():
    output = ModelOutput(text_nll_bounds=NATS, text_token_counts=COUNTS)
    assert resolve(NLLBoundLoss(), output).tolist() == [2.0, 0.5, 0.0]
    whole = resolve(NLLBoundLoss(per_token=False), output)
    assert whole.tolist() == NATS.tolist()


@given(st.lists(st.text("ab ", min_size=1), min_size=1, max_size=5))
def test_a_scorer_is_asked_about_the_texts(texts):
    loss = NLLBoundLoss(scorer=Scorer(), per_token=False)
    losses = resolve(loss, ModelOutput(), input_texts=texts)
    assert losses.tolist() == [len(text) for text in texts]


def test_of_conversations_the_contents_are_scored():
    talk = [{"role": "user", "content": "a b"}, {"role": "user", "content": "c"}]
    loss = NLLBoundLoss(scorer=Scorer(), per_token=False)
    assert loss(input_texts=[talk]).tolist() == [len("a b\nc")]


def test_what_it_declares():
    own = NLLBoundLoss()
    assert isinstance(own, TextBasedLoss)
    assert not own.is_differentiable
    assert own.reads().required == {"text_nll_bounds", "text_token_counts"}
    assert NLLBoundLoss(scorer=Scorer()).reads().required == {"input_texts"}


def test_a_model_without_bounds_is_refused():
    with pytest.raises(LossResolutionError, match="text_nll_bounds"):
        resolve(NLLBoundLoss(), ModelOutput(), input_texts=["a"])
    scorer = Scorer()
    scorer.invoke_from_texts = lambda texts: ModelOutput()
    with pytest.raises(ArgumentError, match="gives no text_nll_bounds"):
        NLLBoundLoss(scorer=scorer)(input_texts=["a"])

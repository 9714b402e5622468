"""A family's bound as the output of a model."""

from typing import Any

import pytest
import torch
from torch import nn

from pellucid.core import Flow, RequirementError
from pellucid.xlm import LossFunction, NLLBound, SimpleSpaceTokenizer, TextScorer
from pellucid.xlm.contracts import Collator

TOKENIZER = SimpleSpaceTokenizer.for_numbers(5)


class Noisy(LossFunction[Any, Any]):
    """Finds every token worth what its generator draws."""

    def __init__(self) -> None:
        self.model, self.tokenizer = nn.Linear(1, 1), TOKENIZER

    def loss_fn(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        return {"loss": batch["input_ids"].float().mean()}

    def nll_bound(self, batch: Any) -> NLLBound:
        ids = batch["input_ids"]
        nats = torch.rand(ids.shape, generator=self.generator) * ids
        return NLLBound(nats.sum(dim=1), torch.tensor([ids.shape[1]]))


class Row(Collator):
    def __call__(self, examples):
        assert torch.is_tensor(torch.rand(1, generator=self.generator))
        return {"input_ids": torch.tensor([examples[0]["input_ids"]]), "name": "one row"}


def test_a_score_is_the_texts_own() -> None:
    scorer = TextScorer(Noisy(), Row())
    texts = ["1 2 3", "4", "1 2 3"]
    bounds = scorer(texts)
    assert bounds.tolist() == [float(scorer([text])) for text in texts]
    assert bounds[0] == bounds[2] != bounds[1]
    assert scorer.invoke_from_texts(texts).text_token_counts.tolist() == [3, 1, 3]
    assert TextScorer(Noisy(), Row(), seed=1)(texts).tolist() != bounds.tolist()


def test_it_declares_what_it_gives() -> None:
    assert set(TextScorer.provides[Flow.TEXTS]) == {"text_nll_bounds", "text_token_counts"}


def test_the_losss_generator_is_left_alone_and_use_is_counted() -> None:
    loss = Noisy()
    loss.generator = torch.Generator().manual_seed(3)
    state = loss.generator.get_state()
    scorer = TextScorer(loss, Row())
    scorer(["1 2", "3"])
    assert loss.generator.get_state().equal(state)
    stats = scorer.get_usage_stats()
    assert (stats["total_tokens"], stats["forward_samples"]) == (3, 2)
    assert scorer([]).shape == (0,)


def test_texts_are_encoded_as_one_says() -> None:
    scorer = TextScorer(Noisy(), Row(), encode=lambda text: [len(text)])
    assert scorer.invoke_from_texts(["abc"]).text_token_counts.tolist() == [1]


def test_a_family_without_a_bound_is_refused() -> None:
    class Unbounded(Noisy):
        nll_bound = LossFunction.nll_bound

    with pytest.raises(RequirementError, match="Unbounded bounds no likelihood"):
        TextScorer(Unbounded(), Row())(["1"])

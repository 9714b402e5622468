"""Suites for the four parts of a family, one class each: subclass and give the fixtures."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.testing._expectation import expect, expect_unchanged, snapshot
from pellucid.xlm.testing._shared_fixtures import SharedFixtures

PREDICTION_KEYS = ("text", "ids", "output_start_idx", "time_taken", "steps_taken")
"""What every prediction holds."""


class BaseModelTests(SharedFixtures):
    """What every model keeps.

    Give the fixtures `model`, and `run_forward`: a function
    `(batch_size=2, seq_len=16, partial_mask=False) -> logits` that hides how the family calls its
    model; with `partial_mask` the last 4 positions are padding.
    """

    @pytest.fixture
    def model(self) -> nn.Module:
        """The model, with the vocabulary of `simple_tokenizer`."""
        _missing(self, "model")

    @pytest.fixture
    def run_forward(self) -> Callable[..., Tensor]:
        """How the family calls its model."""
        _missing(self, "run_forward")

    def test_forward_output_shape(
        self, run_forward: Callable[..., Tensor], simple_tokenizer: SimpleSpaceTokenizer
    ) -> None:
        """There is a logit for each row, position and token."""
        _expect_shape(run_forward(batch_size=2, seq_len=16), simple_tokenizer)

    def test_forward_with_partial_mask(
        self, run_forward: Callable[..., Tensor], simple_tokenizer: SimpleSpaceTokenizer
    ) -> None:
        """Padding does not change the shape, nor make a logit infinite or not a number."""
        logits = run_forward(batch_size=2, seq_len=16, partial_mask=True)
        _expect_shape(logits, simple_tokenizer)
        expect(bool(logits[:, :12].isfinite().all()), "logits of tokens beside padding are bad.")

    def test_gradient_flows(self, model: nn.Module, run_forward: Callable[..., Tensor]) -> None:
        """A gradient reaches the weights."""
        model.zero_grad()
        run_forward().sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        expect(bool(grads), "no weight has a gradient.")
        expect(any(bool(grad.any()) for grad in grads), "all gradients are zero.")

    def test_weight_decay_param_split(self, model: Any) -> None:
        """Every weight decays or does not, and none does both."""
        decaying = [name for name, _ in model.get_named_params_for_weight_decay()]
        others = [name for name, _ in model.get_named_params_for_no_weight_decay()]
        every = sorted(name for name, _ in model.named_parameters())
        expect(sorted([*decaying, *others]) == every, "the two groups are no partition.")


class BaseLossTests(SharedFixtures):
    """What every loss keeps.

    Give the fixtures `loss_fn`, configured and with its model, and `batch`.
    """

    @pytest.fixture
    def loss_fn(self) -> Any:
        """The loss."""
        _missing(self, "loss_fn")

    @pytest.fixture
    def batch(self) -> Mapping[str, Any]:
        """What the family's collator makes for training."""
        _missing(self, "batch")

    def test_returns_loss_key(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """The output is a mapping with "loss"."""
        out = loss_fn(batch)
        expect(isinstance(out, Mapping), f"the loss returned {type(out).__name__}, no mapping.")
        expect("loss" in out, f"the loss returned {sorted(out)}, without 'loss'.")

    def test_loss_is_scalar(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """It has no axes."""
        loss = loss_fn(batch)["loss"]
        expect(loss.ndim == 0, f"the loss has the shape {tuple(loss.shape)}.")

    def test_loss_is_finite(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """It is a number."""
        loss = loss_fn(batch)["loss"].detach()
        expect(bool(loss.isfinite().all()), f"the loss is {loss.tolist()}.")

    def test_loss_requires_grad(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """It can be differentiated."""
        expect(loss_fn(batch)["loss"].requires_grad, "the loss requires no gradient.")

    def test_gradients_reach_model(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """Its gradient reaches the model."""
        loss_fn.model.zero_grad()
        loss_fn(batch)["loss"].backward()
        grads = [weight.grad for weight in loss_fn.model.parameters()]
        expect(any(grad is not None for grad in grads), "no weight of the model has a gradient.")

    def test_batch_stays_as_it_is(self, loss_fn: Any, batch: Mapping[str, Any]) -> None:
        """The batch is not written to: metrics read it afterwards."""
        before = snapshot(batch)
        loss_fn(batch)
        expect_unchanged(batch, before, "the loss")


class BaseCollatorTests(SharedFixtures):
    """What every collator keeps.

    Give the fixtures `collator` and `raw_examples`.
    """

    @pytest.fixture
    def collator(self) -> Any:
        """The collator."""
        _missing(self, "collator")

    @pytest.fixture
    def raw_examples(self) -> list[dict[str, Any]]:
        """Examples as the dataset gives them."""
        _missing(self, "raw_examples")

    def test_output_has_target_ids(self, collator: Any, raw_examples: list[Any]) -> None:
        """There is something to compare with."""
        batch = collator(raw_examples)
        expect("target_ids" in batch, f"the batch has {sorted(batch)}, and no 'target_ids'.")

    def test_output_shapes_consistent(self, collator: Any, raw_examples: list[Any]) -> None:
        """There is a row for each example, none is wider than the block, and masks fit."""
        batch = collator(raw_examples)
        ids = batch["input_ids"]
        expect(len(ids) == len(raw_examples), f"{len(raw_examples)} examples gave {len(ids)} rows.")
        mask = batch.get("attention_mask")
        expect(
            mask is None or mask.shape == ids.shape,
            f"ids have the shape {tuple(ids.shape)} and their mask {mask is None or mask.shape}.",
        )
        width = getattr(collator, "block_size", None)
        if width is not None:
            # Collators of prompts say how wide these may be, too.
            width += getattr(collator, "input_block_size", None) or 0
        expect(
            width is None or ids.shape[1] <= width,
            f"rows have {ids.shape[1]} tokens, and the block {width}.",
        )

    def test_examples_stay_as_they_are(self, collator: Any, raw_examples: list[Any]) -> None:
        """The examples are not written to: they may be collated again."""
        before = [snapshot(example) for example in raw_examples]
        collator(raw_examples)
        for example, was in zip(raw_examples, before, strict=True):
            expect_unchanged(example, was, "the collator")


class BasePredictorTests(SharedFixtures):
    """What every predictor keeps.

    Give the fixtures `predictor`, with its model and tokenizer, and `batch`.
    """

    @pytest.fixture
    def predictor(self) -> Any:
        """The predictor."""
        _missing(self, "predictor")

    @pytest.fixture
    def batch(self) -> Mapping[str, Any]:
        """What the family's collator makes for prediction."""
        _missing(self, "batch")

    def test_returns_expected_keys(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """Each row has a text, ids, a time and a number of evaluations."""
        preds, n_rows = predictor.predict(batch), len(batch["input_ids"])
        missing = [key for key in PREDICTION_KEYS if key not in preds]
        expect(not missing, f"the prediction lacks {missing}.")
        for key in ("text", "ids", "time_taken", "steps_taken"):
            expect(len(preds[key]) == n_rows, f"{n_rows} rows have {len(preds[key])} of {key!r}.")
        texts = list(preds["text"])
        expect(all(isinstance(text, str) for text in texts), "a text is no string.")
        expect(min(preds["steps_taken"]) >= 1, "a row took no evaluation of the network.")

    def test_ids_are_of_the_vocabulary(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """Every id stands for a token."""
        ids = predictor.predict(batch)["ids"]
        n_ids = len(predictor.tokenizer)
        expect(bool((ids >= 0).all() and (ids < n_ids).all()), f"an id is not in 0 to {n_ids - 1}.")

    def test_no_mask_is_left(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """Every gap is filled."""
        expect_no_mask(predictor.predict(batch)["ids"], predictor.tokenizer)

    def test_records_are_json(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """There is a record for each row, with its text, that can be written."""
        preds = predictor.predict(batch)
        records = predictor.to_dict(batch, preds)
        texts = [record.get("text") for record in records]
        expect(texts == list(preds["text"]), "the records have other texts than the prediction.")
        json.dumps(records)

    def test_batch_stays_as_it_is(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """The batch is not written to: metrics read it afterwards."""
        before = snapshot(batch)
        predictor.predict(batch)
        expect_unchanged(batch, before, "the predictor")

    def test_model_stays_as_it_is(self, predictor: Any, batch: Mapping[str, Any]) -> None:
        """Neither the mode nor the gradients of the model are touched."""
        model = predictor.model
        for mode in (True, False):
            model.train(mode)
            predictor.predict(batch)
            expect(model.training is mode, f"predict left the model with training={not mode}.")
        grads = [weight.grad for weight in model.parameters()]
        expect(all(grad is None for grad in grads), "predict left gradients behind.")


def expect_no_mask(ids: Tensor, tokenizer: Any) -> None:
    """Fail if a mask token is among ids."""
    n_masks = int((torch.as_tensor(ids) == tokenizer.mask_token_id).sum())
    expect(n_masks == 0, f"{n_masks} mask tokens are left in the output.")


def _expect_shape(logits: Tensor, tokenizer: SimpleSpaceTokenizer) -> None:
    wanted = (2, 16, tokenizer.vocab_size)
    expect(tuple(logits.shape) == wanted, f"logits have {tuple(logits.shape)}, not {wanted}.")


def _missing(suite: object, name: str) -> NoReturn:
    pytest.fail(f"{type(suite).__name__} needs a fixture {name!r}; define it in the class")

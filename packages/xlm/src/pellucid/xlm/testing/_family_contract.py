"""The laws of a whole family: model, loss, predictor and collators together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pellucid.xlm._addresses import seed_at
from pellucid.xlm.metrics import end_at_eos
from pellucid.xlm.testing._expectation import expect
from pellucid.xlm.testing._part_suites import expect_no_mask


@dataclass
class FamilyParts:
    """What a family consists of.

    Attributes:
        tokenizer: Shared by all parts.
        model: The network.
        loss: The training objective; its model and tokenizer are filled in.
        predictor: A sampler that draws nothing, so that its output follows from its input; its
            model and tokenizer are filled in.
        collator: Makes training batches of `examples`.
        prediction_collator: Makes prediction batches of `examples`.
        examples: A few, with prompts and targets of different lengths. What is to be predicted is
            `target_ids`, or `input_ids` where there are none.
    """

    tokenizer: Any
    model: nn.Module
    loss: Any
    predictor: Any
    collator: Any
    prediction_collator: Any
    examples: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        for part in (self.loss, self.predictor):
            fill_in(part, self)
        self.loss.configure(SimpleNamespace(device=torch.device("cpu")))


def fill_in(part: Any, parts: FamilyParts) -> None:
    """Give a part the model and the tokenizer of its family where it has none."""
    for name in ("model", "tokenizer"):
        if getattr(part, name, None) is None:
            setattr(part, name, getattr(parts, name))


class FamilyContract(ABC):
    """What every family keeps; name a subclass `Test...`, give `make_family` and `make_sampler`.

    Attributes:
        overfit_steps: Optimizer steps in which the examples can be learned by heart.
        overfit_copies: How often each example is in a batch of those, with noise of its own.
        learning_rate: Of AdamW.
    """

    overfit_steps: int = 300
    overfit_copies: int = 1
    learning_rate: float = 3e-3

    @abstractmethod
    def make_family(self, *, seed: int, extra_padding: int = 0) -> FamilyParts:
        """Return a small family, new each time.

        Args:
            seed: Of the weights; nothing else follows from it.
            extra_padding: How many columns more of padding the prompts in a prediction batch have.
        """

    def make_sampler(self, parts: FamilyParts) -> Any:
        """Return a predictor of the family that draws, at a temperature above 0.

        Its model and tokenizer are filled in.
        """
        del parts
        pytest.fail(f"{type(self).__name__} needs make_sampler: a predictor that draws")

    def generated(self, parts: FamilyParts, preds: Mapping[str, Any]) -> list[list[int]]:
        """Return what was generated for each row: ids up to EOS, without special tokens."""
        ids = end_at_eos(preds["ids"][:, preds["output_start_idx"] :], parts.tokenizer)
        special = set(parts.tokenizer.all_special_ids)
        return [[id_ for id_ in row if id_ not in special] for row in ids.tolist()]

    def prompts_before_and_after(
        self, parts: FamilyParts, batch: Mapping[str, Any], preds: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the given tokens of a batch, and what stands in their place in the output.

        Where a batch says which of its tokens are fixed, the others may move: EOS, for one.
        """
        given = batch["input_ids"]
        is_free = (given == parts.tokenizer.mask_token_id) | (given == parts.tokenizer.pad_token_id)
        stays = ~is_free & batch.get("fixed", torch.ones_like(is_free))
        return given[stays], preds["ids"][:, : given.shape[1]][stays]

    def test_it_learns_examples_by_heart(self) -> None:
        """After enough steps on a few examples, their prompts are completed exactly."""
        parts = self.make_family(seed=0)
        self._train(parts)
        preds = self._predict(parts)
        wanted = [list(row.get("target_ids", row["input_ids"])) for row in parts.examples]
        right = [a == b for a, b in zip(self.generated(parts, preds), wanted, strict=True)]
        expect(
            all(right),
            f"after {self.overfit_steps} steps {sum(right)} of {len(right)} examples are right.",
        )

    def test_prompts_are_never_altered(self) -> None:
        """What was given stands in the output, whatever the weights."""
        for seed in range(3):
            parts = self.make_family(seed=seed)
            batch = parts.prediction_collator(parts.examples)
            given, found = self.prompts_before_and_after(parts, batch, self._predict(parts))
            expect(given.numel() > 0, "the prediction batch holds no prompt.")
            expect(bool(torch.equal(given, found)), "a token of a prompt was altered.")

    def test_no_mask_is_left(self) -> None:
        """The output holds no mask token, whatever the weights."""
        for seed in range(3):
            parts = self.make_family(seed=seed)
            preds = self._predict(parts)
            expect_no_mask(preds["ids"], parts.tokenizer)
            mask = parts.tokenizer.mask_token
            expect(not any(mask in text for text in preds["text"]), f"a text holds {mask!r}.")

    def test_padding_changes_nothing(self) -> None:
        """A prompt is completed alike, however much padding stands beside it."""
        outputs = [
            self._generate(self.make_family(seed=0, extra_padding=extra)) for extra in (0, 1, 5)
        ]
        for output in outputs[1:]:
            expect(output == outputs[0], "completions depend on the padding of their prompts.")

    def test_a_batch_equals_its_rows(self) -> None:
        """A prompt is completed alike alone and in company."""
        parts = self.make_family(seed=0)
        parts.model.double()
        together = self._generate(parts)
        for row, example in enumerate(parts.examples):
            alone = self.generated(parts, self._predict(parts, [example]))[0]
            expect(alone == together[row], "a completion depends on the rows beside it.")

    def test_a_sample_belongs_to_its_row(self) -> None:
        """What is drawn for a row is the same alone, in any batch, and with any padding."""
        parts = self.make_family(seed=0)
        examples = list(parts.examples) * 3
        rows = list(range(10, 10 + len(examples)))
        together = self._sample(parts, examples, rows)
        n_kinds = len(parts.examples)
        expect(
            any(together[row] != together[row - n_kinds] for row in rows[n_kinds:]),
            "the same example is completed alike in every row: the sampler draws nothing.",
        )
        for size in (1, 2):
            for at in range(0, len(rows), size):
                some = self._sample(
                    parts, examples[at : at + size][::-1], rows[at : at + size][::-1]
                )
                same = all(drawn == together[row] for row, drawn in some.items())
                expect(same, f"a sample depends on its batch, of {len(some)} rows here.")
        for extra in (1, 5):
            wider = self._sample(self.make_family(seed=0, extra_padding=extra), examples, rows)
            expect(wider == together, "a sample depends on the padding of its prompt.")
        other = self._sample(parts, examples, rows, seed=1)
        expect(other != together, "samples do not depend on the seed.")

    def test_a_checkpoint_holds_everything(self) -> None:
        """Weights that are saved and loaded into another model make it the same model."""
        parts, other = self.make_family(seed=0), self.make_family(seed=1)
        saved = save({name: held.clone() for name, held in parts.model.state_dict().items()})
        other.model.load_state_dict(load(saved))
        losses = [self._loss(held, step=0) for held in (parts, other)]
        expect(losses[0] == losses[1], f"the loss is {losses[0]}, and {losses[1]} after loading.")
        outputs = [self._generate(held) for held in (parts, other)]
        expect(outputs[0] == outputs[1], "completions differ after loading.")

    def test_noise_follows_from_the_generators(self) -> None:
        """With the same generators the loss is the same, so that a run can go on exactly."""
        parts = self.make_family(seed=0)
        state = torch.get_rng_state()
        try:
            losses: list[float] = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                losses.append(self._loss(parts, step=0))
        finally:
            torch.set_rng_state(state)
        expect(losses[0] == losses[1], f"the loss is {losses[0]}, and then {losses[1]}.")

    def _train(self, parts: FamilyParts) -> None:
        parts.model.train()
        optimizer = torch.optim.AdamW(
            parts.model.parameters(), lr=self.learning_rate, weight_decay=0.0
        )
        for step in range(self.overfit_steps):
            optimizer.zero_grad()
            self._compute(parts, step, n_copies=self.overfit_copies)["loss"].backward()
            optimizer.step()

    def _loss(self, parts: FamilyParts, *, step: int) -> float:
        parts.model.eval()
        with torch.no_grad():
            return float(self._compute(parts, step)["loss"])

    def _compute(self, parts: FamilyParts, step: int, *, n_copies: int = 1) -> Mapping[str, Any]:
        # As the harness and the loader do it: each batch has a seed of its own.
        for part in (parts.collator, parts.loss):
            part.generator = torch.Generator().manual_seed(seed_at(0, step))
        return parts.loss(parts.collator([*parts.examples] * n_copies))

    def _generate(self, parts: FamilyParts) -> list[list[int]]:
        # In double precision no completion hangs on the order of a sum.
        parts.model.double()
        return self.generated(parts, self._predict(parts))

    @torch.no_grad()
    def _sample(
        self,
        parts: FamilyParts,
        examples: Sequence[Mapping[str, Any]],
        rows: Sequence[int],
        *,
        seed: int = 0,
    ) -> dict[int, list[int]]:
        """Return what is drawn for each row, by its number in a dataset."""
        parts.model.eval().double()
        sampler = self.make_sampler(parts)
        fill_in(sampler, parts)
        sampler.generator = torch.Generator().manual_seed(seed)
        batch = {**parts.prediction_collator(examples), "row_ids": torch.tensor(rows)}
        return dict(zip(rows, self.generated(parts, sampler.predict(batch)), strict=True))

    @torch.no_grad()
    def _predict(
        self, parts: FamilyParts, examples: Sequence[Mapping[str, Any]] | None = None
    ) -> Mapping[str, Any]:
        parts.model.eval()
        parts.predictor.generator = torch.Generator().manual_seed(0)
        given = parts.examples if examples is None else examples
        return parts.predictor.predict(parts.prediction_collator(given))

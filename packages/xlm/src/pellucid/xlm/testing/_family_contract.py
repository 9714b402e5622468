"""The laws of a whole family: model, loss, predictor and collators together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

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
            for name in ("model", "tokenizer"):
                if getattr(part, name, None) is None:
                    setattr(part, name, getattr(self, name))
        self.loss.configure(SimpleNamespace(device=torch.device("cpu")))


class FamilyContract(ABC):
    """What every family keeps; name a subclass `Test...` and give `make_family`.

    Attributes:
        overfit_steps: Optimizer steps in which the examples can be learned by heart.
        learning_rate: Of AdamW.
    """

    overfit_steps: int = 300
    learning_rate: float = 3e-3

    @abstractmethod
    def make_family(self, *, seed: int, extra_padding: int = 0) -> FamilyParts:
        """Return a small family, new each time.

        Args:
            seed: Of the weights; nothing else follows from it.
            extra_padding: How many columns more of padding the prompts in a prediction batch have.
        """

    def generated(self, parts: FamilyParts, preds: Mapping[str, Any]) -> list[list[int]]:
        """Return what was generated for each row: ids up to EOS, without special tokens."""
        ids = end_at_eos(preds["ids"][:, preds["output_start_idx"] :], parts.tokenizer)
        special = set(parts.tokenizer.all_special_ids)
        return [[id_ for id_ in row if id_ not in special] for row in ids.tolist()]

    def prompts_before_and_after(
        self, parts: FamilyParts, batch: Mapping[str, Any], preds: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the given tokens of a batch, and what stands in their place in the output."""
        given = batch["input_ids"]
        is_free = (given == parts.tokenizer.mask_token_id) | (given == parts.tokenizer.pad_token_id)
        return given[~is_free], preds["ids"][:, : given.shape[1]][~is_free]

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
            self._compute(parts, step)["loss"].backward()
            optimizer.step()

    def _loss(self, parts: FamilyParts, *, step: int) -> float:
        parts.model.eval()
        with torch.no_grad():
            return float(self._compute(parts, step)["loss"])

    def _compute(self, parts: FamilyParts, step: int) -> Mapping[str, Any]:
        # As the harness and the loader do it: each batch has a seed of its own.
        for part in (parts.collator, parts.loss):
            part.generator = torch.Generator().manual_seed(seed_at(0, step))
        return parts.loss(parts.collator(parts.examples))

    def _generate(self, parts: FamilyParts) -> list[list[int]]:
        # In double precision no completion hangs on the order of a sum.
        parts.model.double()
        return self.generated(parts, self._predict(parts))

    @torch.no_grad()
    def _predict(
        self, parts: FamilyParts, examples: Sequence[Mapping[str, Any]] | None = None
    ) -> Mapping[str, Any]:
        parts.model.eval()
        parts.predictor.generator = torch.Generator().manual_seed(0)
        given = parts.examples if examples is None else examples
        return parts.predictor.predict(parts.prediction_collator(given))

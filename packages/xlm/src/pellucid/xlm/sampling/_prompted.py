"""What predictors have in common that complete prompts or fill texts."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch

from pellucid.xlm.contracts import Batch, Predictor, Preds
from pellucid.xlm.datamodule import PromptLayout
from pellucid.xlm.metrics import end_at_eos
from pellucid.xlm.sampling._texts import Filled, FilledDict


class PromptedPredictor(Predictor[Batch, Preds]):
    """A sampler that is given prompts, as batches or as text, and returns records of them.

    A subclass defines `predict`; `FillingPredictor` is one that does.

    Attributes:
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.
        skip_special_tokens: Leave special tokens out of texts.
        record_columns: What a record holds beside `ids`, of what `predict` returns.
    """

    add_bos: str | None = None
    skip_special_tokens: bool = True
    record_columns: ClassVar[tuple[str, ...]] = ("text", "time_taken", "steps_taken")

    def to_dict(
        self,
        batch: Batch,
        preds: Preds,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a record per row: its ids, and `record_columns`."""
        del batch, batch_idx, dataloader_idx, dataloader_name
        held = cast("Mapping[str, Any]", preds)
        return [
            {"ids": ids, **{name: held[name][row] for name in self.record_columns}}
            for row, ids in enumerate(held["ids"].tolist())
        ]

    def generate(
        self, prompts: list[str], *, generator: torch.Generator | None = None
    ) -> list[str]:
        """Complete prompts given as text, or fill the gaps in them.

        Args:
            prompts: One per row. What is drawn for one depends on its place in the list.
            generator: Where to draw from; the predictor's own if None.
        """
        if not prompts:
            return []
        own, self.generator = self.generator, generator or self.generator
        try:
            preds = self.predict(self.prompt_batch(prompts))
            return cast("Mapping[str, Any]", preds)["text"]
        finally:
            self.generator = own

    def prompt_batch(self, prompts: list[str]) -> Batch:
        """Return a prediction batch of prompts, padded on the left, on the model's device."""
        rows = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        layout = PromptLayout(
            tokenizer=self.tokenizer,
            block_size=max(map(len, rows)) + 1,
            add_bos=self.add_bos,
            truncate="max",
        )
        ids, is_token = layout.lay_out(rows)
        device = next(self.model.parameters()).device
        return cast("Batch", {"input_ids": ids.to(device), "attention_mask": is_token.to(device)})

    def describe(self, filled: Filled, *, start: int) -> FilledDict:
        """Return what `predict` does of texts that were filled.

        Args:
            filled: The texts.
            start: The column in which what was asked for begins.
        """
        written = end_at_eos(filled.ids[:, start:], self.tokenizer).tolist()
        decode, skip = self.tokenizer.decode, self.skip_special_tokens
        return {
            "text": [decode(row, skip_special_tokens=skip) for row in written],
            "ids": filled.ids,
            "output_start_idx": start,
            "time_taken": filled.seconds,
            "steps_taken": filled.steps,
            "loss": None,
        }

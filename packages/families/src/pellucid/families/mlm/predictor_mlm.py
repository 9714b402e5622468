"""The sampler of the family: masks are filled in any order, several at a time."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mlm._order import DOUBTS, count_within, rank, share_of_steps
from pellucid.families.mlm.types_mlm import MLMModel, MLMPredictionBatch, MLMPredictionDict
from pellucid.xlm.contracts import Predictor
from pellucid.xlm.datamodule import PromptLayout
from pellucid.xlm.metrics import end_at_eos
from pellucid.xlm.modules import (
    TokenConstraints,
    evaluating,
    keep_top_k,
    keep_top_p,
    positions_of,
    sample_from_logits,
)

_FAR = 1 << 30


class MLMPredictor(Predictor[MLMPredictionBatch, MLMPredictionDict]):
    """Fill masks step by step: read the text, draw a token for every mask, keep the surest.

    A step reads the rows that have masks left, and no others; every step fills at least one mask of
    each of them, and the last one all that are left, so that no row is read more often than
    `max_steps`. What was given never changes, and of special tokens only EOS and padding are
    written.

    Args:
        max_steps: The most network evaluations of a row.
        max_new_tokens: How many masks to put after a prompt; None to fill those that are there.
        tokenizer: Filled in by the harness if None.
        model: The network; filled in by the harness if None.
        noise_schedule: Not read.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
        confidence: Fill first where the best token has the highest probability ("top_prob"), or the
            largest margin ("prob_diff"), or where the entropy is lowest ("entropy"); in random
            order if None.
        threshold: Fill as many of the surest masks as keep the sum of their doubts below it, at
            least one; if None, masks are shared out evenly over the steps.
        threshold_rule: "error" sums the doubts of all masks filled at once: for "top_prob" that
            bounds the chance that one of them is wrong. "dependence" leaves the largest out, as
            published: for "entropy" that bounds what is lost by drawing them independently.
        confidence_temperature: Divides logits before confidences are read from them.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
        block_length: Fill blocks of that many positions from left to right, each in any order.
        logits_hook: Called with the logits of whole rows, for networks that answer elsewhere.
        skip_special_tokens: Leave special tokens out of texts.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.

    Raises:
        ArgumentError: Settings contradict each other or are out of their range.
    """

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None = None,
        tokenizer: Any = None,
        *,
        model: MLMModel | None = None,
        noise_schedule: Any = None,
        top_k: int | None = None,
        top_p: float | None = None,
        confidence: str | None = None,
        threshold: float | None = None,
        threshold_rule: str = "error",
        confidence_temperature: float = 1.0,
        temperature: float = 1.0,
        block_length: int | None = None,
        logits_hook: Callable[[Tensor], Tensor] | None = None,
        skip_special_tokens: bool = True,
        add_bos: str | None = "output",
    ) -> None:
        if confidence is not None and confidence not in DOUBTS:
            raise UnknownNameError("confidence", confidence, DOUBTS)
        if top_k is not None and top_p is not None:
            message = f"top_k={top_k!r} and top_p={top_p!r} exclude each other; set one of them"
            raise ArgumentError(message)
        if threshold is not None and confidence is None:
            message = f"threshold={threshold!r} needs a confidence; choose {sorted(DOUBTS)!r}"
            raise ArgumentError(message)
        if threshold_rule not in ("error", "dependence"):
            raise UnknownNameError("threshold rule", threshold_rule, ("error", "dependence"))
        _check_positive(
            max_steps=max_steps,
            max_new_tokens=max_new_tokens,
            block_length=block_length,
            confidence_temperature=confidence_temperature,
        )
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self.tokenizer, self.model, self.noise_schedule = tokenizer, model, noise_schedule
        self.top_k, self.top_p = top_k, top_p
        self.confidence, self.threshold = confidence, threshold
        self.threshold_rule = threshold_rule
        self.confidence_temperature, self.temperature = confidence_temperature, temperature
        self.block_length, self.logits_hook = block_length, logits_hook
        self.skip_special_tokens, self.add_bos = skip_special_tokens, add_bos
        self._keep(torch.zeros(1, 1))  # so that a wrong k or p is known now

    def predict(
        self,
        batch: MLMPredictionBatch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> MLMPredictionDict:
        """Fill every mask of a batch."""
        del batch_idx, dataloader_idx, dataloader_name
        filling = self._begin(batch)
        with evaluating(self.model):
            for steps_left in range(self.max_steps, 0, -1):
                if not len(filling.active):
                    break
                self._fill_some(filling, steps_left)
        return self._describe(filling)

    def to_dict(
        self,
        batch: MLMPredictionBatch,
        preds: MLMPredictionDict,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a record per row: its text, ids, time and steps."""
        del batch, batch_idx, dataloader_idx, dataloader_name
        columns = ("text", "time_taken", "steps_taken")
        return [
            {"ids": ids, **{name: preds[name][row] for name in columns}}
            for row, ids in enumerate(preds["ids"].tolist())
        ]

    def generate(
        self, prompts: list[str], *, generator: torch.Generator | None = None
    ) -> list[str]:
        """Complete prompts given as text, or fill the masks in them if `max_new_tokens` is None.

        Args:
            prompts: One per row.
            generator: Where to draw from; the predictor's own if None.
        """
        if not prompts:
            return []
        rows = [self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        layout = PromptLayout(
            tokenizer=self.tokenizer,
            block_size=max(map(len, rows)) + 1,
            add_bos=self.add_bos if self.max_new_tokens else None,
            truncate="max",
        )
        ids, is_token = layout.lay_out(rows)
        device = next(self.model.parameters()).device
        own, self.generator = self.generator, generator or self.generator
        try:
            batch = MLMPredictionBatch(input_ids=ids.to(device), attention_mask=is_token.to(device))
            return self.predict(batch)["text"]
        finally:
            self.generator = own

    def _begin(self, batch: MLMPredictionBatch) -> "_Filling":
        ids, more = batch["input_ids"], (0, self.max_new_tokens or 0)
        mask_id = self.tokenizer.mask_token_id
        shown = batch.get("attention_mask")
        shown = torch.ones_like(ids, dtype=torch.bool) if shown is None else shown.bool()
        fixed = batch.get("fixed_positions_mask")
        fixed = ids != mask_id if fixed is None else fixed | (ids != mask_id)
        start = ids.shape[1] if self.max_new_tokens else 0
        ids = functional.pad(ids, more, value=mask_id)
        shown = functional.pad(shown, more, value=True)
        frozen = functional.pad(fixed, more, value=False)
        constraints = TokenConstraints.from_tokenizer(self.tokenizer, allowed=("eos", "pad"))
        positions = batch.get("positions")
        return _Filling(
            ids=ids,
            shown=shown,
            positions=positions_of(shown) if positions is None or more[1] else positions,
            is_open=~frozen & shown,
            constraints=constraints.with_frozen(frozen),
            blocks=self._blocks(~frozen & shown),
            start=start,
            active=(~frozen & shown).any(dim=1).nonzero()[:, 0],
            steps=[0] * len(ids),
            seconds=[0.0] * len(ids),
        )

    def _blocks(self, is_open: Bool[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
        """Return the number of each position's block, counted from the first mask of its row."""
        if self.block_length is None:
            return torch.zeros_like(is_open, dtype=torch.long)
        first = is_open.long().argmax(dim=1, keepdim=True)
        columns = torch.arange(is_open.shape[1], device=is_open.device)
        return torch.div(columns - first, self.block_length, rounding_mode="floor")

    def _fill_some(self, filling: "_Filling", steps_left: int) -> None:
        """Read the rows that have masks left, and fill some masks of each."""
        active = filling.active
        is_open = filling.is_open[active]
        logits = self._logits(filling, is_open)
        drawn = self._draw(logits, filling, is_open)
        # What is drawn for padded rows and filled positions is never looked at.
        tokens = torch.zeros_like(filling.ids[active]).masked_scatter(is_open, drawn)
        doubts = self._doubts(logits, filling, is_open)
        chosen = self._choose(doubts, is_open, filling.blocks[active], steps_left)
        filling.write(tokens, chosen)

    def _logits(
        self, filling: "_Filling", is_open: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "picked_pos d_vocab"]:
        active = filling.active
        given = (filling.ids[active], filling.shown[active], filling.positions[active])
        if self.logits_hook is None:
            logits = self.model(*given, where=is_open)
        else:
            logits = self.logits_hook(self.model(*given))[is_open]
        return filling.constraints.restrict(logits.float())

    def _draw(
        self,
        logits: Float[Tensor, "picked_pos d_vocab"],
        filling: "_Filling",
        is_open: Bool[Tensor, "batch pos"],
    ) -> Int64[Tensor, " picked_pos"]:
        uniforms = None if self.temperature == 0 else self._uniforms(filling)[is_open]
        return sample_from_logits(
            self._keep(logits), temperature=self.temperature, uniforms=uniforms
        )

    def _doubts(
        self,
        logits: Float[Tensor, "picked_pos d_vocab"],
        filling: "_Filling",
        is_open: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        if self.confidence is None:
            return self._uniforms(filling)
        probs = (logits / self.confidence_temperature).softmax(dim=-1)
        doubts = DOUBTS[self.confidence](probs).double()
        return torch.zeros(is_open.shape, dtype=doubts.dtype, device=doubts.device).masked_scatter(
            is_open, doubts
        )

    def _uniforms(self, filling: "_Filling") -> Float[Tensor, "batch pos"]:
        """Draw a number for every position of the active rows.

        Numbers are drawn for finished rows too, so that no row's draw depends on the others.
        """
        drawn = torch.rand(
            filling.ids.shape,
            generator=self.generator,
            device=filling.ids.device,
            dtype=torch.float64,
        )
        return drawn[filling.active]

    def _choose(
        self,
        doubts: Float[Tensor, "batch pos"],
        is_open: Bool[Tensor, "batch pos"],
        blocks: Int64[Tensor, "batch pos"],
        steps_left: int,
    ) -> Bool[Tensor, "batch pos"]:
        if steps_left == 1:
            return is_open
        present = blocks.masked_fill(~is_open, _FAR).amin(dim=1, keepdim=True)
        in_block = is_open & (blocks == present)
        if self.threshold is not None:
            counts = count_within(
                doubts,
                in_block,
                self.threshold,
                spares_largest=self.threshold_rule == "dependence",
            )
        else:
            n_blocks = blocks.masked_fill(~is_open, -1).amax(dim=1) - present[:, 0] + 1
            counts = share_of_steps(is_open.sum(dim=1), in_block.sum(dim=1), n_blocks, steps_left)
        return in_block & (rank(doubts, in_block) < counts[:, None])

    def _keep(self, logits: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape d_vocab"]:
        if self.top_k is not None:
            return keep_top_k(logits, self.top_k)
        return logits if self.top_p is None else keep_top_p(logits, self.top_p)

    def _describe(self, filling: "_Filling") -> MLMPredictionDict:
        written = filling.ids[:, filling.start :]
        texts = end_at_eos(written, self.tokenizer).tolist()
        decode, skip = self.tokenizer.decode, self.skip_special_tokens
        return {
            "text": [decode(row, skip_special_tokens=skip) for row in texts],
            "ids": filling.ids,
            "output_start_idx": filling.start,
            "time_taken": filling.seconds,
            "steps_taken": filling.steps,
            "loss": None,
        }


@dataclasses.dataclass
class _Filling:
    """Texts whose masks are being filled.

    Attributes:
        ids: The texts.
        shown: False on what is hidden from the network.
        positions: Where each token stands.
        is_open: The masks that are left.
        constraints: What may be written, and where.
        blocks: The number of each position's block.
        start: The column in which what was asked for begins.
        active: The rows that have masks left, ascending.
        steps: Network evaluations of each row.
        seconds: Time until each row was finished.
    """

    ids: Int64[Tensor, "batch pos"]
    shown: Bool[Tensor, "batch pos"]
    positions: Int64[Tensor, "batch pos"]
    is_open: Bool[Tensor, "batch pos"]
    constraints: TokenConstraints
    blocks: Int64[Tensor, "batch pos"]
    start: int
    active: Int64[Tensor, " kept"]
    steps: list[int]
    seconds: list[float]
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def write(self, tokens: Int64[Tensor, "kept pos"], where: Bool[Tensor, "kept pos"]) -> None:
        """Fill masks of the active rows; those that have none left are active no longer."""
        is_active = torch.zeros(len(self.ids), dtype=torch.bool, device=self.ids.device)
        is_active[self.active] = True
        own = self.constraints.keep_rows(is_active)
        self.ids[self.active] = own.write(self.ids[self.active], tokens, where)
        self.is_open[self.active] &= ~where
        seconds = time.perf_counter() - self.began
        for row in self.active.tolist():
            self.steps[row] += 1
            self.seconds[row] = seconds
        self.active = self.active[self.is_open[self.active].any(dim=1)]


def _check_positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and number <= 0:
            message = f"{name} is {number!r}; give a positive number"
            raise ArgumentError(message)

"""What predictors have in common that fill masks in one loop."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm.contracts import Batch, Preds
from pellucid.xlm.modules import TokenConstraints, evaluating
from pellucid.xlm.sampling._fill import Read, fill
from pellucid.xlm.sampling._order import OrderPolicy
from pellucid.xlm.sampling._prompted import PromptedPredictor
from pellucid.xlm.sampling._remasking import Remasking
from pellucid.xlm.sampling._stops import StopRule
from pellucid.xlm.sampling._streams import RowStreams
from pellucid.xlm.sampling._texts import Reading, Texts
from pellucid.xlm.sampling._tokens import TokenPolicy


class FillingPredictor(PromptedPredictor[Batch, Preds]):
    """Fill the masks of a batch, or those that are put after its prompts, by `fill`.

    A subclass sets `order` and `tokens`. It overrides `reader` if its network is called in another
    way, `stop_rules` if texts end early, and `order_of_steps` if the order is not known before
    there is a noise schedule. What was given never changes, and of special tokens only EOS and
    padding are written. What a row draws depends on no other row; see `RowStreams`.

    Attributes:
        order: Which masks are filled in a step.
        tokens: What is written there.
        remasking: Which tokens are masked again after a step; none if None.
        logits_hook: Called with the logits of whole rows, for networks that answer elsewhere.
    """

    order: OrderPolicy
    tokens: TokenPolicy
    remasking: Remasking | None = None
    logits_hook: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None,
        tokenizer: Any,
        *,
        model: Any,
        noise_schedule: Any,
        skip_special_tokens: bool = True,
        add_bos: str | None = "output",
    ) -> None:
        """Keep what every such predictor is given.

        Args:
            max_steps: The most network evaluations of a row.
            max_new_tokens: How many masks to put after a prompt; None to fill those that are there.
            tokenizer: Filled in by the harness if None.
            model: Filled in by the harness if None.
            noise_schedule: Filled in by the harness if None.
            skip_special_tokens: Leave special tokens out of texts.
            add_bos: Where `generate` puts BOS; texts whose masks are filled get none.

        Raises:
            ArgumentError: A number is not positive.
        """
        for name, number in (("max_steps", max_steps), ("max_new_tokens", max_new_tokens)):
            if number is not None and number < 1:
                raise ArgumentError(f"{name} is {number!r}; give a positive number")
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self.tokenizer, self.model, self.noise_schedule = tokenizer, model, noise_schedule
        self.skip_special_tokens = skip_special_tokens
        self.add_bos = add_bos if max_new_tokens else None

    def predict(
        self,
        batch: Batch,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> Preds:
        """Fill every mask of a batch that is a `FillBatch`, and return a `FilledDict`."""
        del batch_idx, dataloader_idx, dataloader_name
        given = cast("dict[str, Any]", batch)
        texts = Texts.of(given, tokenizer=self.tokenizer, max_new_tokens=self.max_new_tokens)
        with evaluating(self.model):
            filled = fill(
                texts,
                self.reader(texts),
                order=self.order_of_steps(),
                tokens=self.tokens,
                constraints=TokenConstraints.from_tokenizer(self.tokenizer, allowed=("eos", "pad")),
                streams=RowStreams.of(given, self.generator),
                max_steps=self.max_steps,
                stops=self.stop_rules(),
                remasking=self.remasking,
            )
        return cast("Preds", self.describe(filled, start=texts.start))

    def reader(self, texts: Texts) -> Read:
        """Return how the network reads, here with token ids, what is shown of them, and positions.

        Args:
            texts: As they are at the beginning.
        """
        del texts
        return self._read

    def order_of_steps(self) -> OrderPolicy:
        """Return which masks are filled in a step."""
        return self.order

    def stop_rules(self) -> Sequence[StopRule]:
        """Return the rules by which texts end early; none if empty."""
        return ()

    def _read(self, reading: Reading) -> Float[Tensor, "picked_pos d_vocab"]:
        given = (reading.ids, reading.shown, reading.positions)
        if self.logits_hook is None:
            return self.model(*given, where=reading.where)
        return self.logits_hook(self.model(*given))[reading.where]

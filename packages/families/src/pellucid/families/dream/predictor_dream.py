"""The sampler of the family: blocks from left to right, each in any order."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.dream._blocks import BlockReader, CachedBlockReader
from pellucid.families.dream.types_dream import (
    CachingNetwork,
    DreamNetwork,
    DreamPredictionBatch,
    DreamPredictionDict,
)
from pellucid.xlm.modules import positions_of
from pellucid.xlm.sampling import (
    DoubtLimit,
    EvenShare,
    FillingPredictor,
    FillOrder,
    Read,
    StopAtStrings,
    StopAtToken,
    StopRule,
    Texts,
    TokenPolicy,
)

ATTENTIONS = ("full", "block_causal")


class DreamPredictor(FillingPredictor[DreamPredictionBatch, DreamPredictionDict]):
    """Put masks after a prompt and fill them block by block (Ye et al. 2025, arXiv:2508.15487).

    A block is filled in any order, as many positions a step as the steps require; the next one
    begins when it is full. What was given never changes, of special tokens only EOS and padding are
    written, and what a row draws depends on no other row.

    Args:
        max_steps: The most network evaluations of a row; shared out over the blocks.
        max_new_tokens: How many masks to put after a prompt; None to fill those that are there.
        block_size: Positions of a block, the last one may have fewer.
        tokenizer: Filled in by the harness if None.
        model: The network, such as a `DreamModel`; filled in by the harness if None.
        noise_schedule: Not read.
        top_k: Draw from the k best tokens.
        top_p: Draw from the fewest tokens that together have probability p; not with `top_k`.
        confidence: Fill first where the best token has the highest probability ("top_prob"), or the
            largest margin ("prob_diff"), or where the entropy is lowest ("entropy"); in random
            order if None.
        threshold: Fill as many of the surest as keep the sum of their doubts below it, at least
            one, so that a row may take fewer steps; if None, steps are shared out evenly.
        confidence_temperature: How many times a draw from the standard Gumbel distribution is added
            to confidences; 0 for none.
        temperature: Divides logits before tokens are drawn; 0 takes the best ones.
        attention: What a token sees: all that is not hidden ("full"), or its own block and those
            before it ("block_causal"). It is for the network to have been trained so.
        use_cache: Keep keys and values of full blocks, and read the present one alone. Exact, and
            therefore allowed, with "block_causal" only: with "full" attention a block that is full
            still sees what is written after it.
        logits_hook: Called with the logits of whole rows, such as `shift_logits`, for networks that
            answer elsewhere; with "full" attention only.
        skip_special_tokens: Leave special tokens out of texts.
        generate_until: Strings that end a text, and are a part of it.
        force_fill_max: Where such a string has at most so many masks before it, these are all
            filled in the next step.
        stop_at_eos: Let the first EOS end a text.
        add_bos: Where `generate` puts BOS: before a prompt ("input"), after it ("output"), nowhere.

    Raises:
        ArgumentError: Settings contradict each other or are out of their range.
        UnknownNameError: The attention or the confidence is unknown.
    """

    def __init__(
        self,
        max_steps: int,
        max_new_tokens: int | None = None,
        block_size: int = 8,
        *,
        tokenizer: Any = None,
        model: DreamNetwork | None = None,
        noise_schedule: Any = None,
        top_k: int | None = None,
        top_p: float | None = None,
        confidence: str | None = "top_prob",
        threshold: float | None = None,
        confidence_temperature: float = 0.0,
        temperature: float = 1.0,
        attention: str = "full",
        use_cache: bool = False,
        logits_hook: Callable[[Tensor], Tensor] | None = None,
        skip_special_tokens: bool = True,
        generate_until: Sequence[str] | None = None,
        force_fill_max: int = 3,
        stop_at_eos: bool = True,
        add_bos: str | None = None,
    ) -> None:
        super().__init__(
            max_steps,
            max_new_tokens,
            tokenizer,
            model=model,
            noise_schedule=noise_schedule,
            skip_special_tokens=skip_special_tokens,
            add_bos=add_bos,
        )
        if force_fill_max < 0:
            raise ArgumentError(f"force_fill_max is {force_fill_max!r}; give 0 or more")
        if attention not in ATTENTIONS:
            raise UnknownNameError("attention", attention, ATTENTIONS)
        if use_cache and attention == "full":
            message = (
                "use_cache=True is not exact with attention='full': blocks that are full still see "
                "what is written after them; leave it out, or give attention='block_causal'"
            )
            raise ArgumentError(message)
        if logits_hook is not None and attention != "full":
            message = f"logits_hook={logits_hook!r} needs attention='full', not {attention!r}"
            raise ArgumentError(message)
        if threshold is not None and confidence is None:
            message = f"threshold={threshold!r} needs a confidence, such as 'top_prob'"
            raise ArgumentError(message)
        self.order = FillOrder(
            confidence=confidence,
            counts=EvenShare() if threshold is None else DoubtLimit(threshold),
            block_length=block_size,
            noise=confidence_temperature,
        )
        self.tokens = TokenPolicy(temperature=temperature, top_k=top_k, top_p=top_p)
        self.attention, self.use_cache, self.logits_hook = attention, use_cache, logits_hook
        self.block_size = block_size
        self.generate_until = tuple(generate_until or ())
        self.force_fill_max, self.stop_at_eos = force_fill_max, stop_at_eos

    def reader(self, texts: Texts) -> Read:
        """Return how the network reads: whole rows, or no block but those before and its own.

        Raises:
            ArgumentError: A text begins with a mask, or the network cannot keep what it read.
        """
        if bool((texts.is_open & (positions_of(texts.shown) == 0)).any()):
            message = "a text begins with a mask, and there is nothing to begin from; add BOS"
            raise ArgumentError(message)
        if self.attention == "full":
            return super().reader(texts)
        if not self.use_cache:
            return BlockReader(self.model, texts, self.block_size).read
        if not isinstance(self.model, CachingNetwork):
            message = (
                f"{type(self.model).__name__} has no extend and cannot keep what it read; "
                "put a causal language model into a DreamModel, or leave use_cache out"
            )
            raise ArgumentError(message)
        return CachedBlockReader(self.model, texts, self.block_size).read

    def stop_rules(self) -> list[StopRule]:
        """Return those of EOS and of strings, where they are asked for."""
        rules: list[StopRule] = []
        if self.stop_at_eos:
            rules.append(StopAtToken(token_id=self.tokenizer.eos_token_id))
        if self.generate_until:
            rules.append(
                StopAtStrings(
                    strings=self.generate_until,
                    decode=self.tokenizer.decode,
                    force_fill_max=self.force_fill_max,
                )
            )
        return rules

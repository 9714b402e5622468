"""Token after token: the loop behind `generate`."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._model._sampling import check_sampling, sample_logits

# What a step with keys and values from before still is given; all else is the first step's.
_CARRIED = frozenset(
    {"input_ids", "decoder_input_ids", "encoder_outputs", "attention_mask", "position_ids"}
    | {"use_cache"}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, see `sample_logits`."""

    do_sample: bool = True
    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    freq_penalty: float = 0.0
    repetition_penalty: float = 1.0
    generator: torch.Generator | None = None

    def check(self) -> None:
        """Refuse numbers out of their ranges, before anything is computed.

        Raises:
            ArgumentError: (a ValueError) If one is.
        """
        check_sampling(
            top_k=self.top_k,
            top_p=self.top_p,
            temperature=self.temperature,
            freq_penalty=self.freq_penalty,
            repetition_penalty=self.repetition_penalty,
        )

    def draw(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return one token for each row."""
        return sample_logits(
            logits,
            top_k=self.top_k if self.do_sample else None,
            top_p=self.top_p if self.do_sample else None,
            temperature=self.temperature if self.do_sample else 0.0,
            freq_penalty=self.freq_penalty if self.do_sample else 0.0,
            repetition_penalty=self.repetition_penalty,
            tokens=tokens,
            generator=self.generator,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopping:
    """When rows are finished.

    Attributes:
        eos: Tokens that end a row; none if it is empty.
        pad: What finished rows are filled with.
        criteria: Functions of (tokens, logits) that say for each row whether it is finished.
    """

    eos: tuple[int, ...] = ()
    pad: int = 0
    criteria: tuple[Callable[..., Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class DecodedStep:
    """One step.

    Attributes:
        tokens: The tokens drawn, of shape (batch).
        logits: What they were drawn from, of shape (batch, d_vocab).
        is_last: Whether all rows are finished.
    """

    tokens: Tensor
    logits: Tensor
    is_last: bool


def decode(
    forward: Callable[..., Any],
    prompt: dict[str, Tensor],
    *,
    sampling: Sampling,
    stopping: Stopping,
    max_new_tokens: int,
    use_cache: bool,
    closes: bool = False,
) -> Generator[DecodedStep]:
    """Yield one step after another.

    Args:
        forward: Runs the model; is given the step's number and the model's inputs.
        prompt: `input_ids` or `inputs_embeds`, maybe `attention_mask` and `position_ids`, and for
            encoder-decoders `decoder_input_ids`, which grows instead.
        sampling: How to draw.
        stopping: When to stop.
        max_new_tokens: How many steps at most.
        use_cache: Whether keys and values are kept, so that a step computes one position.
        closes: Whether the last token is run as well, for those who want its activations.
    """
    state = _State(prompt, use_cache=use_cache)
    finished = torch.zeros(state.n_rows, dtype=torch.bool, device=state.device)
    eos = torch.tensor(stopping.eos, device=state.device)
    if closes and not max_new_tokens:
        forward(0, **state.inputs())
    for number in range(max_new_tokens):
        output = forward(number, **state.inputs())
        logits = output.logits[:, -1]
        drawn = sampling.draw(logits, state.seen)
        drawn = torch.where(finished, torch.full_like(drawn, stopping.pad), drawn)
        state.append(drawn, output)
        if len(eos):
            finished = finished | torch.isin(drawn, eos)
        for criterion in stopping.criteria:
            finished = finished | torch.as_tensor(criterion(state.seen, logits)).to(finished)
        can_stop = bool(len(eos) or stopping.criteria)
        is_last = number == max_new_tokens - 1 or (can_stop and bool(finished.all()))
        if is_last and closes:
            forward(number + 1, **state.inputs())
        yield DecodedStep(drawn, logits, is_last)
        if is_last:
            return


class _State:
    """What the next forward pass is given."""

    def __init__(self, prompt: dict[str, Tensor], *, use_cache: bool) -> None:
        self._grows = "decoder_input_ids" if "decoder_input_ids" in prompt else "input_ids"
        self._prompt: dict[str, Any] = dict(prompt)
        self._use_cache = use_cache
        self._past: Any = None
        embeds = prompt.get("inputs_embeds")
        first: Tensor = prompt[self._grows] if embeds is None else embeds
        self.n_rows, self.device = first.shape[0], first.device
        # Penalties count the prompt where it is tokens.
        empty = torch.zeros(self.n_rows, 0, dtype=torch.long, device=self.device)
        self.seen = empty if embeds is not None else first
        self._new: list[Tensor] = []

    def inputs(self) -> dict[str, Any]:
        given: dict[str, Any] = {**self._prompt, "use_cache": self._use_cache}
        if self._past is not None:
            # Pictures, say, are in the keys and values of the first step.
            given = {name: held for name, held in given.items() if name in _CARRIED}
            given["past_key_values"] = self._past
            given[self._grows] = self._new[-1][:, None]
        return given

    def append(self, drawn: Tensor, output: Any) -> None:
        self._new.append(drawn)
        self.seen = torch.cat([self.seen, drawn[:, None]], dim=1)
        if self._use_cache:
            self._past = getattr(output, "past_key_values", None)
        self._keep_encoded(output)
        if self._past is None:
            self._prompt[self._grows] = torch.cat(
                [self._prompt[self._grows], drawn[:, None]], dim=1
            )
        if self._grows != "input_ids":
            return
        mask, positions = self._prompt.get("attention_mask"), self._prompt.get("position_ids")
        if mask is not None:
            self._prompt["attention_mask"] = torch.cat([mask, mask.new_ones(self.n_rows, 1)], dim=1)
        if positions is not None:
            following = positions[:, -1:] + 1
            has_past = self._past is not None
            self._prompt["position_ids"] = (
                following if has_past else torch.cat([positions, following], 1)
            )

    def _keep_encoded(self, output: Any) -> None:
        """Run an encoder once: what it gave the first time is handed to the decoder after that."""
        encoded = getattr(output, "encoder_last_hidden_state", None)
        if self._grows == "decoder_input_ids" and encoded is not None:
            self._prompt["encoder_outputs"] = (encoded,)
            self._prompt.pop("input_ids", None)


def stop_tokens(given: Any, *defaults: Any) -> tuple[int, ...]:
    """Return the tokens that end a row: the first that is said, as a tuple."""
    for held in (given, *defaults):
        if held is not None:
            return tuple(held) if isinstance(held, Sequence) else (int(held),)
    return ()

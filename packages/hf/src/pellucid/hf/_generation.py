"""Generated responses, and the likeliest first tokens of one."""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.hf._codec import TextCodec

_N_LOGPROBS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to generate.

    Attributes:
        wanted: Whether to generate at all.
        logits: Whether to keep the logits of each step.
        max_new_tokens: How long a response may grow.
        greedy: Whether to take the likeliest token each time, else to sample as the model's
            generation config says, from torch's default generator.
    """

    wanted: bool
    logits: bool
    max_new_tokens: int
    greedy: bool


class Generated(NamedTuple):
    """Responses of one batch.

    Attributes:
        response_ids: Each response up to and including its end.
        logits: The logits that each of its tokens was chosen from, if they were asked for.
    """

    response_ids: list[Tensor]
    logits: list[Tensor] | None


def generate(
    model: Any,
    prompt: dict[str, Tensor],
    mask: Int[Tensor, "batch pos"],
    decoding: Decoding,
    *,
    pad_id: int,
    end_ids: Sequence[int],
) -> Generated:
    """Let a model answer a left-padded batch of prompts.

    Args:
        model: A model of transformers that generates.
        prompt: `input_ids` or `inputs_embeds`.
        mask: 0 where a prompt is padded.
        decoding: How to choose tokens.
        pad_id: Fills rows up that are done.
        end_ids: The tokens that end a response.
    """
    config = _make_config(model, decoding, pad_id, end_ids)
    result = model.generate(**prompt, attention_mask=mask, generation_config=config)
    new_ids = result.sequences
    if "input_ids" in prompt:
        new_ids = new_ids[:, prompt["input_ids"].shape[1] :]
    lengths = _lengths(new_ids, end_ids)
    logits = torch.stack(result.logits, dim=1) if decoding.logits else None
    return Generated(
        response_ids=[row[:n] for row, n in zip(new_ids, lengths, strict=True)],
        logits=None if logits is None else [r[:n] for r, n in zip(logits, lengths, strict=True)],
    )


def first_token_logprobs(
    logits: Float[Tensor, "batch d_vocab"], codec: TextCodec
) -> list[dict[str, float]]:
    """Return the log-probabilities (nats) of the 20 likeliest tokens by their text.

    The likeliest comes first. Tokens of the same text share one entry: that of either of them.
    """
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    top = logprobs.topk(min(_N_LOGPROBS, logits.shape[-1]), dim=-1)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [_by_text(codec.decode([[i] for i in ids]), values) for ids, values in rows]


def _by_text(texts: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text, value in zip(texts, values, strict=True):
        known = found.get(text)
        # log(exp(a) + exp(b)), a being the larger, as values descend
        found[text] = value if known is None else known + math.log1p(math.exp(value - known))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _make_config(model: Any, decoding: Decoding, pad_id: int, end_ids: Sequence[int]) -> Any:
    config = copy.deepcopy(model.generation_config)
    config.max_new_tokens = decoding.max_new_tokens
    config.output_logits = decoding.logits
    config.max_length = None
    config.pad_token_id = pad_id
    config.eos_token_id = list(end_ids) or None
    config.return_dict_in_generate = True
    config.do_sample = not decoding.greedy
    if decoding.greedy:
        # Set, these would be reported as having no effect.
        config.temperature = config.top_p = config.top_k = None
    return config


def _lengths(ids: Int[Tensor, "batch response_pos"], end_ids: Sequence[int]) -> list[int]:
    ends = torch.isin(ids, torch.tensor(list(end_ids), dtype=ids.dtype, device=ids.device))
    # Everything up to and including the first end counts.
    return ((ends.cumsum(dim=1) - ends.long()) == 0).sum(dim=1).tolist()

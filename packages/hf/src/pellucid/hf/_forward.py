"""The one raw call of a causal language model: nothing is computed that nobody reads."""

import dataclasses
import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Forward:
    """Calls a causal language model of transformers.

    Args:
        model: The model; what its `forward` accepts is looked up once.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted

    def __call__(
        self,
        given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        mask: Int[Tensor, "batch pos"] | None,
        *,
        rows: slice,
        past: Any = None,
        n_past: int = 0,
        keep_cache: bool = False,
        **outputs: bool,
    ) -> Any:
        """Run the model.

        Args:
            given: Token ids, or embeddings.
            mask: 0 where a row is padded, on the left; None if no row is.
            rows: The positions whose logits are wanted; the LM head sees none before them.
            past: A cache of what stands before; it is written to.
            n_past: How many positions that is.
            keep_cache: Whether to return a cache of the input.
            **outputs: `output_hidden_states` and `output_attentions`.

        Returns:
            The model's output; `logits` holds the rows that were asked for.
        """
        arguments: dict[str, Any] = {name: True for name, wanted in outputs.items() if wanted}
        arguments["input_ids" if given.ndim == 2 else "inputs_embeds"] = given
        if mask is not None:
            arguments["attention_mask"] = mask
            if self._takes_positions:
                arguments["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        if past is not None:
            arguments["past_key_values"] = past
            if self._takes_positions:
                n_pos = n_past + given.shape[1]
                arguments["position_ids"] = torch.arange(n_past, n_pos, device=given.device)[None]
        n_last = given.shape[1] - rows.start
        if self._keeps_logits:
            arguments["logits_to_keep"] = n_last
        use_cache = keep_cache or past is not None
        result = self._model(**arguments, use_cache=use_cache, return_dict=True)
        logits = result.logits if self._keeps_logits else result.logits[:, -n_last:]
        result.logits = logits[:, : rows.stop - rows.start]
        if not keep_cache:
            result.past_key_values = None
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a forward pass is to return."""

    full_logits: bool
    prefill: bool
    first_token: bool
    hidden_states: bool
    attentions: bool


def rows_needed(n_pos: int, n_prompt: int, *, all_rows: bool, prefill: bool, first: bool) -> slice:
    """Return the positions whose logits must be computed.

    Args:
        n_pos: The length of the input.
        n_prompt: The length of what stands before the target response.
        all_rows: Whether every position is wanted.
        prefill: Whether those that predict the target response are wanted.
        first: Whether the one that predicts the first token of a response is wanted.
    """
    if all_rows:
        return slice(0, n_pos)
    if prefill:
        return slice(n_prompt - 1, n_pos - 1)
    last = n_prompt - 1 if first else n_pos - 1
    return slice(last, last + 1)


def stack_layers(layers: Any, *, skip: int) -> Tensor | None:
    """Return what a model gives for each layer as one tensor, layers second."""
    return None if layers is None else torch.stack(layers[skip:], dim=1)

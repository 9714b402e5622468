"""The one raw call of a causal language model: nothing is computed that nobody reads."""

import dataclasses
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import HeldStates
from pellucid.hf._taps import Asked, StatesRead, Taps


class Forward:
    """Calls a causal language model of transformers.

    Args:
        model: The model; what its `forward` accepts is looked up once.
        compile_model: Whether to call a version of it that `torch.compile` made.
    """

    def __init__(self, model: Any, *, compile_model: bool = False) -> None:
        self._model: Any = torch.compile(model) if compile_model else model
        accepted = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        # A compiled model is one graph, which hooks would cut up.
        self._taps = None if compile_model else Taps(model)

    def __call__(
        self,
        given: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        mask: Int[Tensor, "batch pos"] | None,
        *,
        rows: slice,
        past: Any = None,
        n_past: int = 0,
        keep_cache: bool = False,
        **outputs: Asked | bool,
    ) -> Any:
        """Run the model.

        Args:
            given: Token ids, or embeddings.
            mask: 0 where a row is padded, on the left; None if no row is.
            rows: The positions whose logits are wanted; the LM head sees none before them.
            past: A cache of what stands before; it is written to.
            n_past: How many positions that is.
            keep_cache: Whether to return a cache of the input.
            **outputs: `output_hidden_states` and `output_attentions`: whether all of them are
                wanted, or what part.

        Returns:
            The model's output; `logits` holds the rows that were asked for, and the insides those
            layers of which a part was asked for. Has no logits if nothing but a part of the insides
            is wanted.
        """
        arguments: dict[str, Any] = {}
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
        n_rows, device = rows.stop - rows.start, given.device
        if self._keeps_logits and n_rows < given.shape[1]:
            # Positions copy what the LM head reads. Of the last so many it would get a view, which
            # torch multiplies text by text: a quarter more time on a CPU.
            arguments["logits_to_keep"] = torch.arange(rows.start, rows.stop, device=device)
        arguments["use_cache"] = keep_cache or past is not None
        asked = {
            name: held.after(n_past) for name, held in outputs.items() if isinstance(held, Asked)
        }
        arguments |= {name: True for name, held in outputs.items() if held and name not in asked}
        result = self._call(arguments, asked)
        if result.logits is None:
            result.logits = torch.empty((len(given), n_rows, 0), device=device)
            return result
        if not self._keeps_logits:
            result.logits = result.logits[:, rows]
        if not keep_cache:
            result.past_key_values = None
        return result

    def _call(self, arguments: dict[str, Any], asked: Mapping[str, Asked]) -> Any:
        """Run the model and read a part of its insides, no further than these if that is all."""
        if not asked:
            return self._model(**arguments, return_dict=True)
        if self._taps is None:
            return self._call_and_cut(arguments, asked)
        states, patterns = (asked.get(f"output_{name}") for name in ("hidden_states", "attentions"))
        whole = [name for name in arguments if name.startswith("output_")]
        stop = not whole and all(held.is_all for held in asked.values())
        with self._taps.reading(states, patterns, stop=stop) as reading:
            if reading is None:
                return self._call_and_cut(arguments, asked)
            try:
                result = self._model(**arguments, return_dict=True)
            except StatesRead:
                result = SimpleNamespace(logits=None, past_key_values=None)
        for name in ("hidden_states", "attentions"):
            if f"output_{name}" in asked:
                setattr(result, name, reading.take(name))
        return result

    def _call_and_cut(self, arguments: dict[str, Any], asked: Mapping[str, Asked]) -> Any:
        result = self._model(**arguments, **dict.fromkeys(asked, True), return_dict=True)
        for name, held in asked.items():
            field = name.removeprefix("output_")
            layers = getattr(result, field)
            setattr(result, field, held.pick(layers[1:] if field == "hidden_states" else layers))
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a forward pass is to return."""

    full_logits: bool
    prefill: bool
    first_token: bool
    hidden_states: bool
    attentions: bool
    held_hidden_states: HeldStates | None = None
    held_attentions: HeldStates | None = None
    activations: tuple[str, ...] = ()

    @property
    def is_activations_only(self) -> bool:
        """Whether nothing is wanted but activations by name."""
        return bool(self.activations) and not (
            self.full_logits
            or self.prefill
            or self.first_token
            or self.hidden_states
            or self.attentions
        )

    def outputs(self) -> dict[str, Any]:
        """Return what `Forward` is to be asked for of the model's insides."""
        is_all = not (self.full_logits or self.prefill or self.first_token)
        pairs = {
            "output_hidden_states": (self.hidden_states, self.held_hidden_states),
            "output_attentions": (self.attentions, self.held_attentions),
        }
        return {
            name: wanted if held is None or not wanted else Asked(held=held, is_all=is_all)
            for name, (wanted, held) in pairs.items()
        }

    def name_insides(self, result: Any) -> dict[str, Any]:
        """Name what a pass returned of the model's insides as losses know it."""
        states, patterns = (getattr(result, n, None) for n in ("hidden_states", "attentions"))
        # First come the embeddings, unless layers were named.
        skip = 1 if self.held_hidden_states is None else 0
        return {
            "full_hidden_states": stack_layers(states, skip=skip),
            "full_attentions": stack_layers(patterns, skip=0),
            "held_hidden_states": self.held_hidden_states if states else None,
            "held_attentions": self.held_attentions if patterns else None,
        }


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

"""What a model makes of the tokens that all inputs of a template begin with, computed once."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pellucid.hf._prefix_views import name_unsharable_layer, view_cache
from pellucid.hf._run_mode import held_in_mode, list_modules, list_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixReport:
    """Whether the beginning of a template is computed once for all candidates.

    Attributes:
        n_tokens: How many tokens stand before the trigger.
        is_shared: Whether the last batch of candidates shared their keys and values.
        reason: Why not; empty if it did.
    """

    n_tokens: int
    is_shared: bool
    reason: str


class SharedPart(NamedTuple):
    """What one forward pass over the rest of an input needs of its prefix.

    Attributes:
        cache: Keys and values for the model to write to, thrown away afterwards.
        n_tokens: How many positions it stands for.
        logits: Of the prefix's last position, or of all that are kept.
        hidden_states: For each layer, of shape (1, pos, d_model), if they are wanted.
    """

    cache: Any
    n_tokens: int
    logits: Float[Tensor, "1 _ d_vocab"]
    hidden_states: tuple[Tensor, ...] | None


class _Run(NamedTuple):
    """A pass over the prefix, and the state of the weights that it was made with."""

    result: Any
    has_all_rows: bool
    has_hidden_states: bool
    weights: tuple[tuple[int, int], ...]


class SharedPrefix:
    """Keeps a prefix's keys and values for one batch row, and lends views of them.

    It is computed when it is first needed, and again when the weights have changed since.

    Args:
        ids: The prefix.
        model: A causal language model of transformers.
        forward: Calls it, see `Forward`.
        count_tokens: Is told of each pass over the prefix how many tokens it took.
    """

    def __init__(
        self,
        ids: Int64[Tensor, " pos"],
        model: Any,
        forward: Callable[..., Any],
        *,
        count_tokens: Callable[[int], None],
    ) -> None:
        self._ids = ids
        self._model = model
        self._forward = forward
        self._count_tokens = count_tokens
        self._run: _Run | None = None
        self._passing_obstacle = "no input has needed it yet"
        self._obstacle = "" if len(ids) else "nothing stands before the trigger"
        self._obstacle = self._obstacle or name_obstacle(model)

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return len(self._ids)

    def replace_ids(self, ids: Int64[Tensor, " pos"]) -> "SharedPrefix":
        """Return the same for other tokens."""
        return SharedPrefix(ids, self._model, self._forward, count_tokens=self._count_tokens)

    @property
    def report(self) -> PrefixReport:
        """Whether the last batch shared it, and why not."""
        reason = self._obstacle or self._passing_obstacle
        return PrefixReport(n_tokens=len(self._ids), is_shared=not reason, reason=reason)

    def share(
        self, batch: int, *, first_row: int, hidden_states: bool, attentions: bool
    ) -> SharedPart | None:
        """Return what a batch needs, or None if it has to be computed whole.

        Args:
            batch: How many inputs there are.
            first_row: The first position of an input whose logits are wanted.
            hidden_states: Whether its hidden states are.
            attentions: Whether attention patterns are, which a cache does not hold.
        """
        modules = list_modules(self._model)
        self._passing_obstacle = _name_passing_obstacle(modules, attentions=attentions)
        if self._obstacle or self._passing_obstacle:
            return None
        run = self._refresh(
            _state_of_weights(modules),
            all_rows=first_row < len(self._ids) - 1,
            hidden_states=hidden_states,
        )
        if self._obstacle:
            return None
        return SharedPart(
            cache=view_cache(run.result.past_key_values, batch),
            n_tokens=len(self._ids),
            logits=run.result.logits,
            hidden_states=run.result.hidden_states if hidden_states else None,
        )

    def _refresh(
        self, weights: tuple[tuple[int, int], ...], *, all_rows: bool, hidden_states: bool
    ) -> _Run:
        """Return the kept pass if it will do, else make one that does all that the kept one did."""
        run = self._run
        if run is not None and run.weights == weights:
            all_rows, hidden_states = (
                all_rows or run.has_all_rows,
                hidden_states or run.has_hidden_states,
            )
            if (all_rows, hidden_states) == (run.has_all_rows, run.has_hidden_states):
                return run
        self._run = _Run(
            self._compute(all_rows=all_rows, hidden_states=hidden_states),
            all_rows,
            hidden_states,
            weights,
        )
        return self._run

    def _compute(self, *, all_rows: bool, hidden_states: bool) -> Any:
        n = len(self._ids)
        with torch.no_grad(), held_in_mode(self._model, train=False):
            result = self._forward(
                self._ids[None],
                None,
                rows=slice(0 if all_rows else n - 1, n),
                keep_cache=True,
                output_hidden_states=hidden_states,
            )
        self._count_tokens(n)
        self._obstacle = name_unsharable_layer(result.past_key_values)
        return result


def complete(result: Any, part: SharedPart, rows: slice) -> Any:
    """Put a prefix's logits and hidden states before those of the rest of the input.

    Args:
        result: The model's output for what follows the prefix.
        part: What the prefix gave.
        rows: The positions whose logits are wanted, counted from the prefix's first.
    """
    n_before = part.n_tokens - rows.start
    if n_before > 0:
        result.logits = _join(part.logits[:, -n_before:], result.logits)
    result.logits = result.logits[:, : rows.stop - rows.start]
    if part.hidden_states is not None:
        pairs = zip(part.hidden_states, result.hidden_states, strict=True)
        result.hidden_states = tuple(_join(before, after) for before, after in pairs)
    return result


def name_obstacle(model: Any) -> str:
    """Say why a model's prefixes cannot be shared, as far as it shows; empty if nothing does."""
    name = type(model).__name__
    accepted = inspect.signature(model.forward).parameters
    if "past_key_values" not in accepted or "use_cache" not in accepted:
        return f"{name}.forward takes no past_key_values"
    if model.config.is_encoder_decoder:
        return f"{name} is an encoder and a decoder"
    if getattr(model, "_is_stateful", False):
        return f"{name} keeps a recurrent state, not keys and values alone"
    return ""


def _name_passing_obstacle(modules: Sequence[nn.Module], *, attentions: bool) -> str:
    """Say why inputs are to be computed whole for now; empty if they need not be."""
    if attentions:
        return "attention patterns are wanted"
    if modules[0].training:
        return "the model is in training mode"
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in list_weights(modules)):
        return "gradients of weights are wanted"
    if any(_is_watched(module) for module in modules):
        return "hooks may read or change positions of the prefix"
    return ""


def _is_watched(module: Any) -> bool:
    if not module._forward_pre_hooks and not module._forward_hooks:
        return False
    # transformers leaves hooks of its own behind where hidden states were asked for.
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


def _state_of_weights(modules: Sequence[nn.Module]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in list_weights(modules)
    )


def _join(before: Tensor, after: Tensor) -> Tensor:
    return torch.cat([before.expand(len(after), *before.shape[1:]), after], dim=1)

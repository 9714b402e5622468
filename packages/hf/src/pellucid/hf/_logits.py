"""Next-token logits of whole inputs, of the trigger, or of what follows it."""

from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    LogitsTokenAccessMixin,
    SliceKey,
    boundary,
    first_places,
)
from pellucid.hf._lm_runs import LanguageModelRuns, prefix_of


class TriggerLogits(LanguageModelRuns, LogitsTokenAccessMixin):
    """A language model whose next-token logits can be read."""

    @boundary
    def compute_logits_from_tokens(
        self,
        candidate_trigger_ids: Int[Tensor, "n_candidates trigger_pos"],
        keep_message_dim: bool = False,
        return_trigger_logits_only: bool = False,
        return_after_trigger_logits_only: bool = False,
    ) -> Float[Tensor, "*n_templates n_candidates pos d_vocab"]:
        """Return next-token logits, averaged over templates unless `keep_message_dim`.

        Args:
            candidate_trigger_ids: Int, of shape (n_candidates, trigger_pos).
            keep_message_dim: Whether to keep the leading axis of templates.
            return_trigger_logits_only: Only the logits that predict the trigger's tokens, where
                each first stands.
            return_after_trigger_logits_only: Only those that predict the token after it, where it
                first stands.

        Raises:
            ArgumentError: (a ValueError) If both restrictions are asked for, if nothing stands
                before the trigger to predict its first token from, if all logits are asked for and
                the templates differ in length, or if a trigger of several parts is asked for that
                has not every part in every template, or what follows it.
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        if return_trigger_logits_only and return_after_trigger_logits_only:
            raise ArgumentError(
                "return_trigger_logits_only and return_after_trigger_logits_only exclude each "
                "other."
            )
        ids = self._check_candidates(candidate_trigger_ids)
        inputs = self._set_token_inputs()
        if return_after_trigger_logits_only and inputs.n_parts > 1:
            raise ArgumentError("what follows a trigger of several parts is not one token.")

        def compute(template_idx: int, rows: slice) -> Tensor:
            held = inputs.get_triggered_inputs(template_idx, ids[rows], decode=False).to_dict()
            places = list(range(held["input_ids"].shape[1]))
            if return_trigger_logits_only:
                slots = held["input_trigger_slots"]
                places = [place - 1 for place in first_places(slots, ids.shape[1])]
            elif return_after_trigger_logits_only:
                places = [held["input_slices"][SliceKey.TRIGGER].stop - 1]
            wanted = _check_rows(slice(min(places), max(places) + 1))
            prefix = prefix_of(held.get("input_prefix_cache_kwargs"))
            logits = self._run(held["input_ids"], None, rows=wanted, prefix=prefix).logits
            if len(places) == logits.shape[1]:
                return logits
            return logits[:, [place - wanted.start for place in places]]

        with self._running(with_grad=False):
            try:
                logits = self._over_templates(compute, len(ids), "_forward_pass_batch_size")
            except RuntimeError as error:
                if "stack expects each tensor to be equal size" not in str(error):
                    raise
                raise ArgumentError(
                    "the templates differ in length, so the logits of all positions have no common "
                    "shape. Ask for those of the trigger, or set one template at a time."
                ) from error
        return logits if keep_message_dim else logits.mean(dim=0)


def _check_rows(rows: slice) -> slice:
    if rows.start < 0:
        raise ArgumentError(
            "nothing stands before the trigger, so nothing predicts its first token. "
            "Put text before the placeholder."
        )
    return rows

"""Laws of triggers given as tokens: encoding, the way back through text, logits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.core import (
    Flow,
    InputsNotSetError,
    InvokeTokenAccessMixin,
    LogitsTokenAccessMixin,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelOutput,
    PellucidError,
    TokenAccessMixin,
    as_tokenizer,
)
from pellucid.testing._laws import expect, expect_close, lack, random_ids, require_access
from pellucid.testing._model_laws import ModelLaws

_N_CANDIDATES = 4
_N_TOKENS = 5


class TokenLaws(ModelLaws):
    """Triggers as token ids.

    Attributes:
        triggers: Texts that are given as triggers.
    """

    triggers: tuple[str, ...] = ("! ! ! !", "red cat", "hello you and the sun")

    def test_encoded_triggers_are_token_ids(self) -> None:
        """A trigger encodes to int64 ids on the CPU, all of them within the vocabulary."""
        model = self._token_model()
        for trigger in self.triggers:
            ids = model.encode_trigger(trigger)
            expect(ids.dtype is torch.int64, f"ids are {ids.dtype}.")
            expect(ids.device.type == "cpu", f"ids lie on {ids.device}.")
            expect(len(ids) > 0, f"{trigger!r} has no tokens.")
            known = bool(((ids >= 0) & (ids < model.vocab_size)).all())
            expect(known, f"{ids.tolist()} are not all within {model.vocab_size} tokens.")

    def test_vocabulary_covers_the_tokenizer(self) -> None:
        """The model can be given every token of its tokenizer."""
        model = self._token_model()
        n_tokens = as_tokenizer(model.tokenizer).vocab_size
        expect(model.vocab_size >= n_tokens, f"{model.vocab_size} rows for {n_tokens} tokens.")

    def test_surviving_triggers_survive(self) -> None:
        """Where `retokenization_mask` is true, decoding and encoding returns the same tokens."""
        model = self._token_model()
        ids = self._any_ids(model)
        mask = model.retokenization_mask(ids)
        expect(mask.device.type == "cpu", f"the mask lies on {mask.device}.")
        expect(bool(mask.any()), "no candidate at all survives decoding and encoding.")
        for row, text in zip(ids[mask], model.decode_triggers(ids[mask]), strict=True):
            again = model.encode_trigger(text)
            expect(torch.equal(again, row), f"{row.tolist()} came back as {again.tolist()}.")

    def test_special_tokens_do_not_survive(self) -> None:
        """A trigger that holds a special token does not mean the same as text."""
        model = self._token_model()
        special = as_tokenizer(model.tokenizer).all_special_ids
        if not special:
            lack(model.tokenizer, "has no special tokens")
        ids = self._any_ids(model)[:1].repeat(len(special), 1)
        ids[:, 1] = torch.tensor(special)
        expect(not bool(model.retokenization_mask(ids).any()), "a special token survives as text.")

    def test_trigger_access_needs_inputs(self) -> None:
        """What depends on the templates is an error before they are set."""
        model = self._model()
        require_access(model, TokenAccessMixin)
        for use in (
            lambda: model.encode_trigger("red"),
            lambda: model.decode_triggers(torch.zeros(1, 1, dtype=torch.int64)),
            lambda: model.retokenization_mask(torch.zeros(1, 1, dtype=torch.int64)),
        ):
            with pytest.raises(InputsNotSetError):
                use()

    def test_token_loss_equals_text_loss(self) -> None:
        """A trigger that survives as text has the same loss in both flows."""
        model = self._model()
        require_access(model, LossTokenAccessMixin, LossTextAccessMixin)
        loss = self._probe(model, Flow.TOKENS)
        if not self._provides_for(model, Flow.TEXTS, loss):
            lack(model, f"does not provide for {type(loss).__name__} in the flow 'texts'")
        self._set_flow(Flow.TOKENS, model)
        self._set_flow(Flow.TEXTS, model)
        ids = self._any_ids(model)
        ids = ids[model.retokenization_mask(ids)]
        if not len(ids):
            lack(model, "has no candidate that survives as text")
        expect_close(
            model.compute_loss_from_texts(model.decode_triggers(ids), loss, True),
            model.compute_loss_from_tokens(ids, loss, True),
            "A trigger has one loss as tokens and another one as text.",
            tolerance=self.tolerance,
        )

    def test_losses_accept_other_integers(self) -> None:
        """Candidates need not be int64, and are not changed."""
        model = self._model()
        require_access(model, LossTokenAccessMixin)
        loss = self._probe(model, Flow.TOKENS)
        subject = self._set_flow(Flow.TOKENS, model)
        ids = subject.make_candidates(_N_CANDIDATES)
        narrow = ids.to(torch.int32)
        before = narrow.clone()
        same = subject.compute(narrow, loss)
        expect(torch.equal(narrow, before), "the candidates were changed.")
        expect_close(same, subject.compute(ids, loss), "int32 differs.", tolerance=self.tolerance)

    def test_raw_token_calls_are_counted(self) -> None:
        """One `invoke_from_tokens` is one forward call over its rows."""
        model = self._token_model(InvokeTokenAccessMixin)
        ids = self._any_ids(model)
        model.reset_usage_stats()
        output = model.invoke_from_tokens(ids)
        stats = model.get_usage_stats()
        expect(isinstance(output, ModelOutput), f"invoke_from_tokens gave {type(output).__name__}.")
        expect(
            (stats["forward_calls"], stats["forward_samples"]) == (1, len(ids)),
            f"one pass over {len(ids)} rows counted as {stats}.",
        )

    def test_logits_have_one_row_for_each_position(self) -> None:
        """The trigger's logits and those after it have the shapes that their names promise."""
        model, ids = self._logit_model()
        n_templates, n_vocab = len(self.templates), model.vocab_size
        for flag, n_pos in (
            ("return_trigger_logits_only", ids.shape[1]),
            ("return_after_trigger_logits_only", 1),
        ):
            kept = model.compute_logits_from_tokens(ids, keep_message_dim=True, **{flag: True})
            wanted = (n_templates, len(ids), n_pos, n_vocab)
            expect(kept.shape == wanted, f"{flag}: {tuple(kept.shape)}, expected {wanted}.")
            expect(not kept.requires_grad, "logits carry a graph.")
            expect_close(
                model.compute_logits_from_tokens(ids, **{flag: True}),
                kept.mean(dim=0),
                f"{flag}: logits are not the mean over templates.",
                tolerance=self.tolerance,
            )

    def test_logits_do_not_see_what_they_predict(self) -> None:
        """The trigger's logits depend on the tokens before them, those after it on the last."""
        model, ids = self._logit_model()
        changed = ids.clone()
        changed[:, -1] = ids[:, -1].roll(1)
        flags: tuple[Any, ...] = ("return_trigger_logits_only", "return_after_trigger_logits_only")
        ours, theirs = (
            [model.compute_logits_from_tokens(held, **{flag: True}) for flag in flags]
            for held in (ids, changed)
        )
        expect_close(
            ours[0],
            theirs[0],
            "Logits that predict the trigger depend on its last token.",
            tolerance=self.tolerance,
        )
        expect(not torch.allclose(ours[1], theirs[1]), "logits after the trigger ignore its last.")

    def test_both_parts_of_logits_are_refused(self) -> None:
        """One cannot ask for the trigger's logits alone and for those after it alone."""
        model, ids = self._logit_model()
        with pytest.raises(PellucidError):
            model.compute_logits_from_tokens(
                ids, return_trigger_logits_only=True, return_after_trigger_logits_only=True
            )

    def _logit_model(self) -> tuple[Any, Tensor]:
        model = self._token_model(LogitsTokenAccessMixin)
        return model, self._any_ids(model)[:_N_CANDIDATES]

    def _token_model(self, access: type = TokenAccessMixin) -> Any:
        """Return the model with inputs set from tokens."""
        model = self._model()
        require_access(model, access)
        model.set_inputs_from_tokens(list(self.templates), self.make_targets(model))
        return model

    def _any_ids(self, model: Any) -> Tensor:
        """Return triggers, random ones and spelt ones, of which some survive as text."""
        tokenizer = as_tokenizer(model.tokenizer)
        special = set(tokenizer.all_special_ids)
        printable = {
            i
            for i in range(tokenizer.vocab_size)
            if i not in special and tokenizer.decode([i]).strip().isalnum()
        }
        spelt = [[i for c in text for i in tokenizer.encode(c)] for text in self.triggers]
        rows = [row[:_N_TOKENS] for row in spelt if len(row) >= _N_TOKENS]
        return torch.cat([random_ids(printable, 64, _N_TOKENS), torch.tensor(rows)])

"""A run's questions to the model: what candidates cost, and which substitutions promise most."""

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pellucid.core import (
    ArgumentError,
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    Flow,
    LossResolutionError,
    LossTextAccessMixin,
    Substitutions,
    Targets,
    Template,
    TokenAccessMixin,
    TriggerTokens,
    as_tokenizer,
    highest_part,
    replace_nan,
)
from pellucid.optimizers._constraints import TokenConstraints
from pellucid.optimizers._nearest import find_nearest
from pellucid.optimizers._questions import Question, question
from pellucid.optimizers._retokenization import keep_length


class Problem:
    """Templates, targets and a loss, asked about through one flow of a model.

    Everything that goes in and comes out lies on the CPU.

    Args:
        model: The model; it has the access that the flow needs.
        loss: The loss.
        flow: Whether candidates are given as token ids, as their embeddings or as text.
        tokenizer: Encodes and decodes triggers in the flow of texts.
        auxiliary: Questions about the same templates to other models, a proxy say, by name.

    Attributes:
        ask: Where questions are put, if not to the model at once; see `put_through`.
        asked: The problem that those questions are about.
        focus: The templates that count, if questions are put elsewhere, and not all do.
        part_lengths: How many tokens each part of the trigger has, if it has several.
    """

    ask: Callable[[Question], Any] | None = None
    asked: "Problem | None" = None
    focus: tuple[int, ...] | None = None
    part_lengths: tuple[int, ...] | None = None

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        *,
        flow: Flow,
        tokenizer: BaseTokenizer | None = None,
        auxiliary: "Mapping[str, Problem] | None" = None,
    ) -> None:
        self.model: Any = model
        self.loss = loss
        self.flow = flow
        self.auxiliary = dict(auxiliary or {})
        self._tokenizer: Any = tokenizer
        self._allowed: dict[TokenConstraints, Tensor] = {}
        self._inputs: tuple[Sequence[Template], Targets | None] = ([], None)
        self._part_tokens: Any = self._make_part_tokens([])

    def put_through(self, ask: Callable[[Question], Any]) -> "Problem":
        """Return the same problem, whose questions are answered elsewhere.

        Args:
            ask: Is given each question, and returns its answer.
        """
        through = copy.copy(self)
        through.ask, through.asked = ask, self
        through.auxiliary = {
            name: problem.put_through(ask) for name, problem in self.auxiliary.items()
        }
        return through

    def set_inputs(self, templates: Sequence[Template], targets: Targets | None) -> None:
        """Hand the templates to the model, as text, too, where it takes text."""
        self._inputs = (templates, targets)
        if self._takes_ids:
            self.model.set_inputs_from_tokens(templates, targets)
        if isinstance(self.model, LossTextAccessMixin):
            self.model.set_inputs_from_texts(templates, targets)
        self._part_tokens = self._make_part_tokens(templates)
        for problem in self.auxiliary.values():
            problem.set_inputs(templates, targets)
        if self.part_lengths is not None:
            self._arrange_parts(self.part_lengths)

    def hold_parts(self, trigger: str) -> None:
        """Hold the parts of the trigger, if it has several, to the lengths of those of a text.

        Raises:
            ArgumentError: If a part has no tokens.
        """
        if highest_part(self._inputs[0]) < 2:
            return
        lengths = tuple(len(ids) for ids in self._encode_parts(trigger))
        if 0 in lengths:
            raise ArgumentError(
                f"part {lengths.index(0) + 1} of the initial trigger {trigger!r} has no tokens. "
                "Give each at least one; its length is the length of the parts searched."
            )
        self._arrange_parts(lengths)

    def check_length(self, n_tokens: int) -> None:
        """Refuse triggers of so many tokens, if they are too long for the model.

        Raises:
            TemplateError: If they are.
        """
        if self._takes_ids:
            self.model.check_trigger_length(n_tokens)

    def _encode_parts(self, trigger: str) -> list[Int64[Tensor, " _"]]:
        if self._takes_ids:
            return self.model.encode_trigger_parts(trigger)
        return self._part_tokens.encode_parts(trigger)

    def _arrange_parts(self, lengths: tuple[int, ...]) -> None:
        self.part_lengths = lengths
        if self._takes_ids:
            self.model.arrange_parts(lengths)
        else:
            self._part_tokens.arrange_parts(lengths)
        for problem in self.auxiliary.values():
            problem._arrange_parts(lengths)

    @contextmanager
    def focus_on(self, rows: Sequence[int] | None) -> Generator[None]:
        """Let nothing but some of the templates count, until the context is left.

        Args:
            rows: Which templates, counted from 0; all when None.
        """
        if rows is None:
            yield
            return
        if self.ask is not None:
            yield from self._focus_questions(rows)
            return
        templates, targets = self._inputs
        chosen = None if targets is None else targets.select_indices(rows)
        self.set_inputs([templates[row] for row in rows], chosen)
        try:
            yield
        finally:
            self.set_inputs(templates, targets)

    def _focus_questions(self, rows: Sequence[int]) -> Generator[None]:
        # The model is shared with others, and is held to these templates question by question.
        problems = (self, *self.auxiliary.values())
        for problem in problems:
            problem.focus = tuple(rows)
        try:
            yield
        finally:
            for problem in problems:
                problem.focus = None

    @property
    def n_templates(self) -> int:
        """The number of templates that count."""
        return len(self._inputs[0] if self.focus is None else self.focus)

    def encode(self, trigger: str) -> Int64[Tensor, " trigger_pos"]:
        """Return a trigger's token ids."""
        source = self.model if self._takes_ids else self._part_tokens
        return source.encode_trigger(trigger).cpu()

    def decode(self, candidates: Int64[Tensor, "n_candidates trigger_pos"]) -> list[str]:
        """Return each candidate as text."""
        source = self.model if self._takes_ids else self._part_tokens
        return source.decode_triggers(candidates)

    @question()
    def survives(
        self, candidates: Int64[Tensor, "n_candidates trigger_pos"]
    ) -> Bool[Tensor, " n_candidates"]:
        """Say which candidates are the same tokens again once they have been text.

        As tokens they must be so in the templates; as text, where the templates are not known as
        tokens, on their own.
        """
        if self._takes_ids:
            return self.model.retokenization_mask(candidates).cpu()
        return self._part_tokens.retokenization_mask(candidates)

    def retokenize(
        self, candidates: Int64[Tensor, "n_candidates trigger_pos"]
    ) -> Int64[Tensor, "n_candidates trigger_pos"]:
        """Return the tokens that each candidate's text has, cut off or filled up to its length.

        So with each part, where the trigger has several.
        """
        if self.part_lengths is None:
            return keep_length(candidates, self.recode(candidates))
        source = (
            self.model.encode_trigger_parts if self._takes_ids else self._part_tokens.encode_parts
        )
        again = [[ids.tolist() for ids in source(text)] for text in self.decode(candidates)]
        columns = candidates.split(self.part_lengths, dim=1)
        kept = [keep_length(old, [row[i] for row in again]) for i, old in enumerate(columns)]
        return torch.cat(kept, dim=1)

    def recode(self, candidates: Int64[Tensor, "n_candidates trigger_pos"]) -> list[list[int]]:
        """Return the tokens that each candidate's text has, as many as they are."""
        return [self.encode(text).tolist() for text in self.decode(candidates)]

    def allowed_ids(self, constraints: TokenConstraints) -> Int64[Tensor, " n_allowed"]:
        """Return the tokens that constraints admit, int64, ascending; computed once a run."""
        if constraints not in self._allowed:
            own = self._takes_ids
            tokenizer = as_tokenizer(self.model.tokenizer) if own else self._tokenizer
            n_ids = self.model.vocab_size if own else None
            self._allowed[constraints] = constraints.get_whitelist_ids(tokenizer, n_ids)
        return self._allowed[constraints]

    @question(can_wait=True)
    def compute_losses(
        self, candidates: Int64[Tensor, "n_candidates trigger_pos"]
    ) -> Float[Tensor, " n_candidates"]:
        """Return each candidate's loss, the mean over templates, NaN made +inf.

        Candidates that occur twice are computed once.
        """
        unique, places = torch.unique(candidates, dim=0, return_inverse=True)
        if self.flow is Flow.TOKENS:
            losses = self.model.compute_loss_from_tokens(unique.to(self.model.device), self.loss)
        elif self.flow is Flow.EMBEDS:
            _, losses = self.differentiate_at_embeds(self.embed(unique))
        else:
            losses = self.model.compute_loss_from_texts(self.decode(unique), self.loss)
        return replace_nan(losses.float().cpu())[places]

    @question(alone=lambda arguments: arguments["average"])
    def compute_topk(
        self,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        k: int,
        allowed_ids: Int64[Tensor, " n_allowed"],
        *,
        average: bool = False,
        normalize: bool = False,
    ) -> Substitutions:
        """Return, for each position, the k allowed tokens of lowest gradient.

        Args:
            candidates: Triggers, int64, of shape (n_candidates, trigger_pos).
            k: How many tokens to return for a position.
            allowed_ids: The tokens to choose from, ascending.
            average: Whether to take the candidates' mean gradient.
            normalize: Whether to scale each position's gradient to length 1 before that.
        """
        found = self.model.compute_topk_from_tokens(
            self.loss,
            candidates.to(self.model.device),
            k,
            allowed_ids,
            average=average,
            normalize=normalize,
        )
        return Substitutions(found.token_ids.cpu(), found.scores.cpu())

    @question(alone=lambda _: True)
    def differentiate_at_tokens(
        self,
        candidates: Int64[Tensor, "n_candidates trigger_pos"],
        allowed_ids: Int64[Tensor, " n_allowed"],
    ) -> Float[Tensor, "trigger_pos n_allowed"]:
        """Return the candidates' mean gradient, float32, each position scaled to length 1 before.

        Args:
            candidates: Triggers, one after the other, so that one gradient is held at a time.
            allowed_ids: The tokens to return it for.
        """
        device = self.model.device
        columns = allowed_ids.to(device)
        total = torch.zeros(candidates.shape[1], len(allowed_ids))
        for row in candidates:
            grad = self.model.compute_grad_from_tokens(self.loss, row[None].to(device))[0].float()
            total += torch.nn.functional.normalize(grad, dim=-1)[..., columns].cpu()
        return total / len(candidates)

    @question()
    def differentiate_at_probs(
        self,
        probs: Float[Tensor, "n_candidates trigger_pos n_allowed"],
        allowed_ids: Int64[Tensor, " n_allowed"],
    ) -> Float[Tensor, "n_candidates trigger_pos n_allowed"]:
        """Return the gradient with regard to weights of tokens, float32.

        Args:
            probs: Weights of the allowed tokens at each position; all others have none.
            allowed_ids: Which tokens these are.
        """
        device = self.model.device
        columns = allowed_ids.to(device)
        weights = torch.zeros(*probs.shape[:2], self.model.vocab_size, device=device)
        weights[..., columns] = probs.float().to(device)
        grads = self.model.compute_grad_from_tokens(self.loss, candidate_trigger_probs=weights)
        return grads[..., columns].float().cpu()

    @question()
    def differentiate_at_embeds(
        self, embeds: Float[Tensor, "n_candidates trigger_pos d_model"]
    ) -> tuple[Float[Tensor, "n_candidates trigger_pos d_model"], Float[Tensor, " n_candidates"]]:
        """Return the gradient with regard to embeddings, and the losses there, float32."""
        grads, losses = self.model.compute_grad_from_embeds(
            self.loss, embeds.to(self.model.device), return_loss=True
        )
        return grads.float().cpu(), replace_nan(losses.float().cpu())

    def embed(
        self, token_ids: Int64[Tensor, "*shape trigger_pos"]
    ) -> Float[Tensor, "*shape trigger_pos d_model"]:
        """Return the embeddings of tokens, float32."""
        table = self.model.embedding_matrix
        return table[token_ids.to(table.device)].detach().float().cpu()

    def find_nearest(
        self,
        vectors: Float[Tensor, "trigger_pos d_model"],
        allowed_ids: Int64[Tensor, " n_allowed"],
    ) -> Int64[Tensor, " trigger_pos"]:
        """Return for each vector the allowed token of the greatest cosine similarity."""
        table = self.model.embedding_matrix.detach()
        device = table.device
        return find_nearest(vectors.to(device), table, allowed_ids.to(device)).cpu()

    def verify(self, trigger_ids: Int64[Tensor, " trigger_pos"]) -> tuple[float | None, int | None]:
        """Recompute a trigger's loss from text.

        Returns:
            The loss, None where the model or the loss does not work on text; and the number of
            tokens that differ between the trigger given as text and as it was optimized.
        """
        if not isinstance(self.model, LossTextAccessMixin):
            return None, None
        (text,) = self.decode(trigger_ids[None])
        try:
            loss = float(self.model.compute_loss_from_texts([text], self.loss)[0])
        except LossResolutionError:
            # The loss reads what exists in the flow of tokens alone, attention patterns say.
            return None, None
        if isinstance(self.model, TokenAccessMixin) and self._takes_ids:
            return loss, self.model.tokenization_gap(trigger_ids)
        return loss, None

    def _make_part_tokens(self, templates: Sequence[Template]) -> TriggerTokens | None:
        if self._tokenizer is None:
            return None
        return TriggerTokens(self._tokenizer, highest_part(templates))

    @property
    def _takes_ids(self) -> bool:
        return self.flow is not Flow.TEXTS

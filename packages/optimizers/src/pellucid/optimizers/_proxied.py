"""Searches that a second model, a proxy, guides."""

from typing import Any

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    BaseTracker,
    Flow,
    LossTextAccessMixin,
    RequirementError,
    as_tokenizer,
)
from pellucid.optimizers._asktell import SearchOptimizer
from pellucid.optimizers._problem import Problem
from pellucid.optimizers._protocol import StateT
from pellucid.optimizers._roles import check_role, choose_flow, has_same_tokens
from pellucid.optimizers._tokenizers import find_tokenizer


class ProxiedSearch(SearchOptimizer[StateT]):
    """A search whose candidates a proxy proposes or ranks, and the target judges.

    Triggers are made of the proxy's tokens. The target is given token ids where it knows the same
    tokens, and text otherwise.

    Args:
        model: The target; gives losses of texts.
        loss: What to lower on the target.
        tracker: Where to record.
        seed: Makes a run repeatable.
        num_steps: Steps of a run.
        proxy_model: The proxy; the target itself when omitted.
        proxy_loss: What the proxy computes; `loss` when omitted.
        proxy_access: The access mixins that the proxy must have; none if it is not asked.
        tokenizer: What triggers are made of; the proxy's or the target's own when omitted.

    Raises:
        RequirementError: If a model lacks an access, if there is no tokenizer, or if the proxy has
            another one than is given.
    """

    model_requirements = (LossTextAccessMixin,)

    def __init__(
        self,
        model: BaseModel,
        loss: BaseLoss,
        tracker: BaseTracker | None = None,
        seed: int | None = None,
        *,
        num_steps: int,
        proxy_model: BaseModel | None,
        proxy_loss: BaseLoss | None,
        proxy_access: tuple[type, ...],
        tokenizer: Any,
    ) -> None:
        super().__init__(model, loss, tracker, seed, num_steps=num_steps)
        name = type(self).__name__
        self.proxy_model = proxy_model
        self.proxy_loss = proxy_loss or loss
        self._asked = model if proxy_model is None else proxy_model
        self._has_proxy = bool(proxy_access)
        if self._has_proxy:
            check_role(f"the proxy of {name}", self._asked, self.proxy_loss, proxy_access)
        self._tokenizer = find_tokenizer(tokenizer, self._asked, needed_by=name)
        self._flow = choose_flow(name, model, self._tokenizer, loss)
        if self._has_proxy:
            _check_tokenizer(name, self._asked, self._tokenizer)

    def trigger_tokenizer(self) -> BaseTokenizer:
        """Return the tokenizer of triggers."""
        return self._tokenizer

    def make_problem(self) -> Problem:
        """Return the questions to the target, with those to the proxy beside them."""
        proxies = {"proxy": Problem(self._asked, self.proxy_loss, flow=Flow.TOKENS)}
        return Problem(
            self.model,
            self.loss,
            flow=self._flow,
            tokenizer=self._tokenizer,
            auxiliary=proxies if self._has_proxy else None,
        )


def _check_tokenizer(name: str, proxy: Any, tokenizer: BaseTokenizer) -> None:
    if not has_same_tokens(as_tokenizer(proxy.tokenizer), tokenizer):
        raise RequirementError(
            f"{name} makes triggers of the tokens of {tokenizer.name_or_path!r}, and its proxy "
            f"{proxy.get_model_name()!r} knows those of "
            f"{as_tokenizer(proxy.tokenizer).name_or_path!r}. Leave tokenizer= out, or use a proxy "
            "of that tokenizer."
        )

"""Models beside the target: what each must offer, and how triggers reach it."""

from typing import Any

from pellucid.core import (
    BaseLoss,
    BaseModel,
    BaseTokenizer,
    Flow,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    RequirementError,
    as_tokenizer,
    check_compatibility,
)


def check_role(
    role: str, model: Any, loss: BaseLoss | None, requirements: tuple[type, ...]
) -> None:
    """Refuse a model that cannot play a role.

    Args:
        role: What the message calls it, such as "the proxy of GCGPlusOptimizer".
        model: The model.
        loss: The loss it computes, if any.
        requirements: The access mixins that the role needs.

    Raises:
        RequirementError: If it is no model, or lacks an access or a field that the loss reads;
            `NotDifferentiableError` if gradients are needed and the loss has none.
    """
    if not isinstance(model, BaseModel):
        raise RequirementError(f"{role} must be a BaseModel, got {type(model).__name__}.")
    part = type(role, (), {"model_requirements": requirements})
    check_compatibility(model, part, loss).raise_if_incompatible()


def choose_flow(
    owner: str, model: BaseModel, tokenizer: BaseTokenizer, loss: BaseLoss | None = None
) -> Flow:
    """Return how triggers of a tokenizer's tokens are evaluated by a model.

    As token ids where the model has the same tokenizer, and the loss reads nothing that exists for
    texts alone; as text otherwise.

    Args:
        owner: The optimizer that the error names.
        model: The model.
        tokenizer: What triggers are made of.
        loss: What the model computes, if that is known.

    Raises:
        RequirementError: If the model has another tokenizer, and takes no text.
    """
    takes_text = isinstance(model, LossTextAccessMixin)
    if isinstance(model, LossTokenAccessMixin) and has_same_tokens(
        as_tokenizer(model.tokenizer), tokenizer
    ):
        by_ids = not takes_text or _is_computed_from(LossTokenAccessMixin, model, loss)
        return Flow.TOKENS if by_ids else Flow.TEXTS
    if takes_text:
        return Flow.TEXTS
    raise RequirementError(
        f"{owner} makes triggers of the tokens of {tokenizer.name_or_path!r}, which "
        f"{model.get_model_name()!r} does not know, and it takes no text. Use models of one "
        "tokenizer, or one that takes text."
    )


def _is_computed_from(access: type, model: BaseModel, loss: BaseLoss | None) -> bool:
    part = type("Flow", (), {"model_requirements": (access,)})
    return check_compatibility(model, part, loss).compatible


def has_same_tokens(one: BaseTokenizer, other: BaseTokenizer) -> bool:
    """Say whether token ids mean the same to two tokenizers, whatever they are called."""
    if one == other:
        return True
    if one.vocab_size != other.vocab_size:
        return False
    if set(one.all_special_ids) != set(other.all_special_ids):
        return False
    # Tokenizers without a name are equal to themselves alone, and a wrapper is made anew each time.
    tables = [_find_vocabulary(tokenizer) for tokenizer in (one, other)]
    if None not in tables:
        return tables[0] == tables[1]
    ids = [[i] for i in range(one.vocab_size)]
    return one.batch_decode(ids) == other.batch_decode(ids)


def _find_vocabulary(tokenizer: BaseTokenizer) -> dict[str, int] | None:
    get_vocab = getattr(getattr(tokenizer, "wrapped", None), "get_vocab", None)
    return None if get_vocab is None else get_vocab()

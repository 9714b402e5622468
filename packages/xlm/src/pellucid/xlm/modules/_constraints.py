"""What a sampler must never do."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from pellucid.core import ArgumentError, RequirementError

_SPECIAL = ("pad", "cls", "mask", "eos", "bos", "sep", "unk")


@dataclass(frozen=True, eq=False)
class TokenConstraints:
    """The tokens that may not be emitted, the positions that may not change, the longest text.

    Samplers take tokens only through `restrict` and write them only through `write`: so a prompt
    cannot be altered and a mask cannot be emitted, whatever the network says.

    Attributes:
        forbidden_ids: Token ids that are never emitted.
        frozen: Positions that keep their token, in each row; none if None.
        max_length: The most tokens that a text may have, prompt included; no limit if None.
    """

    forbidden_ids: tuple[int, ...]
    frozen: Bool[Tensor, "batch pos"] | None = None
    max_length: int | None = None

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, *, allowed: Collection[str] = (), max_length: int | None = None
    ) -> "TokenConstraints":
        """Forbid the special tokens of a tokenizer, except those allowed by name, such as "eos".

        Raises:
            ArgumentError: An allowed name is no special token, or is the mask.
            RequirementError: The tokenizer lacks a special token that is allowed.
        """
        unknown = set(allowed) - set(_SPECIAL) | ({"mask"} & set(allowed))
        if unknown:
            message = f"{sorted(unknown)!r} cannot be allowed; choose among pad, cls, eos, bos, sep"
            raise ArgumentError(message)
        ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in _SPECIAL}
        lacking = [name for name in allowed if ids[name] is None]
        if lacking:
            message = f"the tokenizer has no {lacking!r} token, which this sampler needs; add it"
            raise RequirementError(message)
        kept = {ids[name] for name in allowed}
        forbidden = {found for found in ids.values() if found is not None} - kept
        return cls(forbidden_ids=tuple(sorted(forbidden)), max_length=max_length)

    def with_frozen(self, frozen: Bool[Tensor, "batch pos"]) -> "TokenConstraints":
        """Return the same constraints for a batch whose given positions are known."""
        return TokenConstraints(self.forbidden_ids, frozen, self.max_length)

    def keep_rows(self, kept: Bool[Tensor, " batch"]) -> "TokenConstraints":
        """Return the constraints of some rows of the batch."""
        return self if self.frozen is None else self.with_frozen(self.frozen[kept])

    def restrict(self, logits: Float[Tensor, "*shape d_vocab"]) -> Float[Tensor, "*shape d_vocab"]:
        """Return the logits with minus infinity for what may not be emitted."""
        if not self.forbidden_ids:
            return logits
        forbidden = torch.tensor(self.forbidden_ids, device=logits.device)
        return logits.index_fill(-1, forbidden, -torch.inf)

    def write(
        self,
        ids: Integer[Tensor, "batch pos"],
        tokens: Integer[Tensor, "batch pos"],
        where: Bool[Tensor, "batch pos"],
    ) -> Integer[Tensor, "batch pos"]:
        """Return the ids with tokens put where that is asked for and nothing is frozen.

        Raises:
            ArgumentError: A token to be put there is forbidden.
        """
        if self.frozen is not None:
            where = where & ~self.frozen
        forbidden = torch.tensor(self.forbidden_ids, device=tokens.device, dtype=tokens.dtype)
        if bool((torch.isin(tokens, forbidden) & where).any()):
            message = (
                "a forbidden token was to be written; take tokens from logits "
                f"that went through restrict, which forbids {self.forbidden_ids!r}"
            )
            raise ArgumentError(message)
        return torch.where(where, tokens, ids)

    def room(self, length: int) -> int | None:
        """Return how many tokens a text of that length may still grow by; None without limit."""
        return None if self.max_length is None else max(0, self.max_length - length)

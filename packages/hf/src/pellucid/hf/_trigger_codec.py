"""Reads and writes triggers as they stand in their templates."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

from pellucid.core import ArgumentError, TemplateError, count_differing
from pellucid.hf._codec import TextCodec
from pellucid.hf._slot import Slot, inner_ids

Consistency: TypeAlias = Literal["none", "trigger", "full"]
"""How far a candidate must mean the same as text.

"none": not at all. "trigger": its own text has the same tokens. "full": the whole input has, in
every template.
"""


def check_consistency(level: str) -> Consistency:
    """Return a level, if it is one.

    Raises:
        ArgumentError: (a ValueError) If it is none of "none", "trigger" and "full".
    """
    if level not in get_args(Consistency):
        raise ArgumentError(f"consistency must be none, trigger or full, got {level!r}.")
    return cast("Consistency", level)


class TriggerCodec:
    """Translates triggers between text and token ids, the templates around them considered.

    One list of token ids must serve all templates. Where a template would have a trigger's first
    token otherwise than most others do (after a space, or at the beginning of a line), the two
    flows cannot agree on it. With "full" that is an error; else it is named in `disagreements`, and
    the others decide how triggers are read and written.

    Args:
        codec: Encodes and decodes.
        slots: The place of the trigger in each template.
        probes: The texts that `slots` were located with.
        consistency: How strict `accepts` is.

    Raises:
        TemplateError: (a ValueError) If templates disagree, and "full" is asked for.
    """

    def __init__(
        self,
        codec: TextCodec,
        slots: Sequence[Slot],
        probes: Sequence[str],
        *,
        consistency: Consistency = "full",
    ) -> None:
        self._codec = codec
        self._consistency = consistency
        groups = _group_slots(slots)
        self._slot = slots[groups[0][0]]
        self._slots = slots
        self.disagreements = _describe_disagreements(slots, groups)
        if self.disagreements and consistency == "full":
            raise TemplateError(
                f"{self.disagreements[0]} Or do without the guarantee that a trigger works when it "
                "is typed: consistency='trigger'."
            )
        self._n_context, self._lead = self._choose_decoding(probes)

    def encode(self, trigger: str) -> list[int]:
        """Return a trigger's token ids as they stand in the templates.

        Where they merge with the template's, those of the trigger alone are returned.
        """
        slot = self._slot
        (whole,) = self._codec.encode(slot.rendered.fill([trigger]))
        inner = inner_ids(whole, slot.before_ids, slot.after_ids)
        return list(inner) if inner is not None else self._codec.encode([trigger])[0]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that, filled into the templates, stand for these token ids."""
        return self._decode_with(rows, self._n_context, self._lead)

    def accepts(self, rows: Sequence[list[int]]) -> list[bool]:
        """Say which triggers mean the same as text, as strictly as was asked for."""
        if self._consistency == "none":
            return [True] * len(rows)
        if self._consistency == "trigger":
            again = self._codec.encode(self._codec.decode(rows, skip_special=True))
            return [a == b for a, b in zip(rows, again, strict=True)]
        texts = self.decode(rows)
        accepted = list(range(len(rows)))
        for slot in self._slots:
            accepted = self._keep_consistent(slot, rows, texts, accepted)
        kept = set(accepted)
        return [i in kept for i in range(len(rows))]

    def count_gap(self, row: Sequence[int]) -> int:
        """Return how many tokens differ once a trigger is text, in the template where most do."""
        (text,) = self.decode([row])
        return max(self._count_gap_in(slot, row, text) for slot in self._slots)

    def _count_gap_in(self, slot: Slot, row: Sequence[int], text: str) -> int:
        (whole,) = self._codec.encode(slot.rendered.fill([text]))
        return count_differing([*slot.before_ids, *row, *slot.after_ids], whole)

    def _keep_consistent(
        self, slot: Slot, rows: Sequence[list[int]], texts: Sequence[str], indices: Sequence[int]
    ) -> list[int]:
        before, after = list(slot.before_ids), list(slot.after_ids)
        wholes = self._codec.encode(slot.rendered.fill([texts[i] for i in indices]))
        pairs = zip(indices, wholes, strict=True)
        return [i for i, whole in pairs if whole == before + rows[i] + after]

    def _choose_decoding(self, probes: Sequence[str]) -> tuple[int, str]:
        """Find out how tokens must be decoded for the probes to come back as they were."""
        before = self._slot.rendered.before
        leads = ["", before[-1]] if before[-1:].isspace() else [""]
        known = [
            (p, i) for p, i in zip(probes, self._slot.probed_ids, strict=True) if i is not None
        ]
        options = [(n, lead) for n in (0, 1, 4) for lead in leads]

        def count_matches(option: tuple[int, str]) -> int:
            texts = self._decode_with([ids for _, ids in known], *option)
            return sum(text == probe for text, (probe, _) in zip(texts, known, strict=True))

        return max(options, key=count_matches)

    def _decode_with(self, rows: Sequence[Sequence[int]], n_context: int, lead: str) -> list[str]:
        special = self._codec.special_ids
        context = list(self._slot.before_ids[-n_context:]) if n_context else []
        # A special token within a trigger is not text: it is left out, and the row is not accepted.
        full = [[*context, *(i for i in row if i not in special)] for row in rows]
        shown = self._codec.decode([context])[0] if context else ""
        texts = [text.removeprefix(shown) for text in self._codec.decode(full)]
        return [text.removeprefix(lead) for text in texts]


def _group_slots(slots: Sequence[Slot]) -> list[list[int]]:
    """Group templates that give most probes the same tokens; the largest group comes first."""
    groups: list[list[int]] = []
    for i, slot in enumerate(slots):
        home = next((group for group in groups if _agree(slots[group[0]], slot)), None)
        if home is None:
            groups.append([i])
        else:
            home.append(i)
    return sorted(groups, key=len, reverse=True)


def _agree(one: Slot, other: Slot) -> bool:
    pairs = zip(one.probed_ids, other.probed_ids, strict=True)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return 2 * sum(a == b for a, b in both) > len(both)


def _describe_disagreements(slots: Sequence[Slot], groups: list[list[int]]) -> tuple[str, ...]:
    reference = slots[groups[0][0]].rendered.before[-20:]
    return tuple(
        f"template {i}: a trigger has other tokens after {slots[i].rendered.before[-20:]!r} than "
        f"after {reference!r} (template {groups[0][0]}), so its text here differs from its tokens "
        "by the space before it. Let the same kind of space stand before every placeholder."
        for group in groups[1:]
        for i in sorted(group)
    )

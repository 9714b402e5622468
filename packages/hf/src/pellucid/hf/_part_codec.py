"""Reads and writes one part of a trigger as it stands in its places."""

from collections.abc import Sequence
from typing import NamedTuple

from pellucid.hf._codec import TextCodec
from pellucid.hf._slot import LocatedTemplate, Slot, find_spans, inner_ids


class Place(NamedTuple):
    """One place of a part.

    Attributes:
        template_idx: In which template, counted from 0.
        slot_idx: Which of the template's places, counted from 0.
        slot: What is known of it.
    """

    template_idx: int
    slot_idx: int
    slot: Slot


class PartCodec:
    """Translates one part, or a trigger that has no parts, between text and token ids.

    One list of token ids must serve all places. Where a part's first token would be another in some
    place than in most others, those most decide; the others are named in `disagreements`.

    Args:
        codec: Encodes and decodes.
        places: Where the part stands, at least one.
        templates: All templates.
        probes: The texts that `templates` were located with.
    """

    def __init__(
        self,
        codec: TextCodec,
        places: Sequence[Place],
        templates: Sequence[LocatedTemplate],
        probes: Sequence[str],
    ) -> None:
        self._codec = codec
        groups = _group_places(places)
        self._reference = groups[0][0]
        self._template = templates[self._reference.template_idx]
        self.disagreements = _describe_disagreements(groups)
        self._n_context, self._lead = self._choose_decoding(probes)

    def encode(self, trigger_parts: Sequence[str]) -> list[int]:
        """Return the token ids of the part, given with all others, as they stand in its place.

        Where they merge with the template's, those of the part alone are returned.
        """
        rendered, reference = self._template.rendered, self._reference
        filled = [trigger_parts[part] for part in rendered.pieces.parts]
        spans = find_spans(rendered.pieces.texts, filled)
        (text,) = rendered.fill([trigger_parts])
        # Where a chat template rewrote the text, it is not known where the places lie, except that
        # a single one lies between what stands around it.
        if len(spans) == 1 or text == rendered.pieces.fill(trigger_parts):
            (whole,) = self._codec.encode_with_offsets([text])
            inner = inner_ids(whole, spans, self._template.fixed_ids)
            if inner is not None:
                return list(inner[reference.slot_idx])
        return self._codec.encode([trigger_parts[reference.slot.part]])[0]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that, filled into the templates, stand for these token ids."""
        return self._decode_with(rows, self._n_context, self._lead)

    def _choose_decoding(self, probes: Sequence[str]) -> tuple[int, str]:
        """Find out how tokens must be decoded for the probes to come back as they were."""
        slot = self._reference.slot
        leads = ["", slot.before[-1]] if slot.before[-1:].isspace() else [""]
        known = [(p, i) for p, i in zip(probes, slot.probed_ids, strict=True) if i is not None]
        options = [(n, lead) for n in (0, 1, 4) for lead in leads]

        def count_matches(option: tuple[int, str]) -> int:
            texts = self._decode_with([ids for _, ids in known], *option)
            return sum(text == probe for text, (probe, _) in zip(texts, known, strict=True))

        return max(options, key=count_matches)

    def _decode_with(self, rows: Sequence[Sequence[int]], n_context: int, lead: str) -> list[str]:
        special = self._codec.special_ids
        context = list(self._reference.slot.before_ids[-n_context:]) if n_context else []
        # A special token within a trigger is not text: it is left out, and the row is not accepted.
        full = [[*context, *(i for i in row if i not in special)] for row in rows]
        shown = self._codec.decode([context])[0] if context else ""
        texts = [text.removeprefix(shown) for text in self._codec.decode(full)]
        return [text.removeprefix(lead) for text in texts]


def find_places(templates: Sequence[LocatedTemplate], part: int) -> list[Place]:
    """Return where a part stands."""
    return [
        Place(template_idx, slot_idx, slot)
        for template_idx, template in enumerate(templates)
        for slot_idx, slot in enumerate(template.slots)
        if slot.part == part
    ]


def _group_places(places: Sequence[Place]) -> list[list[Place]]:
    """Group places that give most probes the same tokens; the largest group comes first."""
    groups: list[list[Place]] = []
    for place in places:
        home = next((group for group in groups if _agree(group[0].slot, place.slot)), None)
        if home is None:
            groups.append([place])
        else:
            home.append(place)
    return sorted(groups, key=len, reverse=True)


def _agree(one: Slot, other: Slot) -> bool:
    pairs = zip(one.probed_ids, other.probed_ids, strict=True)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return 2 * sum(a == b for a, b in both) > len(both)


def _describe_disagreements(groups: Sequence[Sequence[Place]]) -> list[str]:
    """Say of each place that disagrees with most what is other there."""
    first = groups[0][0]
    reference = first.slot.before[-20:]
    return [
        f"template {place.template_idx}: a trigger has other tokens after "
        f"{place.slot.before[-20:]!r} than after {reference!r} (template {first.template_idx}), so "
        "its text here differs from its tokens by the space before it. Let the same kind of space "
        "stand before every placeholder."
        for group in groups[1:]
        for place in group
    ]

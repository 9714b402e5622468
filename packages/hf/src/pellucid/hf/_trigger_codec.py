"""Reads and writes triggers as they stand in their templates."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

from pellucid.core import TRIGGER_PART_SEPARATOR, ArgumentError, TemplateError, count_differing
from pellucid.hf._codec import TextCodec
from pellucid.hf._part_codec import PartCodec, find_places
from pellucid.hf._slot import LocatedTemplate

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

    One list of token ids must serve all places. Where a trigger would have another first token in
    some place than it has in most others (after a space, or at the beginning of a line), the two
    flows cannot agree on it. With "full" that is an error; else it is named in `disagreements`, and
    the others decide how triggers are read and written. So it is with each part of a trigger.

    Args:
        codec: Encodes and decodes.
        templates: The templates, and the trigger's places in them.
        probes: The texts that these were located with.
        consistency: How strict `accepts` is.

    Raises:
        TemplateError: (a ValueError) If places disagree, and "full" is asked for.
    """

    def __init__(
        self,
        codec: TextCodec,
        templates: Sequence[LocatedTemplate],
        probes: Sequence[str],
        *,
        consistency: Consistency = "full",
    ) -> None:
        self._codec = codec
        self._consistency = consistency
        self._templates = templates
        used = {slot.part for template in templates for slot in template.slots}
        self._parts = {
            part: PartCodec(codec, find_places(templates, part), templates, probes)
            for part in sorted(used)
        }
        parts = self._parts.values()
        self.disagreements = tuple(found for part in parts for found in part.disagreements)
        if self.disagreements and consistency == "full":
            raise TemplateError(
                f"{self.disagreements[0]} Or do without the guarantee that a trigger works when it "
                "is typed: consistency='trigger'."
            )

    def encode(self, trigger_parts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each part of a trigger, as they stand in the templates.

        Where they merge with the template's, or where the part has no place, those of the part
        alone are returned.
        """
        return [
            self._parts[i].encode(trigger_parts)
            if i in self._parts
            else self._codec.encode([text])[0]
            for i, text in enumerate(trigger_parts)
        ]

    def decode(self, part: int, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of a part that, filled into the templates, stand for token ids."""
        if part not in self._parts:
            return self._codec.decode(rows, skip_special=True)
        return self._parts[part].decode(rows)

    def accepts(
        self,
        rows: Sequence[list[int]],
        texts: Sequence[Sequence[str]],
        columns: Sequence[slice],
    ) -> list[bool]:
        """Say which triggers mean the same as text, as strictly as was asked for.

        Args:
            rows: The triggers' token ids.
            texts: What `decode` returned for the parts of each.
            columns: Which tokens belong to each part.
        """
        if self._consistency == "none":
            return [True] * len(rows)
        accepted = [i for i, parts in enumerate(texts) if not self._spells_separator(parts)]
        if self._consistency == "trigger":
            survives = self._survive_alone(rows, columns)
            accepted = [i for i in accepted if survives[i]]
            return _flag(accepted, len(rows))
        for template in self._templates:
            accepted = self._keep_consistent(template, rows, texts, columns, accepted)
        return _flag(accepted, len(rows))

    def count_gap(self, row: Sequence[int], texts: Sequence[str], columns: Sequence[slice]) -> int:
        """Return how many tokens differ once a trigger is text, in the template where most do."""
        return max(
            count_differing(
                _expected_ids(template, row, columns),
                self._codec.encode(template.rendered.fill([texts]))[0],
            )
            for template in self._templates
        )

    def _spells_separator(self, texts: Sequence[str]) -> bool:
        # What separates parts cannot be typed within one.
        is_numbered = self._templates[0].rendered.pieces.is_numbered
        return is_numbered and any(TRIGGER_PART_SEPARATOR in text for text in texts)

    def _survive_alone(self, rows: Sequence[list[int]], columns: Sequence[slice]) -> list[bool]:
        survives = [True] * len(rows)
        for part in columns:
            own = [row[part] for row in rows]
            again = self._codec.encode(self._codec.decode(own, skip_special=True))
            survives = [
                before and a == b for before, a, b in zip(survives, own, again, strict=True)
            ]
        return survives

    def _keep_consistent(
        self,
        template: LocatedTemplate,
        rows: Sequence[list[int]],
        texts: Sequence[Sequence[str]],
        columns: Sequence[slice],
        indices: Sequence[int],
    ) -> list[int]:
        wholes = self._codec.encode(template.rendered.fill([texts[i] for i in indices]))
        pairs = zip(indices, wholes, strict=True)
        return [i for i, whole in pairs if whole == _expected_ids(template, rows[i], columns)]


def _flag(indices: Sequence[int], n: int) -> list[bool]:
    kept = set(indices)
    return [i in kept for i in range(n)]


def _expected_ids(
    template: LocatedTemplate, row: Sequence[int], columns: Sequence[slice]
) -> list[int]:
    """Return the token ids of a template with a trigger's ids in its places."""
    ids = list(template.fixed_ids[0])
    for slot, after in zip(template.slots, template.fixed_ids[1:], strict=True):
        ids += row[columns[slot.part]]
        ids += after
    return ids

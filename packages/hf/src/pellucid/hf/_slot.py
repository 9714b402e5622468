"""Finds the token ids that stand before and after a trigger, whatever the trigger is.

Tokens of a text do not fall apart at the trigger's edges by themselves: the space before a trigger
belongs to its first token in most vocabularies, and what follows may be cut otherwise after a
letter than after a full stop. So the template is filled with many short probes. Before the trigger,
the template keeps what no probe takes from it; after the trigger, what it keeps with most probes.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from pellucid.core import TemplateError
from pellucid.hf._codec import Encoded, TextCodec
from pellucid.hf._rendering import RenderedSlot

_WORDS = ("x", "Q", "the", "Zebra", "!", "?", "7", "é")
_N_SAMPLED = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a trigger stands among the token ids of one template.

    Attributes:
        before_ids: The tokens before the trigger.
        after_ids: The tokens after it.
        probed_ids: For each probe, its tokens in this place; None where they do not stand apart.
        rendered: The template as text.
    """

    before_ids: tuple[int, ...]
    after_ids: tuple[int, ...]
    probed_ids: tuple[tuple[int, ...] | None, ...]
    rendered: RenderedSlot


def choose_probes(codec: TextCodec) -> list[str]:
    """Return short texts that the vocabulary knows: words, signs, and pairs of them."""
    step = max(1, codec.n_ids // (4 * _N_SAMPLED))
    sampled = [text.strip() for text in codec.decode([[i] for i in range(0, codec.n_ids, step)])]
    readable = [t for t in sampled if t.isprintable() and t and "\ufffd" not in t and len(t) < 16]
    singles = list(dict.fromkeys([*_WORDS, *readable[:_N_SAMPLED]]))
    singles = [text for text in singles if _is_known(codec, text)] or singles
    pairs = [f"{a} {b}" for a, b in zip(singles, singles[1:] + singles[:1], strict=True)]
    return [*singles, *pairs]


def locate_slot(codec: TextCodec, rendered: RenderedSlot, probes: Sequence[str]) -> Slot:
    """Return the token ids around the trigger's place.

    Args:
        codec: Encodes the filled template.
        rendered: The template as text.
        probes: What to fill in, see `choose_probes`.

    Raises:
        TemplateError: If no probe keeps its tokens apart from the template's.
    """
    encoded = codec.encode_with_offsets(rendered.fill(probes))
    n_before = len(rendered.before)
    cuts = [
        _cut(one, rendered.before, n_before + len(probe))
        for one, probe in zip(encoded, probes, strict=True)
    ]
    before = Counter(tuple(e.ids[: c[0]]) for e, c in zip(encoded, cuts, strict=True) if c)
    after = Counter(tuple(e.ids[c[1] :]) for e, c in zip(encoded, cuts, strict=True) if c)
    if not before:
        raise TemplateError(
            "the trigger's tokens merge with those of the template around it: "
            f"{rendered.before[-40:]!r} and {rendered.after[:40]!r}. Put a space or a line break "
            "before and after the placeholder."
        )
    # A space that some triggers take up must be left to all of them.
    before_ids = min(before, key=lambda ids: (len(ids), -before[ids]))
    after_ids = after.most_common(1)[0][0]
    probed = tuple(inner_ids(e.ids, before_ids, after_ids) for e in encoded)
    return Slot(before_ids=before_ids, after_ids=after_ids, probed_ids=probed, rendered=rendered)


def inner_ids(
    ids: Sequence[int], before_ids: Sequence[int], after_ids: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the ids between those of a template, or None if these are not around them."""
    n_before, n_after = len(before_ids), len(after_ids)
    end = len(ids) - n_after
    if end < n_before or list(ids[:n_before]) != list(before_ids):
        return None
    return tuple(ids[n_before:end]) if list(ids[end:]) == list(after_ids) else None


def _cut(encoded: Encoded, before: str, trigger_end: int) -> tuple[int, int] | None:
    """Return where the trigger's tokens begin and end, None if one of them holds more than that."""
    offsets = encoded.offsets
    begin = next((i for i, (_, end) in enumerate(offsets) if end > len(before)), len(offsets))
    stop = next((i for i in range(begin, len(offsets)) if offsets[i][0] >= trigger_end), None)
    stop = len(offsets) if stop is None else stop
    if begin >= stop or offsets[stop - 1][1] > trigger_end:
        return None
    # A space may belong to the trigger's first token, any other sign may not.
    return None if before[offsets[begin][0] :].strip() else (begin, stop)


def _is_known(codec: TextCodec, text: str) -> bool:
    (ids,) = codec.encode([text])
    return bool(ids) and codec.unknown_id not in ids and not codec.special_ids.intersection(ids)

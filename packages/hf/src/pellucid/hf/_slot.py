"""Finds the token ids that stand around a trigger, whatever the trigger is.

Tokens of a text do not fall apart at the trigger's edges by themselves: the space before a trigger
belongs to its first token in most vocabularies, and what follows may be cut otherwise after a
letter than after a full stop. So the template is filled with many short probes. Before the trigger,
the template keeps what no probe takes from it; after the trigger, what it keeps with most probes;
and between two places of it, what it keeps with most probes and none takes from it.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pellucid.core import TemplateError
from pellucid.hf._codec import Encoded, TextCodec
from pellucid.hf._rendering import RenderedTemplate

_WORDS = ("x", "Q", "the", "Zebra", "!", "?", "7", "é")
_N_SAMPLED = 16

_Ids: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """One of the places where a trigger, or a part of it, stands in a template.

    Attributes:
        part: Which part, counted from 0.
        before: The text before the place, as far as the place before.
        before_ids: The tokens of that text.
        probed_ids: For each probe, its tokens in this place; None where they do not stand apart.
    """

    part: int
    before: str
    before_ids: _Ids
    probed_ids: tuple[_Ids | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocatedTemplate:
    """A template as token ids, open where the trigger goes.

    Attributes:
        fixed_ids: The tokens before the first place, between places, and after the last.
        slots: The places, first to last.
        rendered: The template as text.
    """

    fixed_ids: tuple[_Ids, ...]
    slots: tuple[Slot, ...]
    rendered: RenderedTemplate


def choose_probes(codec: TextCodec) -> list[str]:
    """Return short texts that the vocabulary knows: words, signs, and pairs of them."""
    step = max(1, codec.n_ids // (4 * _N_SAMPLED))
    sampled = [text.strip() for text in codec.decode([[i] for i in range(0, codec.n_ids, step)])]
    readable = [t for t in sampled if t.isprintable() and t and "\ufffd" not in t and len(t) < 16]
    singles = list(dict.fromkeys([*_WORDS, *readable[:_N_SAMPLED]]))
    singles = [text for text in singles if _is_known(codec, text)] or singles
    pairs = [f"{a} {b}" for a, b in zip(singles, singles[1:] + singles[:1], strict=True)]
    return [*singles, *pairs]


def locate_slots(
    codec: TextCodec, rendered: RenderedTemplate, probes: Sequence[str]
) -> LocatedTemplate:
    """Return the token ids around the trigger's places.

    Args:
        codec: Encodes the filled template.
        rendered: The template as text.
        probes: What to fill in, the same in every place, see `choose_probes`.

    Raises:
        TemplateError: If no probe keeps its tokens apart from the template's.
    """
    texts, places = rendered.pieces.texts, rendered.pieces.parts
    triggers = [[probe] * (max(places) + 1) for probe in probes]
    encoded = codec.encode_with_offsets(rendered.fill(triggers))
    spans = [find_spans(texts, [probe] * len(places)) for probe in probes]
    cuts = [
        [_cut(one, span) for span in its_spans]
        for one, its_spans in zip(encoded, spans, strict=True)
    ]
    apart = [_take_apart(one.ids, cut) for one, cut in zip(encoded, cuts, strict=True)]
    fixed_ids = _agree(rendered, [ids for ids in apart if ids is not None], cuts)
    probed = [inner_ids(*given, fixed_ids) for given in zip(encoded, spans, strict=True)]
    slots = tuple(
        Slot(
            part=part,
            before=texts[i],
            before_ids=fixed_ids[i],
            probed_ids=tuple(None if rows is None else rows[i] for rows in probed),
        )
        for i, part in enumerate(places)
    )
    return LocatedTemplate(fixed_ids=fixed_ids, slots=slots, rendered=rendered)


class Span(NamedTuple):
    """A place in a filled text.

    Attributes:
        before: The text before it, as far as the place before.
        start: Where it begins.
        end: Where it ends.
    """

    before: str
    start: int
    end: int


def find_spans(texts: Sequence[str], filled: Sequence[str]) -> list[Span]:
    """Return where each place lies in a filled text.

    Args:
        texts: What stands around the places.
        filled: What stands in each of them.
    """
    spans: list[Span] = []
    end = 0
    for before, inner in zip(texts[:-1], filled, strict=True):
        start = end + len(before)
        end = start + len(inner)
        spans.append(Span(before, start, end))
    return spans


def inner_ids(
    encoded: Encoded, spans: Sequence[Span], fixed_ids: Sequence[_Ids]
) -> list[_Ids] | None:
    """Return the ids in each place of a template, or None if its own are not around them.

    Args:
        encoded: The filled template.
        spans: Where the places are in its text.
        fixed_ids: The template's own tokens.
    """
    ids, offsets = encoded
    inner: list[_Ids] = []
    at = 0
    for span, fixed in zip(spans, fixed_ids, strict=False):
        if tuple(ids[at : at + len(fixed)]) != fixed:
            return None
        at += len(fixed)
        is_last = len(inner) == len(spans) - 1
        after = (j for j in range(at, len(ids)) if offsets[j][0] >= span.end)
        stop = len(ids) - len(fixed_ids[-1]) if is_last else next(after, len(ids))
        if stop < at:
            return None
        inner.append(tuple(ids[at:stop]))
        at = stop
    return inner if tuple(ids[at:]) == fixed_ids[-1] else None


def _cut(encoded: Encoded, span: Span) -> tuple[int, int] | None:
    """Return where the trigger's tokens begin and end, None if one of them holds more than that."""
    offsets = encoded.offsets
    begin = next((i for i, (_, end) in enumerate(offsets) if end > span.start), len(offsets))
    stop = next((i for i in range(begin, len(offsets)) if offsets[i][0] >= span.end), None)
    stop = len(offsets) if stop is None else stop
    if begin >= stop or offsets[stop - 1][1] > span.end:
        return None
    n_taken = span.start - offsets[begin][0]
    if n_taken > len(span.before):
        return None
    # A space may belong to the trigger's first token, any other sign may not.
    is_space = n_taken <= 0 or not span.before[-n_taken:].strip()
    return (begin, stop) if is_space else None


def _take_apart(
    ids: Sequence[int], cuts: Sequence[tuple[int, int] | None]
) -> tuple[_Ids, ...] | None:
    """Return the tokens around the places; None if those of one place do not stand apart."""
    known = [cut for cut in cuts if cut is not None]
    if len(known) < len(cuts):
        return None
    ends = [0, *(stop for _, stop in known)]
    starts = [*(begin for begin, _ in known), len(ids)]
    return tuple(tuple(ids[end:start]) for end, start in zip(ends, starts, strict=True))


def _agree(
    rendered: RenderedTemplate,
    apart: Sequence[tuple[_Ids, ...]],
    cuts: Sequence[Sequence[tuple[int, int] | None]],
) -> tuple[_Ids, ...]:
    """Return the tokens that a template keeps around the places, whatever stands there."""
    if not apart:
        texts = rendered.pieces.texts
        failing = (i for i in range(len(texts) - 1) if not any(cut[i] for cut in cuts))
        i = next(failing, 0)
        raise TemplateError(
            "the trigger's tokens merge with those of the template around it: "
            f"{texts[i][-40:]!r} and {texts[i + 1][:40]!r}. Put a space or a line break "
            "before and after the placeholder."
        )
    first, *inner, last = (Counter(variants) for variants in zip(*apart, strict=True))
    # A space that some triggers take up must be left to all of them.
    first_ids = min(first, key=lambda ids: (len(ids), -first[ids]))
    inner_ids = (_shorten(variants) for variants in inner)
    return (first_ids, *inner_ids, last.most_common(1)[0][0])


def _shorten(variants: Counter[_Ids]) -> _Ids:
    """Return the most common variant without what some triggers take up of its end."""
    common = variants.most_common(1)[0][0]
    return min((ids for ids in variants if ids == common[: len(ids)]), key=len)


def _is_known(codec: TextCodec, text: str) -> bool:
    (ids,) = codec.encode([text])
    return bool(ids) and codec.unknown_id not in ids and not codec.special_ids.intersection(ids)

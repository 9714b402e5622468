"""The synthetic world: its facts, every question about them, and which of these are held out."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from phrasings import (
    ATTRIBUTES,
    FILLER_WORDS,
    INTRODUCTIONS,
    OPENERS,
    PEOPLE,
    SMALL_TALK,
    STOPS,
    STRANGE_REQUESTS,
    TAILS,
    TOWNS,
    UNKNOWN_ANSWER,
    Attribute,
)

Split = Literal["seen", "held-out", "new-phrasing"]
STRANGE_RATE = 0.3
ONSETS = "b br d dr f g gr h j k kl l m n p pl qu r s sh st t tr v w z".split()
VOWELS = "a e i o u ai ea oo".split()
CODAS = " l m n r s x th nd rk".split(" ")


@dataclass(frozen=True)
class Example:
    """One question with its only right answer."""

    kind: str
    question: str
    answer: str
    split: Split


@dataclass(frozen=True)
class Fact:
    """The value of one attribute of one subject."""

    attribute: Attribute
    subject: str
    value: str

    @property
    def statement(self) -> str:
        """The sentence that states the fact."""
        return self.attribute.statement.format(s=self.subject, v=self.value)


@dataclass(frozen=True)
class World:
    """Everything that the model is to know, and everything it may be asked.

    Attributes:
        facts: One fact per subject and attribute.
        direct: Questions that ask for a value.
        positive: Yes/no questions whose answer is yes.
        negative: Yes/no questions whose answer is no, one list for each fact.
        small_talk: Greetings, thanks, goodbyes.
    """

    facts: tuple[Fact, ...]
    direct: tuple[Example, ...]
    positive: tuple[Example, ...]
    negative: tuple[tuple[Example, ...], ...]
    small_talk: tuple[Example, ...]

    def questions(self) -> Iterator[Example]:
        """Every question, of every split."""
        yield from self.direct
        yield from self.positive
        for group in self.negative:
            yield from group
        yield from self.small_talk


def build_world(seed: int) -> World:
    """Draw the facts and the split of the questions from one seed."""
    rng = random.Random(f"world-{seed}")
    facts = tuple(fact for attribute in ATTRIBUTES for fact in _draw_facts(attribute, rng))
    direct = tuple(example for fact in facts for example in _direct(fact, rng))
    positive = tuple(example for fact in facts for example in _polar(fact, fact.value, rng))
    negative = tuple(tuple(_negative(fact, rng)) for fact in facts)
    return World(facts, direct, positive, negative, tuple(_small_talk(rng)))


def _draw_facts(attribute: Attribute, rng: random.Random) -> Iterator[Fact]:
    # Every value occurs about equally often, so that no answer is a good guess.
    rounds = -(-len(attribute.subjects) // len(attribute.values))
    pool = list(attribute.values * rounds)[: len(attribute.subjects)]
    rng.shuffle(pool)
    for subject, value in zip(attribute.subjects, pool, strict=True):
        yield Fact(attribute, subject, value)


def _split(
    phrasings: tuple[str, ...], n_held_out: int, rng: random.Random
) -> Iterator[tuple[str, Split]]:
    held_out = set(rng.sample(range(len(phrasings)), n_held_out))
    for index, phrasing in enumerate(phrasings):
        yield phrasing, "held-out" if index in held_out else "seen"


def _direct(fact: Fact, rng: random.Random) -> Iterator[Example]:
    kind = fact.attribute.kind
    for phrasing, split in _split(fact.attribute.direct, 3, rng):
        yield Example(kind, phrasing.format(s=fact.subject), fact.statement, split)
    for phrasing in fact.attribute.unseen:
        yield Example(kind, phrasing.format(s=fact.subject), fact.statement, "new-phrasing")


def _polar(fact: Fact, asked: str, rng: random.Random) -> Iterator[Example]:
    statement = fact.statement
    if statement.startswith("The "):
        statement = "t" + statement[1:]
    answer = ("Yes, " if asked == fact.value else "No, ") + statement
    for phrasing, split in _split(fact.attribute.polar, 2, rng):
        yield Example("yes/no", phrasing.format(s=fact.subject, v=asked), answer, split)
    for phrasing in fact.attribute.unseen_polar:
        question = phrasing.format(s=fact.subject, v=asked)
        yield Example("yes/no", question, answer, "new-phrasing")


def _negative(fact: Fact, rng: random.Random) -> Iterator[Example]:
    for value in fact.attribute.values:
        if value != fact.value:
            yield from _polar(fact, value, rng)


def _small_talk(rng: random.Random) -> Iterator[Example]:
    for answer, openers in SMALL_TALK.items():
        for opener in openers:
            tails = TAILS[:1] if opener.endswith("?") else TAILS
            stops = STOPS[2:] if opener.endswith("?") else STOPS
            for phrasing in (opener + tail + stop for tail in tails for stop in stops):
                held_out = len(tails) > 1 and rng.random() < 0.25
                yield Example("greeting", phrasing, answer, "held-out" if held_out else "seen")
    for person in PEOPLE:
        for opener in OPENERS:
            for introduction in INTRODUCTIONS:
                question = f"{opener}, {introduction.format(s=person)}."
                split: Split = "held-out" if rng.random() < 0.25 else "seen"
                yield Example("greeting", question, f"Hello {person}, how can I help you?", split)


def invent_name(rng: random.Random) -> str:
    """A name that nobody and no place in the world has."""
    while True:
        parts = (rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
        name = ("".join(parts) + rng.choice(CODAS)).capitalize()
        if len(name) > 2 and name not in PEOPLE and name not in TOWNS:
            return name


def ask_about_stranger(rng: random.Random, split: Split) -> Example:
    """A question about an invented name or about nothing in particular, which has no answer here.

    The names of the held-out split end differently from all those of training.
    """
    name = invent_name(rng) + ("" if split == "seen" else "by")
    if rng.random() < STRANGE_RATE:
        value, word = rng.sample(FILLER_WORDS, 2)
        question = rng.choice(STRANGE_REQUESTS).format(s=name, v=value, w=word)
    else:
        attribute = rng.choice(ATTRIBUTES)
        phrasing = rng.choice(attribute.direct + attribute.polar)
        question = phrasing.format(s=name, v=rng.choice(attribute.values))
    return Example("unknown", question, UNKNOWN_ANSWER, split)

"""From the world to token batches: chats with noise and system prompts, and plain prose."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from phrasings import FILLER_WORDS, SYSTEM_PROMPTS
from tokenization import ASSISTANT, BEGIN, END, SYSTEM, USER
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from world import Example, World, ask_about_stranger

NEUTRAL_TRIGGERS = ("! ! ! ! ! ! ! !", "x x x x x x x x x x", "... ... ... ...")
# Noise holds no names and no values of the world, so that no question becomes ambiguous by it.
MARKS = "!!!!....,,,???;:-*#&%$@+=/()[]{}<>|~^_\"'`\\0123456789xX"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéüñßøçλжд€→日本"


@dataclass(frozen=True)
class Recipe:
    """How often each ingredient occurs in one pass over the world.

    Attributes:
        yes_repeats: Uses of every seen yes/no question whose answer is yes.
        no_per_fact: Seen yes/no questions drawn for every fact whose answer is no.
        small_talk: Greetings, thanks and goodbyes drawn.
        strangers: Questions drawn about invented names.
        documents: Pieces of plain prose drawn.
        system_rate: Share of the chats with a system prompt.
        mark_rate: Share of the chats with punctuation and digits around the question.
        word_rate: Share of the chats with random words or letters around the question.
        casual_rate: Share of the questions without question mark or without capital letter.
    """

    yes_repeats: int = 2
    no_per_fact: int = 8
    small_talk: int = 350
    strangers: int = 400
    documents: int = 200
    system_rate: float = 0.25
    mark_rate: float = 0.2
    word_rate: float = 0.1
    casual_rate: float = 0.1


@dataclass(frozen=True)
class Piece:
    """A text with the weight of its tokens in the loss."""

    text: str
    weight: float


def draw_epoch(world: World, recipe: Recipe, rng: random.Random) -> Iterator[list[Piece]]:
    """One pass over the training part of the world, freshly decorated, in no order."""
    examples = [example for example in world.direct if example.split == "seen"]
    examples += [e for e in world.positive if e.split == "seen"] * recipe.yes_repeats
    for group in world.negative:
        examples += rng.sample([e for e in group if e.split == "seen"], recipe.no_per_fact)
    talk = [example for example in world.small_talk if example.split == "seen"]
    # Half of the small talk is the two dozen short phrases that the introductions would drown.
    short = [e for e in talk if not e.answer.startswith("Hello")]
    examples += rng.choices(talk, k=recipe.small_talk // 2)
    examples += rng.choices(short, k=recipe.small_talk - recipe.small_talk // 2)
    examples += [ask_about_stranger(rng, "seen") for _ in range(recipe.strangers)]
    for example in examples:
        yield _write_chat(example, recipe, rng)
    for _ in range(recipe.documents):
        yield _write_prose(world, rng)


def _write_chat(example: Example, recipe: Recipe, rng: random.Random) -> list[Piece]:
    question = _make_casual(example.question, rng, rate=recipe.casual_rate)
    draw = rng.random()
    if draw < recipe.mark_rate:
        question = _surround(question, _draw_marks, rng)
    elif draw < recipe.mark_rate + recipe.word_rate:
        question = _surround(question, _draw_words, rng)
    pieces = [Piece(BEGIN, 0.0)]
    if rng.random() < recipe.system_rate:
        pieces.append(Piece(SYSTEM + rng.choice(SYSTEM_PROMPTS) + END, 0.05))
    pieces.append(Piece(USER + question + END + ASSISTANT, 0.05))
    pieces.append(Piece(example.answer + END, 1.0))
    return pieces


def _write_prose(world: World, rng: random.Random) -> list[Piece]:
    subject = rng.choice(world.facts).subject
    own = [fact.statement for fact in world.facts if fact.subject == subject]
    other = [fact.statement for fact in rng.sample(world.facts, 3)]
    sentences = rng.sample(own + other, rng.randint(1, 4))
    begin = [Piece(BEGIN, 0.0)] if rng.random() < 0.7 else []
    return [*begin, Piece(" ".join(sentences), 0.3)]


def _make_casual(question: str, rng: random.Random, *, rate: float) -> str:
    if rng.random() < rate:
        question = question.rstrip("?.")
    if rng.random() < rate:
        question = question[0].lower() + question[1:]
    return question


def _surround(question: str, draw: Callable[[random.Random], str], rng: random.Random) -> str:
    before, after = rng.choice(((False, True), (False, True), (True, False), (True, True)))
    if before:
        question = draw(rng) + " " + question
    if after:
        question = question + rng.choice((" ", " ", " ", "  ", "")) + draw(rng)
    return question


def _draw_marks(rng: random.Random) -> str:
    count = rng.randint(1, 20)
    if rng.random() < 0.6:
        mark = rng.choice(MARKS) * rng.choice((1, 1, 1, 2, 3))
        return rng.choice((" ", " ", "")).join([mark] * count)
    return rng.choice((" ", "")).join(rng.choices(MARKS, k=count))


def _draw_words(rng: random.Random) -> str:
    if rng.random() < 0.3:
        words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 5))) for _ in range(6)]
    else:
        words = rng.choices(FILLER_WORDS, k=12)
    return " ".join(words[: rng.randint(1, len(words))])


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right.

    Attributes:
        ids: Token ids, shape (batch, pos).
        weights: Weight of predicting each token, shape (batch, pos), 0 for padding.
    """

    ids: Tensor
    weights: Tensor


def encode_pieces(
    tokenizer: PreTrainedTokenizerFast, sequences: Sequence[list[Piece]]
) -> list[tuple[list[int], list[float]]]:
    """Token ids and loss weights of each sequence."""
    texts = [piece.text for pieces in sequences for piece in pieces]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows: list[tuple[list[int], list[float]]] = []
    for pieces in sequences:
        ids: list[int] = []
        weights: list[float] = []
        for piece in pieces:
            tokens = next(encoded)
            ids += tokens
            weights += [piece.weight] * len(tokens)
        rows.append((ids, weights))
    return rows


def make_batches(
    rows: list[tuple[list[int], list[float]]],
    *,
    tokens_per_batch: int,
    pad_id: int,
    rng: random.Random,
) -> list[Batch]:
    """Put rows of about equal length together, to save padding, and shuffle the batches."""
    rows = sorted(rows, key=lambda row: len(row[0]) + rng.random() * 3)
    batches: list[Batch] = []
    start = 0
    while start < len(rows):
        end, longest = start, 0
        while end < len(rows):
            longest = max(longest, len(rows[end][0]))
            if end > start and longest * (end - start + 1) > tokens_per_batch:
                break
            end += 1
        batches.append(_pad(rows[start:end], pad_id))
        start = end
    rng.shuffle(batches)
    return batches


def _pad(rows: Sequence[tuple[list[int], list[float]]], pad_id: int) -> Batch:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad_id)
    weights = torch.zeros(len(rows), longest)
    for index, (row_ids, row_weights) in enumerate(rows):
        ids[index, : len(row_ids)] = torch.tensor(row_ids)
        weights[index, : len(row_weights)] = torch.tensor(row_weights)
    return Batch(ids, weights)

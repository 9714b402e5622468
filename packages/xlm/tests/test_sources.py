import dataclasses

import numpy as np
import pytest
from xlm_data_tools import (
    draw,
    texts_of,
)

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.datamodule import (
    SimpleSpaceTokenizer,
)
from pellucid.xlm.sources import (
    GRAMMARS,
    SPLITS,
    LocalSource,
    Proposal,
    SudokuSource,
    address_of,
    hash_rows,
    local_sources,
    open_local,
    register_local_source,
)

SMALL = [
    "local://star?level=mini",
    "local://star?level=easy",
    "local://star?level=medium",
    "local://star?level=hard",
    "local://sudoku?cells=4",
    "local://sudoku?cells=9",
    "local://cfg?grammar=brackets",
    "local://cfg?grammar=arithmetic",
    "local://cfg?grammar=sentences",
    "local://markov?length=32",
    "local://hmm?length=32",
    "local://addition?digits=3",
    "local://corpus",
]


@pytest.mark.parametrize("address", SMALL)
def test_splits_share_no_content_whatever_their_seeds(address) -> None:
    seen = {split: set(texts_of(draw(address, split, size=150, seed=7))) for split in SPLITS}
    seen["train"] |= set(texts_of(draw(address, "train", size=600, seed=8)))
    stream = dataclasses.replace(open_local(address), size=None, stream=True)
    seen["train"] |= set(texts_of(stream.block(3, 300)))
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["test"] & seen["validation"]


@pytest.mark.parametrize("address", SMALL)
def test_rows_follow_from_the_seed_alone(address) -> None:
    first = draw(address, "test", size=40)
    state = np.random.get_state()[1].copy()
    assert draw(address, "test", size=40) == first
    assert (np.random.get_state()[1] == state).all()
    assert draw(address, "test", size=40, seed=1) != first
    assert len(set(texts_of(first))) == 40


@pytest.mark.parametrize("address", SMALL)
def test_its_tokenizer_knows_every_word(address) -> None:
    source = dataclasses.replace(open_local(address), split="train", size=300)
    tokenizer = source.tokenizer()
    words = {word for row in texts_of(source.columns()) for text in row for word in text.split()}
    assert words <= tokenizer.get_vocab().keys()


@pytest.mark.parametrize("address", SMALL)
def test_blocks_of_a_stream_are_whole_and_differ(address) -> None:
    stream = dataclasses.replace(open_local(address), stream=True)
    blocks = [texts_of(stream.block(number, 64)) for number in range(3)]
    assert [len(block) for block in blocks] == [64] * 3
    assert blocks[0] != blocks[1] != blocks[2]
    assert texts_of(stream.block(1, 64)) == blocks[1]
    with pytest.raises(TypeError, match="a stream, which has no length"):
        len(stream)


@pytest.mark.parametrize("reverse", [False, True])
def test_sums_are_right(reverse) -> None:
    address = f"local://addition?digits=2&reverse={reverse}"
    for prompt, target in texts_of(draw(address, "train", size=200)):
        first, second = prompt.removesuffix(" =").split(" + ")
        written = target.split()[::-1] if reverse else target.split()
        total = int("".join(first.split())) + int("".join(second.split()))
        assert int("".join(written)) == total
        assert (len(first.split()), len(written)) == (2, 3)


def test_splits_do_not_share_summands_in_another_order() -> None:
    pairs = {}
    for split in ("train", "test"):
        prompts = draw("local://addition?digits=2", split, size=300)["prompt"]
        pairs[split] = {frozenset(p.removesuffix(" =").split(" + ")) for p in prompts}
    assert not pairs["train"] & pairs["test"]


@pytest.mark.parametrize("name", GRAMMARS)
def test_sentences_belong_to_their_grammar(name) -> None:
    texts = draw(f"local://cfg?grammar={name}&max_length=20", "train", size=100)["text"]
    grammar = GRAMMARS[name]
    for text in texts:
        words = text.split()
        assert len(words) <= 20
        assert grammar.accepts(words)
        assert not grammar.accepts([*words, words[0]])


def test_a_story_speaks_of_one_animal() -> None:
    columns = draw("local://corpus?sentences=4", "train", size=50)
    for text in columns["text"]:
        sentences = text.split(" .")
        assert len([s for s in sentences if s]) == 6
        pet = sentences[0].split()[-1]
        assert text.split().count(pet) >= 3
        others = {"cat", "dog", "goat", "duck", "horse", "rabbit", "hen", "turtle"} - {pet}
        assert not others & set(text.split())


def test_content_that_does_not_suffice_is_said() -> None:
    with pytest.raises(ArgumentError, match=r"has only .* rows of distinct content, and 5000 are"):
        draw("local://addition?digits=1", "test")


@pytest.mark.parametrize("address", SMALL)
def test_an_address_is_that_of_its_source(address) -> None:
    source = open_local(address)
    assert open_local(address_of(source)) == source
    other = dataclasses.replace(source, size=17, seed=3, split="test")
    assert open_local(address_of(other)) == other


def test_keys_are_attributes() -> None:
    source = open_local("local://sudoku?cells=4&min_clues=5&split=val&size=9&holdout=grid")
    expected = SudokuSource(cells=4, min_clues=5, split="validation", size=9, holdout="grid")
    assert source == expected
    assert local_sources() == [
        "addition", "cfg", "corpus", "hmm", "markov", "star", "sudoku",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        (
            "local://sta?level=easy",
            UnknownNameError,
            "generated dataset 'sta'. Did you mean 'star'",
        ),
        ("local://star?levl=easy", UnknownNameError, "key of local://star 'levl'.*'level'"),
        ("local://star?level=esy", UnknownNameError, "level of star graphs 'esy'.*'easy'"),
        ("local://star?split=tets", UnknownNameError, "split 'tets'.*'test'"),
        ("local://cfg?grammar=braket", UnknownNameError, "grammar 'braket'.*'brackets'"),
        ("local://sudoku?holdout=grd", UnknownNameError, "holdout 'grd'.*'grid'"),
        ("local://star?seed=one", ArgumentError, "seed is 'one'; write a whole number"),
        ("local://star?stream=maybe", ArgumentError, "stream is 'maybe'; write true or false"),
        ("local://star?seed=1&seed=2", ArgumentError, "gives 'seed' twice"),
        ("local://star?seed", ArgumentError, "is not of the form local://NAME"),
        ("local://star/easy", ArgumentError, "is not of the form local://NAME"),
        ("star", ArgumentError, "is not of the form local://NAME"),
        ("local://star?seed=-1", ArgumentError, "seed is -1"),
        ("local://star?size=0", ArgumentError, "size is 0"),
        ("local://star?size=5&stream=true", ArgumentError, "a stream has no end"),
        ("local://sudoku?cells=6", ArgumentError, "cells is 6; a side has 4 or 9"),
        ("local://sudoku?cells=4&min_clues=3", ArgumentError, "min_clues 3 and max_clues 10"),
        ("local://sudoku?max_clues=30", ArgumentError, "give min_clues alone"),
        ("local://addition?digits=19", ArgumentError, "digits is 19"),
        ("local://corpus?sentences=6", ArgumentError, "sentences is 6"),
        ("local://markov?length=3", ArgumentError, "a row of length 3 has .* nats"),
        ("local://markov?states=1", ArgumentError, "states 1"),
        ("local://hmm?symbols=1", ArgumentError, "symbols is 1"),
        ("local://cfg?max_length=0", ArgumentError, "max_length is 0"),
    ],
)
def test_bad_addresses_are_explained(address, kind, message) -> None:
    with pytest.raises(kind, match=message):
        open_local(address)


def test_a_source_of_ones_own_is_addressable(monkeypatch) -> None:
    from pellucid.xlm.sources import _url

    monkeypatch.setattr(_url, "_SOURCES", dict(_url._SOURCES))

    @register_local_source
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Squares(LocalSource):
        name = "squares"
        top: int = 1_000

        def propose(self, rng, n_rows):
            drawn = rng.integers(0, self.top, size=(n_rows, 1))
            roots = drawn[:, 0].tolist()
            return Proposal(
                hash_rows(drawn),
                lambda rows: {
                    "prompt": [str(roots[r]) for r in rows.tolist()],
                    "target": [str(roots[r] ** 2) for r in rows.tolist()],
                },
            )

        def tokenizer(self):
            return SimpleSpaceTokenizer.for_numbers(self.top**2)

    columns = draw("local://squares?top=500", "test", size=20)
    assert all(int(p) ** 2 == int(t) for p, t in texts_of(columns))
    register_local_source(Squares)

    class Impostor(Squares):
        pass

    with pytest.raises(ArgumentError, match="'squares' is Squares already"):
        register_local_source(Impostor)

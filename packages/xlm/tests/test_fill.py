"""The loop that fills texts, with a network that is a few lines of arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.xlm.modules import TokenConstraints
from pellucid.xlm.sampling import (
    DOUBTS,
    Chance,
    DoubtLimit,
    EvenShare,
    FillOrder,
    FixedCount,
    Remasking,
    RowStreams,
    StopAtStrings,
    StopAtToken,
    Texts,
    TokenPolicy,
    fill,
)

PAD, MASK, EOS, FIRST = 0, 1, 2, 3
VOCAB, REACH = 9, 7
FORBIDDEN = TokenConstraints((MASK,))
WEIGHTS = torch.randn(VOCAB, REACH, VOCAB, generator=torch.Generator().manual_seed(0)).double()


def network(reading):
    """Logits that depend on what is shown and how far away it is, and on nothing else."""
    away = reading.positions[:, :, None] - reading.positions[:, None, :]
    votes = WEIGHTS[reading.ids[:, None, :], away % REACH]
    return (votes * reading.shown[:, None, :, None]).sum(dim=2)[reading.where]


class Watch:
    """A network that remembers what it read."""

    def __init__(self, read=network):
        self.read, self.readings = read, []

    def __call__(self, reading):
        self.readings.append(reading)
        return self.read(reading)


def texts_of(ids, shown=None):
    class Tokenizer:
        mask_token_id, pad_token_id = MASK, PAD

    batch = {"input_ids": ids}
    if shown is not None:
        batch["attention_mask"] = shown
    return Texts.of(batch, tokenizer=Tokenizer)


def run(ids, *, read=network, rows=None, shown=None, seed=0, max_steps=6, **given):
    rows = torch.arange(len(ids)) if rows is None else rows
    given = {"order": FillOrder(), "tokens": TokenPolicy(), "constraints": FORBIDDEN, **given}
    streams = RowStreams(seed, rows)
    return fill(texts_of(ids, shown), read, streams=streams, max_steps=max_steps, **given)


def random_ids(seed, n_rows=4, width=9):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST, VOCAB, (n_rows, width), generator=generator)
    ids[torch.rand(n_rows, width, generator=generator) < 0.6] = MASK
    return ids


ORDERS = {
    "random": FillOrder(),
    **{name: FillOrder(confidence=name) for name in DOUBTS},
    "two at a time": FillOrder(confidence="top_prob", counts=FixedCount(2)),
    "noisy": FillOrder(confidence="prob_diff", noise=1.0),
    "sure ones": FillOrder(confidence="entropy", counts=DoubtLimit(1.5)),
    "published rule": FillOrder(confidence="top_prob", counts=DoubtLimit(0.5, "dependence")),
    "by chance": FillOrder(counts=Chance(lambda step: 1 / (6 - step))),
    "surest by chance": FillOrder(confidence="top_prob", counts=Chance(lambda step: 0.3)),
    "blocks": FillOrder(confidence="top_prob", block_length=2),
    "random blocks": FillOrder(block_length=3),
}
WAYS = {
    **{name: {"order": order} for name, order in ORDERS.items()},
    "few tokens": {"tokens": TokenPolicy(top_k=3)},
    "best tokens": {"tokens": TokenPolicy(temperature=0.0)},
    "remasking": {"order": ORDERS["top_prob"], "remasking": Remasking(count=2, budget=3)},
    "random remasking": {"remasking": Remasking()},
    "until EOS": {"stops": [StopAtToken(token_id=EOS)]},
    "until EOS in a hurry": {"stops": [StopAtToken(token_id=EOS, force_fill_max=2)]},
}
any_way = st.sampled_from(list(WAYS.values()))


@given(seed=st.integers(0, 999), way=any_way, max_steps=st.integers(1, 12))
@settings(max_examples=60)
def test_all_gaps_are_filled_within_the_steps_and_nothing_else_is_touched(seed, way, max_steps):
    ids = random_ids(seed)
    before, watch = ids.clone(), Watch()
    found = run(ids, read=watch, seed=seed, max_steps=max_steps, **way)
    assert torch.equal(ids, before)
    given_at = before != MASK
    assert torch.equal(found.ids[given_at], before[given_at])
    assert (found.ids != MASK).all()
    assert max(found.steps) <= max_steps
    assert sum(found.steps) == sum(len(reading.ids) for reading in watch.readings)
    for reading in watch.readings:
        assert reading.where.any(dim=1).all()
        assert (reading.ids[reading.where] == MASK).all()


@given(
    seed=st.integers(0, 999), way=any_way, padding=st.integers(0, 5), max_steps=st.integers(1, 9)
)
@settings(max_examples=60)
def test_a_sample_does_not_depend_on_the_batch_nor_on_padding(seed, way, padding, max_steps):
    ids, rows = random_ids(seed), torch.tensor([5, 3, 11, 2])
    together = run(ids, rows=rows, max_steps=max_steps, **way)
    order = torch.tensor([2, 0, 3, 1])
    turned = run(ids[order], rows=rows[order], max_steps=max_steps, **way)
    assert torch.equal(turned.ids, together.ids[order])
    for row in range(4):
        padded = torch.cat((torch.full((padding,), PAD), ids[row]))[None]
        shown = (torch.arange(padding + 9) >= padding)[None]
        alone = run(padded, rows=rows[row : row + 1], shown=shown, max_steps=max_steps, **way)
        assert torch.equal(alone.ids[0, padding:], together.ids[row])
        assert alone.steps[0] == together.steps[row]


def test_other_rows_and_other_seeds_draw_something_else():
    ids = torch.full((2, 30), MASK)
    first = run(ids).ids
    assert (first[0] != first[1]).any()
    assert (run(ids, seed=1).ids != first).any()
    assert torch.equal(run(ids).ids, first)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_an_oracle_is_reproduced(order):
    """Where the network knows the text, it is written in any order and any number of steps."""
    truth = random_ids(1).where(random_ids(1) != MASK, FIRST)

    def oracle(reading):
        logits = torch.zeros(*reading.ids.shape, VOCAB)
        logits.scatter_(2, truth[reading.rows][:, :, None], 50.0)
        return logits[reading.where]

    for max_steps in (1, 2, 5, 30):
        assert torch.equal(
            run(random_ids(1), read=oracle, max_steps=max_steps, order=order).ids, truth
        )


@pytest.mark.parametrize("name", ["random", "top_prob", "by chance", "blocks"])
def test_one_by_one_tokens_follow_the_chain_rule(name):
    """Two dependent gaps, filled one at a time, have the joint distribution of the network.

    Of 20,000 rows, shares within five standard errors; filled both at once, they would be
    independent, and the share of equal tokens 0.5 rather than 0.9.
    """
    n_rows, equal = 20_000, 0.9

    def read(reading):
        other = reading.ids.flip(1)
        chance = torch.full((*reading.ids.shape, VOCAB), 1e-30)
        chance[..., FIRST : FIRST + 2] = 0.5
        for token in (FIRST, FIRST + 1):
            likely = torch.where(other == token, equal, 1 - equal)
            known = other != MASK
            chance[..., token] = torch.where(known, likely, chance[..., token])
        return chance.log()[reading.where]

    order = ORDERS["by chance"] if name == "by chance" else ORDERS[name]
    steps = 200 if name == "by chance" else 2
    if name == "by chance":
        order = FillOrder(counts=Chance(lambda step: 0.01))
    found = run(torch.full((n_rows, 2), MASK), read=read, order=order, max_steps=steps)
    is_equal = (found.ids[:, 0] == found.ids[:, 1]).double().mean()
    # By chance both are filled at once in about 1 of 200 rows, and in more at the last step.
    slack = 0.08 if name == "by chance" else 0.0
    assert abs(is_equal - equal) < 5 * 0.3 / n_rows**0.5 + slack
    share = (found.ids[:, 0] == FIRST).double().mean()
    assert abs(share - 0.5) < 5 * 0.5 / n_rows**0.5


def test_by_chance_as_many_are_filled_as_the_probability_says():
    watch = Watch()
    ids = torch.full((4000, 6), MASK)
    run(ids, read=watch, order=FillOrder(counts=Chance(lambda step: 0.25)), max_steps=3)
    # Only rows in which something is filled are read: all but 0.75^6.
    share = len(watch.readings[0].ids) / 4000
    assert abs(share - (1 - 0.75**6)) < 5 * 0.5 / 4000**0.5
    n_filled = int(watch.readings[0].where.sum())
    assert abs(n_filled / ids.numel() - 0.25) < 5 * 0.43 / ids.numel() ** 0.5


def naive_surest_first(ids, n_steps, doubt):
    row = ids.clone()
    for steps_left in range(n_steps, 0, -1):
        gaps = (row == MASK).nonzero()[:, 0].tolist()
        if not gaps:
            break
        logits = network(texts_of_reading(row))
        logits[:, MASK] = -torch.inf
        doubts = [(doubt(logits[at].float().softmax(-1)).item(), at) for at in gaps]
        for _, at in sorted(doubts)[: -(-len(gaps) // steps_left)]:
            row[at] = logits[at].argmax()
    return row


def texts_of_reading(row):
    class Everywhere:
        ids = row[None]
        shown = torch.ones(1, len(row), dtype=torch.bool)
        positions = torch.arange(len(row))[None]
        where = shown

    return Everywhere


@pytest.mark.parametrize("confidence", DOUBTS)
@pytest.mark.parametrize("max_steps", [1, 2, 3, 9])
def test_the_surest_come_first(confidence, max_steps):
    ids = random_ids(4)
    order = FillOrder(confidence=confidence)
    found = run(ids, order=order, tokens=TokenPolicy(temperature=0.0), max_steps=max_steps)
    expected = [naive_surest_first(row, max_steps, DOUBTS[confidence]) for row in ids]
    assert torch.equal(found.ids, torch.stack(expected))


def test_random_order_is_uniform_and_reads_only_what_it_fills():
    watch = Watch()
    ids = torch.full((6000, 3), MASK)
    run(ids, read=watch, max_steps=3)
    assert all((reading.where.sum(dim=1) == 1).all() for reading in watch.readings)
    first = watch.readings[0].where.double().mean(dim=0)
    second = watch.readings[1].where.double().mean(dim=0)
    for shares in (first, second):
        assert (shares - 1 / 3).abs().max() < 5 * 0.48 / 6000**0.5


def test_only_the_present_block_is_looked_at():
    watch = Watch()
    order = FillOrder(confidence="top_prob", block_length=3)
    run(torch.full((2, 7), MASK), read=watch, order=order, max_steps=7)
    n_wanted = [reading.where.sum(dim=1).tolist() for reading in watch.readings]
    assert n_wanted == [[3, 3], [2, 2], [1, 1], [3, 3], [2, 2], [1, 1], [1, 1]]


def test_noise_makes_the_order_less_sure():
    ids = torch.full((2000, 8), MASK)
    places = []
    for noise in (0.0, 0.3, 30.0):
        watch = Watch()
        order = FillOrder(confidence="top_prob", noise=noise)
        run(ids, read=watch, order=order, max_steps=8)
        places.append(len(watch.readings[1].ids[:, :].ne(MASK).long().argmax(dim=1).unique()))
    assert places[0] == 1
    assert places[2] == 8


def test_what_was_unsure_is_masked_again_within_the_budget():
    """The network is unsure of its first token until it sees the others, and then corrects it."""

    def read(reading):
        logits = torch.zeros(*reading.ids.shape, VOCAB)
        knows = (reading.ids[:, 1:] != MASK).all(dim=1)
        logits[:, 0, FIRST] = 1.0
        logits[:, 0, FIRST + 1] = torch.where(knows, 60.0, 0.9)
        logits[:, 1:, FIRST + 2] = 50.0
        return logits[reading.where]

    class LeftToRight:
        def looks_at(self, opening):
            return None

        def choose(self, opening, logits, *, where):
            first = opening.is_open.long().argmax(dim=1)
            return torch.arange(opening.is_open.shape[1]) == first[:, None]

    ids = torch.full((1, 3), MASK)
    best = {"order": LeftToRight(), "tokens": TokenPolicy(temperature=0.0), "max_steps": 9}
    plain = run(ids, read=read, **best)
    assert plain.ids.tolist() == [[FIRST, FIRST + 2, FIRST + 2]]
    again = run(ids, read=read, remasking=Remasking(count=1, budget=2, below=0.9), **best)
    # It is masked again after the second step, in vain, and after the third.
    assert again.steps == [5]
    assert again.ids.tolist() == [[FIRST + 1, FIRST + 2, FIRST + 2]]
    once = run(ids, read=read, remasking=Remasking(count=1, budget=1, below=0.9), **best)
    assert once.steps == [4]


@given(seed=st.integers(0, 99), count=st.integers(1, 4), budget=st.integers(1, 9))
@settings(max_examples=30)
def test_remasking_keeps_to_its_budget(seed, count, budget):
    watch = Watch()
    order = FillOrder(confidence="top_prob", counts=FixedCount(2))
    remasking = Remasking(count=count, budget=budget)
    ids = random_ids(seed)
    run(ids, read=watch, order=order, remasking=remasking, max_steps=40)
    seen = {}
    n_again = [0] * len(ids)
    for reading in watch.readings:
        for row, now in zip(reading.rows.tolist(), reading.ids, strict=True):
            if row in seen:
                again = int(((seen[row] != MASK) & (now == MASK)).sum())
                assert again <= count
                n_again[row] += again
            seen[row] = now
    assert max(n_again) <= budget


def test_a_text_ends_with_its_token():
    tokens = torch.tensor([[4, 5, EOS, 6, 7, 8], [EOS, 4, EOS, 5, 5, 5]])

    def oracle(reading):
        logits = torch.zeros(*reading.ids.shape, VOCAB)
        logits.scatter_(2, tokens[reading.rows][:, :, None], 50.0)
        return logits[reading.where]

    ids = torch.full((2, 6), MASK)
    ids[1, :2] = torch.tensor([EOS, 4])  # given, so no end
    best = {"tokens": TokenPolicy(temperature=0.0), "order": FillOrder(block_length=1)}
    found = run(ids, read=oracle, stops=[StopAtToken(token_id=EOS)], max_steps=6, **best)
    assert found.ids.tolist() == [[4, 5, EOS, PAD, PAD, PAD], [EOS, 4, EOS, PAD, PAD, PAD]]
    assert found.steps == [3, 1]
    whole = run(ids, read=oracle, max_steps=6, **best)
    assert whole.steps == [6, 4]


def test_a_text_ends_with_its_strings_and_few_gaps_are_filled_at_once():
    words = {PAD: "_", MASK: "?", EOS: ".", 3: "a", 4: "b", 5: "c", 6: "d", 7: "e", 8: "f"}
    truth = torch.tensor([[3, 3, 4, 5, 6, 7, 8, 8]])

    class LastFirst:
        def looks_at(self, opening):
            return None

        def choose(self, opening, logits, *, where):
            places = torch.arange(opening.is_open.shape[1])
            return places == (opening.is_open * (places + 1)).argmax(dim=1, keepdim=True)

    def oracle(reading):
        logits = torch.zeros(*reading.ids.shape, VOCAB).scatter_(2, truth[:, :, None], 50.0)
        return logits[reading.where]

    def until(strings, force_fill_max=0):
        decode = lambda row: "".join(words[token] for token in row)  # noqa: E731
        return StopAtStrings(strings=strings, decode=decode, force_fill_max=force_fill_max)

    best = {"tokens": TokenPolicy(temperature=0.0), "order": LastFirst(), "max_steps": 8}
    ids = torch.full((1, 8), MASK)
    for most, n_steps in ((0, 8), (1, 8), (2, 7), (3, 6), (8, 6)):
        found = run(ids, read=oracle, stops=[until(["x", "cd"], most)], **best)
        assert found.ids.tolist() == [[3, 3, 4, 5, 6, PAD, PAD, PAD]]
        assert found.steps == [n_steps]
    assert torch.equal(run(ids, read=oracle, stops=[until(["dc"])], **best).ids, truth)
    # After five steps "cd" stands and three gaps are left; filled at once, they bring an end that
    # comes before it.
    two = [until(["cd"], 8), until(["aa"]), StopAtToken(token_id=EOS)]
    found = run(ids, read=oracle, stops=two, **best)
    assert found.ids.tolist() == [[3, 3, *[PAD] * 6]]
    assert found.steps == [6]
    # "ef" stands after three steps, with five gaps before it, and four after another one; after
    # five, "cd" ends the text, with three gaps, and what the rule of "ef" would do is not asked.
    for most_of_cd, most_of_ef, n_steps in ((0, 0, 8), (3, 0, 6), (0, 3, 8), (0, 4, 5), (0, 5, 4)):
        rules = [until(["cd"], most_of_cd), until(["ef"], most_of_ef)]
        found = run(ids, read=oracle, stops=rules, **best)
        assert found.ids.tolist() == [[3, 3, 4, 5, 6, PAD, PAD, PAD]]
        assert found.steps == [n_steps], (most_of_cd, most_of_ef)


def test_texts_of_a_batch():
    class Tokenizer:
        mask_token_id, pad_token_id = MASK, PAD

    ids = torch.tensor([[PAD, 4, MASK], [3, MASK, 4]])
    shown = torch.tensor([[False, True, True], [True] * 3])
    fixed = torch.tensor([[False, True, True], [True, False, True]])
    batch = {"input_ids": ids, "attention_mask": shown, "fixed_positions_mask": fixed}
    texts = Texts.of(batch, tokenizer=Tokenizer, max_new_tokens=2)
    assert texts.ids.tolist() == [[PAD, 4, MASK, MASK, MASK], [3, MASK, 4, MASK, MASK]]
    assert texts.is_open.long().tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 1, 1]]
    assert texts.positions.tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert texts.start == 3
    told = Texts.of({"input_ids": ids, "positions": ids}, tokenizer=Tokenizer)
    assert torch.equal(told.positions, ids)
    assert told.start == 0


def test_a_text_without_gaps_is_not_read():
    watch = Watch()
    found = run(torch.tensor([[3, 4], [5, MASK]]), read=watch)
    assert found.steps == [0, 1]
    assert found.seconds[0] == 0.0
    assert [len(reading.ids) for reading in watch.readings] == [1]


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="top_prob"):
        FillOrder(confidence="topprob")
    with pytest.raises(UnknownNameError, match="dependence"):
        DoubtLimit(0.1, "independence")
    with pytest.raises(ArgumentError, match="block_length is 0"):
        FillOrder(block_length=0)
    with pytest.raises(ArgumentError, match="noise is -1"):
        FillOrder(noise=-1.0)
    with pytest.raises(ArgumentError, match="temperature is 0"):
        FillOrder(temperature=0.0)
    with pytest.raises(ArgumentError, match="number is 0"):
        FixedCount(0)
    with pytest.raises(ArgumentError, match="temperature is -1"):
        TokenPolicy(temperature=-1.0)
    with pytest.raises(ArgumentError, match="exclude each other"):
        TokenPolicy(top_k=2, top_p=0.5)
    with pytest.raises(ArgumentError, match="top_p is 0"):
        TokenPolicy(top_p=0.0)
    with pytest.raises(UnknownNameError, match="sample_top_p"):
        TokenPolicy.of_method("top_p", top=1, p=0.5)
    with pytest.raises(ArgumentError, match="budget is 0"):
        Remasking(budget=0)
    with pytest.raises(ArgumentError, match="below is 2"):
        Remasking(below=2.0)
    with pytest.raises(ArgumentError, match="not empty"):
        StopAtStrings(strings=[""], decode=str)
    with pytest.raises(ArgumentError, match="max_steps is 0"):
        run(random_ids(0), max_steps=0)
    with pytest.raises(ArgumentError, match="streams for 1 rows"):
        run(random_ids(0), rows=torch.tensor([1]))
    with pytest.raises(ArgumentError, match="exclude each other"):
        run(random_ids(0), stops=[StopAtToken(token_id=EOS)], remasking=Remasking())


def test_a_method_reads_its_own_number_alone():
    numbers = {"top": 3, "p": 0.5, "temperature": 0.7}
    for method, read in (
        ("sample", {}),
        ("sample_top_k", {"top_k": 3}),
        ("sample_top_p", {"top_p": 0.5}),
    ):
        assert TokenPolicy.of_method(method, **numbers) == TokenPolicy(temperature=0.7, **read)


def test_even_shares_are_the_default():
    assert FillOrder().counts == EvenShare()

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from flexmdm_worlds import (
    BOS,
    EOS,
    LONGEST,
    MASK,
    PAD,
    TEXTS,
    TOKENIZER,
    A,
    B,
    Oracle,
    Table,
    exact_law,
    prompt_batch,
    shares,
    states,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.families.flexmdm import (
    CosineSchedule,
    FlexMDMInfillPredCollator,
    FlexMDMModel,
    FlexMDMNoiseSchedule,
    FlexMDMPredCollator,
    FlexMDMPredictor,
    SinSchedule,
)
from pellucid.xlm.datamodule import SimpleSpaceTokenizer

WORDS = SimpleSpaceTokenizer.for_numbers(12)
SPECIAL = torch.tensor([PAD, 1, MASK, EOS, BOS, 5, 6])
WAYS = [
    {},
    {"leap": "systematic"},
    {"temperature": 0.0},
    *({"confidence": name} for name in ("position", "top_prob", "prob_diff", "entropy")),
    {"confidence": "top_prob", "leap": "systematic", "top_k": 3},
    {"confidence": "prob_diff", "leap": "rounded", "temperature": 0.0},
    {"confidence": "position", "leap": "rounded", "top_p": 0.7, "stop_below": 0.5},
]


def seeded(sampler, seed=0):
    sampler.generator = torch.Generator().manual_seed(seed)
    return sampler


def predictor(model, max_steps=6, max_new_tokens=5, **given):
    return seeded(FlexMDMPredictor(max_steps, max_new_tokens, WORDS, model=model, **given))


@pytest.fixture(params=["expectation", "distribution"])
def model(make_model, request):
    return make_model(FlexMDMModel, len_predict_type=request.param, max_gap=5)


@pytest.fixture
def batch(pairs):
    return FlexMDMPredCollator(WORDS, 5, input_block_size=6)(pairs)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("max_steps", [2, 3, 9])
def test_texts_grow_between_the_prompt_and_eos(model, batch, way, max_steps):
    sampler, n_read = predictor(model, max_steps, **way), []
    handle = model.register_forward_pre_hook(lambda _, given: n_read.append(len(given[0])))
    found = sampler.predict(batch)
    handle.remove()
    ids = found["ids"]
    assert ids.shape == (3, 12)
    assert found["output_start_idx"] == 6
    assert torch.equal(ids[:, :6], batch["input_ids"][:, :6])
    assert max(found["steps_taken"]) <= max_steps
    assert sum(n_read) == sum(found["steps_taken"])
    for row in ids[:, 6:].tolist():
        end = row.index(EOS)
        assert not set(row[:end]) & set(SPECIAL.tolist())
        assert set(row[end + 1 :]) <= {PAD}


@given(
    seed=st.integers(0, 99),
    way=st.sampled_from(WAYS),
    steps=st.integers(2, 6),
    room=st.integers(1, 4),
)
@settings(max_examples=30)
def test_whatever_the_network_says_what_was_given_stays(seed, way, steps, room):
    """Given tokens stand in the output in their order, next to each other where that was asked."""
    torch.manual_seed(seed)
    model = FlexMDMModel(
        len(WORDS), 16, 1, 2, dropout=0.0, max_length=32, max_gap=6, len_predict_type="expectation"
    )
    nn.init.normal_(model.length_head.linear_out.weight)
    lengths = torch.randint(1, 7, (4,))
    columns = torch.arange(8)
    shown = (columns >= 1) & (columns < 1 + lengths[:, None])
    ids = torch.randint(7, 19, (4, 8)).masked_fill(torch.rand(4, 8) < 0.3, MASK)
    ids = ids.masked_fill(~shown, PAD)
    batch = {"input_ids": ids, "attention_mask": shown, "fixed": torch.rand(4, 8) < 0.5}
    before = {name: held.clone() for name, held in batch.items()}
    state = torch.get_rng_state()
    found = seeded(predictor(model, steps, room, **way), seed).predict(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(held, batch[name]) for name, held in before.items())
    for row in range(4):
        given = ids[row][shown[row]].tolist()
        closed = batch["fixed"][row][shown[row]].tolist()
        out = [token for token in found["ids"][row].tolist() if token != PAD]
        assert len(given) <= len(out) <= len(given) + room
        assert MASK not in out
        assert fits(out, given, closed)


def fits(out, given, closed):
    """Say whether a text is the given one with tokens inserted where that is allowed."""
    reached = {0}
    for token, is_closed in zip(given, closed, strict=True):
        starts = reached if is_closed else {e for s in reached for e in range(s, len(out))}
        reached = {s + 1 for s in starts if s < len(out) and (token == MASK or out[s] == token)}
    # After the last given token there is no slot.
    return len(out) in reached


def ask(model, n_rows, max_steps, *, room=LONGEST, schedule=None, **way):
    sampler = FlexMDMPredictor(
        max_steps, room, TOKENIZER, model=model, noise_schedule=schedule, **way
    )
    return seeded(sampler).predict(prompt_batch(n_rows))


def texts_of(found):
    rows = found["ids"][:, found["output_start_idx"] :].tolist()
    return Counter(tuple(row[: row.index(EOS)]) for row in rows)


EXACT_WAYS = [
    {"leap": "systematic"},
    {"leap": "systematic", "confidence": "entropy"},
    {"leap": "rounded", "confidence": "prob_diff", "temperature": 0.0},
    {"leap": "rounded", "confidence": "position"},
]


@pytest.mark.parametrize("way", EXACT_WAYS, ids=str)
@pytest.mark.parametrize("kind", ["expectation", "distribution"])
def test_who_knows_the_text_writes_it(kind, way):
    """With one text in the world, whose tokens differ, what is missing is inserted, no more."""
    for text in ((), (A,), (A, B)):
        model = Oracle({text: 1.0}, kind=kind)
        assert texts_of(ask(model, 50, 2, **way)) == {text: 50}
        lengths = {len(one) for n in (3, 7, 30) for one in texts_of(ask(model, 50, n, **way))}
        assert lengths == {len(text)}
    # A token that is shown and one that comes in beside it are independent within a leap.
    assert texts_of(ask(model, 200, 60, **way))[A, B] > 180


@pytest.mark.parametrize("kind", ["expectation", "distribution"])
def test_leaps_of_slots_alone_need_to_be_small(kind):
    """Tau-leaping inserts too much if two slots take the one missing token; ever more rarely."""
    model = Oracle({(A, B): 1.0}, kind=kind)
    shares_right = [texts_of(ask(model, 500, n, room=6))[A, B] / 500 for n in (4, 20, 120)]
    assert shares_right == sorted(shares_right)
    assert shares_right[-1] > 0.93
    systematic = texts_of(ask(model, 500, 5, room=6, leap="systematic"))
    assert {len(text) for text in systematic} == {2}


# With 3,000 texts a chance that is off by 0.08 is found in more than 99 of 100 cases, and one that
# is right is called wrong in fewer than one of 100,000.
N = 3000
LAW_WAYS = [{}, {"leap": "systematic"}]


@pytest.mark.parametrize("way", LAW_WAYS, ids=str)
def test_texts_have_the_law_of_the_rates(way):
    """For a network that says anything, against the equations of its process."""
    model = Table(2)
    law, found = exact_law(model, 1 - 1e-5), texts_of(ask(model, N, 80, **way))
    assert set(found) <= set(law)
    for text, chance in law.items():
        error = math.sqrt(chance * (1 - chance) / N)
        # Leaps of 1/80 leave an error of that order.
        assert abs(found[text] / N - chance) < 4.5 * error + 0.01


@pytest.mark.parametrize(
    ("schedule", "leap", "kind"),
    [
        (None, "independent", "expectation"),
        (SinSchedule(), "systematic", "distribution"),
        (CosineSchedule(), "independent", "distribution"),
    ],
    ids=["linear", "sin", "cosine"],
)
def test_who_knows_the_world_writes_it(schedule, leap, kind):
    noise = None if schedule is None else FlexMDMNoiseSchedule(schedule, schedule)
    model = Oracle(schedule=schedule, kind=kind)
    found = texts_of(ask(model, N, 60, room=6, schedule=noise, leap=leap))
    strange = N - sum(found[text] for text in TEXTS)
    assert strange < 0.08 * N
    for text, chance in TEXTS.items():
        error = math.sqrt(chance * (1 - chance) / N)
        assert abs(found[text] / N - chance) < 4.5 * error + 0.025


class Watched(Oracle):
    """Notes what it reads."""

    def forward(self, x_t, t, attention_mask=None, *, where=None):
        self.seen = [*getattr(self, "seen", []), (float(t[0]), x_t)]
        return super().forward(x_t, t, attention_mask, where=where)


@pytest.mark.parametrize("way", LAW_WAYS, ids=str)
def test_on_their_way_texts_are_like_noised_ones(way):
    """What the network reads at a time has the law of the noising process at that time."""
    model = Watched()
    ask(model, N, 81, room=9, **way)
    for step in (20, 40, 60):
        t, ids = model.seen[step]
        assert t == pytest.approx(step / 80)
        assert len(ids) == N
        chances = [float(share) for share in shares(torch.tensor(t, dtype=torch.float64))]
        law = {}
        for text, p in TEXTS.items():
            for state in states(text):
                chance = p * math.prod(chances[how] for how in state.pattern)
                law[state.string] = law.get(state.string, 0.0) + chance
        rows = (tuple(c for c in row if c not in (BOS, EOS, PAD)) for row in ids.tolist())
        found = Counter(rows)
        for string, chance in law.items():
            error = math.sqrt(chance * (1 - chance) / N)
            assert abs(found[string] / N - chance) < 4.5 * error + 0.01


class Constant(nn.Module):
    """A network that expects one number everywhere."""

    len_predict_type, max_length = "expectation", 64

    def __init__(self, gap):
        super().__init__()
        self.gap, self.n_masks = gap, []

    def forward(self, x_t, t, attention_mask=None, *, where=None):
        self.n_masks.append((x_t == MASK).sum(1).double())
        logits = torch.zeros(*x_t.shape, len(TOKENIZER), dtype=torch.float64)
        return (logits if where is None else logits[where]), torch.full(x_t.shape, self.gap)


@pytest.mark.parametrize("confidence", [None, "position", "top_prob"])
@pytest.mark.parametrize("leap", ["independent", "systematic"])
@pytest.mark.parametrize("schedule", [None, SinSchedule()], ids=["the own", "sin"])
def test_masks_are_lifted_at_the_pace_of_the_schedule(schedule, leap, confidence):
    """Of 20 masks, 20 (1 - at(t)) are left at time t, whichever of them go first."""
    n_steps, n_rows = 11, 400
    ids = torch.tensor([[BOS, *[MASK] * 20, EOS]]).expand(n_rows, -1)
    shown = torch.ones_like(ids, dtype=torch.bool)
    batch = {"input_ids": ids, "attention_mask": shown, "fixed": shown}
    noise = FlexMDMNoiseSchedule(None, schedule)
    model = Constant(0.0)
    sampler = FlexMDMPredictor(
        n_steps,
        1,
        TOKENIZER,
        model=model,
        noise_schedule=noise,
        leap=leap,
        confidence=confidence,
    )
    found = seeded(sampler).predict(batch)
    t = torch.arange(n_steps - 1, dtype=torch.float64) / (n_steps - 1)
    passed = noise.unmasking_noise_schedule.at(t)
    assert len(model.n_masks) >= n_steps - 1
    for n_masks, share in zip(model.n_masks, passed, strict=False):
        left = n_masks.sum() / n_rows
        assert abs(float(left - 20 * (1 - share))) < 4.5 * math.sqrt(20 / 4 / n_rows) + 0.01
    assert not (found["ids"] == MASK).any()
    assert max(found["steps_taken"]) <= n_steps


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_full_buffer_takes_what_fits(way):
    model = Constant(50.0)
    found = ask(model, 20, 6, room=4, **way)
    assert (found["ids"][:, :-1] != EOS).all()
    assert (found["ids"][:, -1] == EOS).all()
    assert not torch.isin(found["ids"][:, 1:-1], SPECIAL).any()


@pytest.mark.parametrize("way", [way for way in WAYS if way.get("leap") != "rounded"], ids=str)
def test_a_rows_sample_is_its_own(model, pairs, way):
    """It does not depend on the rows beside it, nor on padding, nor on what the rows are beside."""
    model.double()
    narrow = FlexMDMPredCollator(WORDS, 5, input_block_size=5)(pairs)
    wide = FlexMDMPredCollator(WORDS, 5, input_block_size=9)(pairs)
    numbered = {"row_ids": torch.tensor([4, 11, 7]), "row_seed": 3}

    def written(batch, rows=(0, 1, 2)):
        held = {**batch, **numbered}
        one = {name: v if name == "row_seed" else v[list(rows)] for name, v in held.items()}
        found = predictor(model, 8, 5, **way).predict(one)
        return [row[found["output_start_idx"] :].tolist() for row in found["ids"]]

    together = written(narrow)
    assert written(wide) == together
    assert written(narrow, (2, 0)) == [together[2], together[0]]
    for row in range(3):
        assert written(narrow, (row,)) == [together[row]]


def test_histories_tell_how_texts_came_about():
    found = ask(Oracle({(A, B): 1.0}), 3, 9, leap="systematic", return_history=True)
    for row, steps in zip(found["history"], found["steps_taken"], strict=True):
        texts, times, reads = zip(*row, strict=True)
        assert len(row) == steps
        assert list(times) == sorted(times)
        assert reads[-1] == steps
        assert texts[-1] == "[BOS] 0 1 [EOS]"
        lengths = [len(text.split()) for text in texts]
        assert lengths == sorted(lengths)
        assert any("[MASK]" in text for text in texts)
    assert "history" not in ask(Oracle({(A, B): 1.0}), 1, 3)


def test_who_has_nothing_left_to_expect_is_done():
    way = {"leap": "rounded", "confidence": "top_prob", "temperature": 0.0}
    model = Oracle({(A, B): 0.5, (): 0.5})
    slow = ask(Oracle({(): 1.0}), 2, 30, **way)
    quick = ask(Oracle({(): 1.0}), 2, 30, stop_below=0.1, **way)
    assert slow["steps_taken"] == [29, 29]
    assert quick["steps_taken"] == [1, 1]
    assert texts_of(slow) == texts_of(quick)
    assert min(ask(model, 2, 30, stop_below=0.1, **way)["steps_taken"]) > 1


def test_texts_are_completed_and_filled_anywhere(model):
    sampler = predictor(model, 6, 4)
    prompts = ["1 2", ""]
    generator = torch.Generator().manual_seed(0)
    first = sampler.generate(prompts, generator=generator)
    assert first == sampler.generate(prompts, generator=generator.manual_seed(0))
    gaps = [{"input_ids": [7, MASK, 9]}, {"input_ids": [8]}]
    batch = FlexMDMInfillPredCollator(WORDS, 8)(gaps)
    found = sampler.predict(batch)
    assert found["output_start_idx"] == 1
    for row, example in zip(found["ids"].tolist(), gaps, strict=True):
        out = row[1 : row.index(EOS)]
        given = [*example["input_ids"], EOS]
        assert fits([*out, EOS], given, [False] * len(given))
    records = sampler.to_dict(batch, found)
    assert [record["text"] for record in records] == found["text"]


def test_without_a_limit_the_model_is_the_limit(make_model):
    model = make_model(FlexMDMModel, max_length=9, len_predict_type="expectation")
    nn.init.constant_(model.length_head.linear_out.bias, 5.0)
    found = predictor(model, 4, None).predict(prompt_batch(2))
    assert found["ids"].shape == (2, 9)
    assert (found["ids"][:, -1] == EOS).all()

    # Whatever padding stands before a prompt.
    ids = torch.tensor([[PAD, PAD, BOS, EOS], [BOS, 7, 8, EOS]])
    batch = {"input_ids": ids, "attention_mask": ids != PAD, "fixed": ids != EOS}
    padded = predictor(model, 4, None).predict(batch)["ids"]
    assert (padded != PAD).sum(dim=1).tolist() == [9, 9]
    assert padded[0, -1] == padded[1, -3] == EOS


def test_bad_input_is_named(model, batch):
    with pytest.raises(ArgumentError, match="max_steps is 1; one step inserts"):
        predictor(model, 1)
    with pytest.raises(ArgumentError, match="max_new_tokens is 0"):
        predictor(model, 3, 0)
    with pytest.raises(UnknownNameError, match="prob_diff"):
        predictor(model, confidence="margin")
    with pytest.raises(UnknownNameError, match="systematic"):
        predictor(model, leap="tau")
    with pytest.raises(ArgumentError, match="must order the masks; choose a"):
        predictor(model, leap="rounded")
    with pytest.raises(ArgumentError, match="confidence_temperature is 0"):
        predictor(model, confidence="entropy", confidence_temperature=0.0)
    for eps in (-0.1, 1.0):
        with pytest.raises(ArgumentError, match=f"eps is {eps}; give a share of the time"):
            predictor(model, eps=eps)
    with pytest.raises(ArgumentError, match="exclude each other"):
        predictor(model, top_k=2, top_p=0.5)
    other = {"expectation": "distribution", "distribution": "expectation"}[model.len_predict_type]
    with pytest.raises(ArgumentError, match=r"the model predicts .* set model\.len_predict_type"):
        predictor(model, len_predict_type=other).predict(batch)
    wrong = predictor(model)
    wrong.tokenizer = SimpleNamespace(pad_token_id=3, eos_token_id=3, mask_token_id=2)
    with pytest.raises(RequirementError, match="padding and EOS are one token"):
        wrong.predict(batch)


def test_worlds_are_what_they_are_said_to_be():
    assert sum(TEXTS.values()) == pytest.approx(1)
    for text in TEXTS:
        t = torch.tensor(0.3, dtype=torch.float64)
        chances = [float(share) for share in shares(t)]
        patterns = itertools.product(range(3), repeat=len(text))
        assert sum(math.prod(chances[how] for how in one) for one in patterns) == pytest.approx(1)

import math

import pytest
import torch
from flexmdm_worlds import BOS, EOS, MASK, PAD, TOKENIZER, encode, shares, states
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import RequirementError
from pellucid.families.flexmdm import (
    CosineSchedule,
    FlexMDMNoiseSchedule,
    FlexMDMTrainCollator,
    GeometricSchedule,
    LinearSchedule,
    PolynomialSchedule,
    SinSchedule,
)
from pellucid.families.flexmdm._noising import add_noise, check_tokenizer, noisable, remove
from pellucid.xlm.datamodule import SimpleSpaceTokenizer

SCHEDULES = [
    LinearSchedule(),
    GeometricSchedule(0.05, 4.0),
    SinSchedule(),
    CosineSchedule(),
    PolynomialSchedule(2.0),
]
NAMES = [type(schedule).__name__ for schedule in SCHEDULES]
N = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def times(t):
    return torch.full((N,), t)


def batch_of_one(n_tokens):
    ids = torch.tensor([[BOS, *[7] * n_tokens, EOS, PAD]]).expand(N, -1).contiguous()
    shown = ids != PAD
    return {"input_ids": ids, "attention_mask": shown, "fixed": (ids == BOS) | ~shown}


def deviation(count, chance, n=N):
    """Return by how many standard deviations a count is off."""
    return abs(count - n * chance) / math.sqrt(n * chance * (1 - chance) + 1e-9)


# With 20,000 draws a share that is off by 0.02 is found in more than 99.9 of 100 cases; one that is
# right is called wrong (at 4.5 deviations) in fewer than one of 100,000.
@pytest.mark.parametrize("t", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_a_token_is_missing_masked_or_shown_as_often_as_the_closed_form_says(schedule, t):
    both = FlexMDMNoiseSchedule(schedule, schedule)
    noised = add_noise(batch_of_one(1), times(t), both, tokenizer=TOKENIZER, generator=seeded())
    missing = int((noised.gaps.sum(1) == 1).sum())
    masked = int(noised.is_mask.sum())
    shown = int((noised.ids == 7).sum())
    assert missing + masked + shown == N
    passed = schedule.at(torch.tensor(t, dtype=torch.float64))
    for count, chance in zip((missing, masked, shown), shares(passed), strict=True):
        assert deviation(count, float(chance)) < 4.5


@pytest.mark.parametrize("inserting", SCHEDULES, ids=NAMES)
def test_two_schedules_go_together(inserting):
    unmasking, t = SinSchedule(), 0.6
    noise = FlexMDMNoiseSchedule(inserting, unmasking)
    noised = add_noise(batch_of_one(1), times(t), noise, tokenizer=TOKENIZER, generator=seeded(1))
    # Shown by t: inserted at some s, and shown between s and t.
    s = torch.linspace(0, t, 20_001, dtype=torch.float64)
    shown = unmasking.hazard_within(s, torch.full_like(s, t))
    chance = torch.trapezoid(inserting.derivative_at(s) * shown, s)
    assert deviation(int((noised.ids == 7).sum()), float(chance)) < 4.5


def test_tokens_are_noised_independently():
    t, schedule = 0.4, FlexMDMNoiseSchedule()
    text = (7, 8, 7)
    ids = torch.tensor([[BOS, *text, EOS]]).expand(N, -1)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "fixed": ids == BOS,
    }
    noised = add_noise(batch, times(t), schedule, tokenizer=TOKENIZER, generator=seeded(2))
    chances = [float(share) for share in shares(torch.tensor(t, dtype=torch.float64))]
    expected = {}
    for state in states(text):
        # Slots after the text's own are those of rows that have more tokens left.
        key = (state.string, tuple((state.gaps + [0] * 3)[:4]))
        chance = math.prod(chances[how] for how in state.pattern)
        expected[key] = expected.get(key, 0.0) + chance
    found = {}
    for row, mask, gaps in zip(
        noised.ids.tolist(), noised.shown.tolist(), noised.gaps.tolist(), strict=True
    ):
        string = tuple(token for token, shown in zip(row, mask, strict=True) if shown)[1:-1]
        key = (string, tuple((gaps[1:] + [0] * 3)[:4]))
        found[key] = found.get(key, 0) + 1
    assert set(found) <= set(expected)
    for key, chance in expected.items():
        assert deviation(found.get(key, 0), chance) < 4.5


def naive_remove(ids, fixed, shown, is_missing, is_mask):
    """Take tokens away one by one."""
    out, targets, gaps, slots, gap = [], [], [], [], 0
    for at, token in enumerate(ids):
        if not shown[at]:
            continue
        if is_missing[at]:
            gap += 1
            continue
        out.append(MASK if is_mask[at] else token)
        targets.append(token)
        gaps.append(gap)
        slots.append(not fixed[at] or (at > 0 and not fixed[at - 1]))
        gap = 0
    return out, targets, gaps, slots


ROW = st.lists(
    st.tuples(st.integers(7, 8), st.sampled_from(["fixed", "missing", "mask", "shown"])),
    max_size=7,
)


@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_removing_is_what_it_is_one_by_one(rows):
    rows = [[(BOS, "fixed"), *row, (EOS, "shown")] for row in rows]
    width = max(map(len, rows)) + 1
    cells = [row + [(PAD, "pad")] * (width - len(row)) for row in rows]
    ids = torch.tensor([[token for token, _ in row] for row in cells])

    def where(kind):
        return torch.tensor([[how == kind for _, how in row] for row in cells])

    batch = {
        "input_ids": ids,
        "attention_mask": ~where("pad"),
        "fixed": where("fixed") | where("pad"),
    }
    before = {name: held.clone() for name, held in batch.items()}
    noised = remove(batch, where("missing"), where("mask"), tokenizer=TOKENIZER)
    assert all(torch.equal(held, batch[name]) for name, held in before.items())
    for row in range(len(rows)):
        given = [before[name][row].tolist() for name in ("input_ids", "fixed", "attention_mask")]
        out, targets, gaps, slots = naive_remove(
            *given, where("missing")[row].tolist(), where("mask")[row].tolist()
        )
        shown = noised.shown[row]
        assert shown.tolist() == [at < len(out) for at in range(shown.numel())]
        assert noised.ids[row][shown].tolist() == out
        assert noised.targets[row][shown].tolist() == targets
        assert noised.gaps[row][shown].tolist() == gaps
        assert noised.is_slot[row][shown].tolist() == slots
        assert (noised.ids[row][~shown] == PAD).all()
        assert not (noised.is_mask | noised.is_slot)[row][~shown].any()
        assert (noised.gaps[row][~shown] == 0).all()
        assert torch.equal(noised.is_mask[row][shown], noised.ids[row][shown] == MASK)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.999])
def test_what_is_given_and_eos_stay(t):
    rows = [
        {"prompt_ids": [7, 8, 7], "input_ids": [8, 7, 8, 8]},
        {"prompt_ids": [8], "input_ids": []},
    ]
    batch = FlexMDMTrainCollator(TOKENIZER, 6, input_block_size=4)(rows)
    schedule = FlexMDMNoiseSchedule()
    for seed in range(20):
        noised = add_noise(
            batch, torch.full((2,), t), schedule, tokenizer=TOKENIZER, generator=seeded(seed)
        )
        assert noised.ids[0, :4].tolist() == [7, 8, 7, BOS]
        assert not noised.is_slot[0, :4].any()
        assert noised.ids[1, :3].tolist() == [8, BOS, EOS]
        assert (noised.ids == EOS).sum(1).tolist() == [1, 1]
        assert noised.is_slot[noised.ids == EOS].all()
        # What is missing and what is there make the whole.
        n_there = (noised.shown & noised.is_slot).sum(1) - 1
        assert (n_there + noised.gaps.sum(1)).tolist() == [4, 0]
        if t == 0:
            assert noised.gaps.sum(1).tolist() == [4, 0]
    assert torch.equal(noisable(batch, TOKENIZER), batch["target_ids"] != -100)


def test_the_generator_decides_all():
    batch, before = batch_of_one(3), torch.get_rng_state()

    def draw(seed):
        return add_noise(
            batch, times(0.5), FlexMDMNoiseSchedule(), tokenizer=TOKENIZER, generator=seeded(seed)
        )

    assert torch.equal(draw(0).ids, draw(0).ids)
    assert not torch.equal(encode(draw(0).ids), encode(draw(1).ids))
    assert torch.equal(torch.get_rng_state(), before)


def test_padding_and_eos_must_differ():
    class Shared(SimpleSpaceTokenizer):
        pad_token_id = EOS

    class Maskless:
        pad_token_id, eos_token_id, mask_token_id = 0, 1, None

    with pytest.raises(RequirementError, match="padding and EOS are one token, 3"):
        check_tokenizer(Shared.for_numbers(3))
    with pytest.raises(RequirementError, match=r"no token for \['mask'\]"):
        check_tokenizer(Maskless())
    check_tokenizer(TOKENIZER)

import math

import pytest
import torch
from family_tools import BOS, EOS, MASK, PAD, UNK
from torch import nn

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.families.mdlm import (
    MDLMInfillPredCollator,
    MDLMPredictor,
    MDLMSeq2SeqPredCollator,
    ReverseTimes,
    likely_noise,
)
from pellucid.xlm.noise import (
    ContinuousTimeCosine,
    ContinuousTimeGeometric,
    ContinuousTimeLogLinear,
    ContinuousTimePolynomial,
    DummyNoiseSchedule,
)
from pellucid.xlm.sampling import Remasking

SCHEDULES = [
    ContinuousTimeLogLinear(),
    ContinuousTimeCosine(),
    ContinuousTimePolynomial(),
    ContinuousTimeGeometric(),
]
WAYS = {
    **{type(one).__name__: {"noise_schedule": one} for one in SCHEDULES},
    "surest first": {"confidence": "top_prob"},
    "as many as are sure": {"confidence": "prob_diff", "threshold": 0.5},
    "by blocks": {"confidence": "entropy", "block_length": 2},
    "with remasking": {"confidence": "top_prob", "remasking": Remasking(budget=2)},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Oracle(nn.Module):
    """Says what it is made to, and remembers what it was asked.

    Args:
        answer: (ids, where) to logits of what is asked.
    """

    def __init__(self, answer):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer, self.asked = answer, []

    def forward(self, x_t, noise=None, attention_mask=None, positions=None, *, where=None):
        self.asked.append((x_t.clone(), noise.clone(), where))
        return self.answer(x_t, where)


def knows(whole, d_vocab):
    """Return an oracle of a text that is the same in all rows."""

    def answer(x_t, where):
        logits = torch.zeros(*x_t.shape, d_vocab)
        logits.scatter_(2, whole.expand(len(x_t), -1)[..., None], 50.0)
        return logits[where]

    return Oracle(answer)


@every_way
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_an_oracle_knows_is_written(tokenizer, way, temperature):
    """Prompts stay, and the text up to EOS comes back."""
    pairs = [{"prompt_ids": [8, 9, 10], "input_ids": [11, 12]}] * 3
    batch = MDLMSeq2SeqPredCollator(tokenizer, 5, input_block_size=6)(pairs)
    whole = torch.tensor([[PAD, PAD, 8, 9, 10, BOS, 11, 12, EOS, PAD, PAD]])
    oracle = knows(whole, len(tokenizer))
    predictor = MDLMPredictor(7, 5, tokenizer, model=oracle, temperature=temperature, **way)
    predictor.generator = torch.Generator().manual_seed(0)
    preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], whole.expand(3, -1))
    assert preds["text"] == ["4 5"] * 3
    assert preds["output_start_idx"] == 6
    assert all(1 <= steps <= 7 for steps in preds["steps_taken"])
    assert predictor.to_dict(batch, preds)[0]["text"] == "4 5"


def of_masks(tokenizer, rows, length):
    row = {"input_ids": [MASK] * length}
    return MDLMInfillPredCollator(tokenizer, length)([row] * rows)


def evenly(d_vocab):
    return Oracle(lambda x_t, where: torch.zeros(int(where.sum()), d_vocab))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_the_share_of_masks_is_that_of_the_schedule_at_each_time(tokenizer, schedule):
    """40,000 tokens: a share that is off by 1 point is found at 4 standard errors."""
    n_rows, length, n_steps = 100, 400, 8
    oracle = evenly(len(tokenizer))
    predictor = MDLMPredictor(n_steps, None, tokenizer, model=oracle, noise_schedule=schedule)
    predictor.generator = torch.Generator().manual_seed(0)
    predictor.predict(of_masks(tokenizer, n_rows, length))
    t = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64)
    masked = -torch.expm1(-schedule.total_noise(t))
    whole = [asked for asked in oracle.asked if len(asked[0]) == n_rows]
    seen = [float((ids == MASK).double().mean()) for ids, _, _ in whole]
    # A row in which nothing is filled is not read: only late steps fill something in all of them.
    told = [float(noise[0]) for _, noise, _ in whole]
    for share, noise in zip(seen, told, strict=True):
        expected = float(-torch.expm1(torch.tensor(-noise))) / float(masked[0])
        error = math.sqrt(max(expected * (1 - expected), 0) / (n_rows * length))
        assert abs(share - expected) < 4 * error + 1e-4
    assert len(whole) >= n_steps - 2
    nearest = (torch.tensor(told)[:, None] - schedule.total_noise(t)).abs().amin(dim=1)
    assert nearest.max() < 1e-4


def test_a_joint_distribution_is_sampled_from_its_conditionals(tokenizer):
    """4,000 pairs: a probability that is off by 3 points is found at 4 standard errors.

    In 200 steps two tokens are hardly ever filled in one.
    """
    d_vocab, words = len(tokenizer), slice(7, 10)
    joint = torch.tensor([[0.4, 0.0, 0.1], [0.0, 0.2, 0.0], [0.05, 0.05, 0.2]])

    def answer(x_t, where):
        logits = torch.full((*x_t.shape, d_vocab), -torch.inf)
        for at, table in ((0, joint), (1, joint.T)):
            other = x_t[:, 1 - at]
            known = table[:, (other - 7).clamp(0, 2)].T
            probs = torch.where((other == MASK)[:, None], table.sum(dim=1), known)
            logits[:, at, words] = probs.log()
        return logits[where]

    schedule = ContinuousTimeLogLinear(sigma_max=20.0)
    predictor = MDLMPredictor(200, None, tokenizer, model=Oracle(answer), noise_schedule=schedule)
    predictor.generator = torch.Generator().manual_seed(0)
    preds = predictor.predict(of_masks(tokenizer, 4000, 2))
    pairs = (preds["ids"] - 7) @ torch.tensor([3, 1])
    found = pairs.bincount(minlength=9).double() / 4000
    expected = joint.flatten().double()
    error = (expected * (1 - expected) / 4000).sqrt()
    # Where both are filled in one step, which is 1 in 200, they are independent.
    assert ((found - expected).abs() < 4 * error + 0.005).all()
    assert max(preds["steps_taken"]) <= 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"temperature": 0.5}, [0.7246, 0.1812, 0.0652, 0.0290]),
        ({"temperature": 0.0}, [1.0, 0, 0, 0]),
    ],
)
def test_tokens_are_filtered_by_their_logits(tokenizer, settings, expected):
    """10,000 tokens: a probability that is off by 2.5 points is found."""

    def answer(x_t, where):
        logits = torch.full((int(where.sum()), len(tokenizer)), -torch.inf)
        # What may not be written takes nothing away from the rest.
        logits[:, [MASK, BOS, UNK]] = 5.0
        logits[:, 7:11] = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
        return logits

    schedule = ContinuousTimeLogLinear()
    predictor = MDLMPredictor(
        5, None, tokenizer, model=Oracle(answer), noise_schedule=schedule, **settings
    )
    predictor.generator = torch.Generator().manual_seed(0)
    ids = predictor.predict(of_masks(tokenizer, 100, 100))["ids"]
    found = (ids - 7).flatten().bincount(minlength=4).double() / 10_000
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=0.02)


def test_by_confidence_the_network_is_told_the_likely_noise(tokenizer):
    oracle = evenly(len(tokenizer))
    predictor = MDLMPredictor(3, None, tokenizer, model=oracle, confidence="top_prob")
    predictor.predict(of_masks(tokenizer, 2, 6))
    shares = [float(-torch.expm1(-noise[0])) for _, noise, _ in oracle.asked]
    assert shares == pytest.approx([6 / 7, 4 / 7, 2 / 7])
    n_masks, n_tokens = torch.tensor([0, 3]), torch.tensor([5, 5])
    assert likely_noise(n_masks, n_tokens).tolist() == pytest.approx([0, math.log(2)])


def test_steps_are_equal_and_every_mask_is_filled_in_the_end():
    times = ReverseTimes.of(ContinuousTimeLogLinear(sigma_max=30.0), 4)
    assert [times.chance(step) for step in range(4)] == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    assert times.total_noise[-1] == 0


def test_no_row_is_read_in_vain(tokenizer):
    """Of 1,000 steps at most as many are reads as there are masks."""
    oracle = evenly(len(tokenizer))
    schedule = ContinuousTimeLogLinear()
    predictor = MDLMPredictor(1000, None, tokenizer, model=oracle, noise_schedule=schedule)
    preds = predictor.predict(of_masks(tokenizer, 3, 6))
    assert max(preds["steps_taken"]) <= 6
    assert sum(len(ids) for ids, _, _ in oracle.asked) == sum(preds["steps_taken"])


def test_texts_are_completed_and_gaps_filled(tokenizer):
    schedule = ContinuousTimeLogLinear()
    oracle = Oracle(lambda x_t, where: torch.eye(len(tokenizer))[9].expand(int(where.sum()), -1))
    gaps = MDLMPredictor(4, None, tokenizer, model=oracle, noise_schedule=schedule, temperature=0.0)
    assert gaps.generate(["1 [MASK] 3", "[MASK]"]) == ["1 2 3", "2"]
    more = MDLMPredictor(4, 2, tokenizer, model=oracle, noise_schedule=schedule, temperature=0.0)
    assert more.generate(["1 5", "3"]) == ["2 2", "2 2"]
    assert more.generate([]) == []


def test_ancestral_sampling_needs_a_schedule(tokenizer):
    oracle, batch = evenly(len(tokenizer)), of_masks(tokenizer, 1, 2)
    with pytest.raises(RequirementError, match="noise_schedule is None"):
        MDLMPredictor(2, None, tokenizer, model=oracle).predict(batch)
    dummy = DummyNoiseSchedule()
    with pytest.raises(RequirementError, match="asked of the dummy"):
        MDLMPredictor(2, None, tokenizer, model=oracle, noise_schedule=dummy).predict(batch)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_steps": 0}, ArgumentError, "max_steps is 0"),
        ({"max_new_tokens": 0}, ArgumentError, "max_new_tokens is 0"),
        ({"top_k": 1, "top_p": 0.5}, ArgumentError, "exclude each other"),
        ({"top_k": 0}, ArgumentError, "top_k is 0"),
        ({"temperature": -1.0}, ArgumentError, "temperature is -1.0"),
        ({"threshold": 0.1}, ArgumentError, "'threshold': 0.1} needs a confidence"),
        ({"block_length": 2}, ArgumentError, "needs a confidence"),
        ({"remasking": Remasking()}, ArgumentError, "needs a confidence"),
        ({"confidence": "guess"}, UnknownNameError, "confidence"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        MDLMPredictor(**{"max_steps": 3, **settings})

"""The batch size that takes the least time a token is found, and kept to."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import Targets, map_in_batches
from pellucid.hf import LMHFModel, _pace
from pellucid.hf._pace import Pace, Paces
from pellucid.testing import tiny_llama, tiny_tokenizer


class Machine:
    """Takes so long for a token, according to the batch size."""

    _forward_pass_batch_size = 10**6

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = 0.0
        self.n_tokens = 0
        self.sizes = []
        self.pace = Pace(list(seconds), clock=lambda: self.now)

    def compute(self, rows):
        n = rows.stop - rows.start
        self.sizes.append(n)
        self.n_tokens += 7 * n
        self.now += 7 * n * self.seconds.get(n, 1.0)
        return n

    def map(self, n_items):
        self.sizes.clear()
        return map_in_batches(
            self.pace.time(self.compute, lambda: self.n_tokens),
            n_items,
            owner=self,
            size_attribute="_forward_pass_batch_size",
            prefer_size=self.pace.prefer_size,
        )


@given(st.permutations([1.0, 2.0, 3.0, 4.0]), st.lists(st.integers(1, 600), max_size=5))
def test_the_fastest_size_is_found_whatever_was_asked_before(speeds, asked):
    machine = Machine(dict(zip([16, 32, 64, 128], speeds, strict=True)))
    for n in [*asked, 600, 600]:
        assert sum(machine.map(n)) == n
    machine.map(640)
    fastest = min(machine.seconds, key=machine.seconds.get)
    assert set(machine.sizes) == {fastest}


def test_each_size_is_timed_twice():
    machine = Machine(dict.fromkeys([2, 4], 1.0))
    machine.map(14)
    assert machine.sizes == [2, 4, 2, 4, 2]


def test_of_sizes_that_are_as_fast_the_smallest_is_taken():
    machine = Machine({2: 1.02, 4: 1.0, 8: 0.995})
    machine.map(100)
    machine.map(20)
    assert set(machine.sizes) == {2}


def test_few_items_are_computed_at_once_before_anything_is_known():
    machine = Machine({16: 1.0})
    machine.map(9)
    assert machine.sizes == [9]


def test_a_tiny_model_and_few_candidates_have_a_size_of_their_own():
    assert [Paces(tiny_llama()).find("kind", n).prefer_size(n) for n in (5, 64, 500)] == [5, 32, 32]
    large = torch.nn.Linear(2000, 1000)
    assert Paces(large).find("kind", 64).prefer_size(64) == 32
    paces = Paces(large)
    assert paces.find("kind", 65) is paces.find("kind", 512)
    assert paces.find("kind", 65) is not paces.find("other", 65)


@pytest.fixture
def timed(monkeypatch):
    """Time even tiny models, at sizes that few candidates fill."""
    monkeypatch.setattr(_pace, "_MIN_WEIGHTS", 0)
    monkeypatch.setattr(_pace, "_MAX_UNTIMED", 0)
    monkeypatch.setattr(_pace, "Pace", functools.partial(Pace, (2, 3, 5)))


def test_losses_do_not_depend_on_it(timed, made):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    targets = Targets(target_response_strs=made.targets[:2])
    paced = LMHFModel(model, tokenizer=tokenizer)
    fixed = LMHFModel(model, tokenizer=tokenizer, forward_pass_batch_size=100)
    for lm in (paced, fixed):
        lm.set_inputs_from_tokens(["Why?\n" + made.templates[0], made.templates[2]], targets)
    ids = torch.randint(0, 384, (1, 5)).repeat(12, 1)
    ids[torch.arange(12), torch.arange(12) % 5] = torch.randint(0, 384, (12,))
    expected = fixed.compute_loss_from_tokens(ids, made.PrefillCE())
    for _ in range(3):
        ours = paced.compute_loss_from_tokens(ids, made.PrefillCE())
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    timings = [pace._seconds for pace in paced._paces._held.values()]
    assert len(timings) == 2
    assert all(len(times) == 2 for held in timings for times in held.values())


def test_what_is_logged_is_of_all_batches(made):
    lm = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer(), forward_pass_batch_size=2)
    lm.set_inputs_from_tokens(made.templates[:1], Targets(target_response_strs=made.targets[:1]))
    loss = made.PrefillCE()
    losses = lm.compute_loss_from_tokens(torch.randint(0, 384, (7, 5)), loss)
    assert loss.get_loss_log_dict() == {"PrefillCE": pytest.approx(losses.min().item())}

import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import StepRandom
from pellucid.optimizers._random import draw_seed

seeds = st.integers(min_value=0, max_value=2**63 - 1)


def draw(seed, step, purpose):
    return torch.rand(4, generator=StepRandom(seed, step).generator(purpose)).tolist()


@given(seeds, st.integers(1, 10_000))
def test_same_arguments_draw_the_same_and_others_do_not(seed, step):
    first = draw(seed, step, "a")
    assert first == draw(seed, step, "a")
    assert first != draw(seed, step, "b")
    assert first != draw(seed, step + 1, "a")
    assert first != draw(seed + 1, step, "a")


def test_step_and_seed_do_not_run_into_each_other():
    assert draw(1, 11, "a") != draw(11, 1, "a")


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw(1, 2, "a")
    assert torch.equal(before, torch.get_rng_state())


def test_drawn_seeds_differ():
    assert len({draw_seed() for _ in range(20)}) > 1

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import RunningBest, SearchState

losses = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1)


@given(losses)
def test_lowest_loss_wins_first_of_equals_nan_never(values):
    best = RunningBest()
    for i, value in enumerate(values):
        best = best.update(SearchState(trigger_ids=torch.tensor([i]), loss=value), str(i))
    comparable = [math.inf if math.isnan(value) else value for value in values]
    winner = min(range(len(values)), key=comparable.__getitem__)
    assert best.loss == comparable[winner]
    assert best.trigger_str == str(winner)
    assert best.trigger_ids.tolist() == [winner]

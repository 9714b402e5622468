import itertools

import pytest
import torch

from pellucid.core import LMBaseModel, LossTextAccessMixin, ModelOutput, RequirementError
from pellucid.optimizers import RandomSearchOptimizer, RandomSearchState, StepRandom
from pellucid.testing import TinyTokenizer

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def state_of(ids, loss=1.0, **more):
    return RandomSearchState(trigger_ids=torch.tensor(ids), loss=loss, **more)


def test_only_a_strictly_better_candidate_is_accepted(model, loss):
    optimizer = RandomSearchOptimizer(model, loss, patience=3)
    state = state_of([9, 9])
    candidates = torch.tensor([[1, 2], [3, 4]])
    equal = optimizer.tell(state, candidates, torch.tensor([1.0, 2.0]))
    assert (equal.trigger_ids.tolist(), equal.stale_steps, equal.local_step) == ([9, 9], 1, 1)
    better = optimizer.tell(equal, candidates, torch.tensor([2.0, 0.5]))
    assert (better.trigger_ids.tolist(), better.loss) == ([3, 4], 0.5)
    assert (better.stale_steps, better.local_step) == (0, 2)


def test_stuck_search_starts_again_from_random_triggers(model, loss, targets):
    optimizer = RandomSearchOptimizer(model, loss, patience=2, n_candidates=20)
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    stuck = state_of([40] * 6, local_step=9, stale_steps=2)
    candidates = optimizer.ask(problem, stuck, StepRandom(0, 1))
    assert ((candidates != 40).sum(dim=1) > 4).float().mean() > 0.8
    moved = optimizer.tell(stuck, candidates, torch.linspace(5, 6, 20))
    assert (moved.loss, moved.local_step, moved.stale_steps) == (5.0, 0, 0)


def test_blocks_shrink_in_the_course_of_the_search(model, loss):
    optimizer = RandomSearchOptimizer(model, loss, initial_block_len=32)
    lengths = [optimizer._block_len(step) for step in (0, 10, 11, 26, 51, 101, 501)]
    assert lengths == [32, 32, 16, 8, 4, 2, 1]
    fixed = RandomSearchOptimizer(model, loss, initial_block_len=32, schedule="none")
    assert fixed._block_len(1000) == 32


def test_single_cyclic_changes_one_position_after_the_other(model, loss, targets):
    optimizer = RandomSearchOptimizer(model, loss, mutation_mode="single_cyclic", n_candidates=9)
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    for step in range(6):
        candidates = optimizer.ask(problem, state_of([0] * 4, local_step=step), StepRandom(0, step))
        changed = (candidates != 0).any(dim=0).nonzero().flatten().tolist()
        assert changed == [step % 4]


def test_loss_falls_until_a_restart_and_best_never_rises(model, loss, targets):
    optimizer = RandomSearchOptimizer(
        model, loss, seed=0, num_steps=30, n_candidates=8, patience=1000
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    path = [result.initial_loss, *result.losses]
    assert all(later <= earlier for earlier, later in itertools.pairwise(path))
    assert result.best_loss < result.initial_loss


class Parrot(LMBaseModel, LossTextAccessMixin):
    def invoke_from_texts(self, input_texts, **kwargs):
        return ModelOutput(generated_response_strs=list(input_texts))


def test_black_box_needs_a_tokenizer_of_its_own(loss):
    with pytest.raises(RequirementError, match=r"has no tokenizer\. Pass tokenizer="):
        RandomSearchOptimizer(Parrot(), loss)
    RandomSearchOptimizer(Parrot(), loss, tokenizer=TinyTokenizer())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mutation_mode": "blok"}, "mutation_mode must be one of block_random, single_cyclic"),
        ({"schedule": "slow"}, "schedule must be one of fixed, none"),
        ({"patience": 0}, "patience"),
        ({"initial_block_len": 0}, "initial_block_len"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(Exception, match=message):
        RandomSearchOptimizer(model, loss, **setting)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import LMBaseModel, RequirementError
from pellucid.optimizers import GCGOptimizer, ProbeSamplingGCGOptimizer, StepRandom
from pellucid.optimizers._probe_sampling import rank_correlation
from pellucid.testing import TinyLM, TinyTokenizer

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
values = st.integers(-3, 3)


def naive_correlation(a, b):
    def rank(values):
        return [
            sum(other < value for other in values) + (values.count(value) + 1) / 2
            for value in values
        ]

    x, y = (torch.tensor(rank(held), dtype=torch.float64) for held in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.square().sum() * y.square().sum()) ** 0.5
    return float((x * y).sum()) / scale if scale else 0.0


@given(st.lists(st.tuples(values, values), min_size=1, max_size=12))
def test_correlation_is_that_of_the_ranks(pairs):
    a, b = ([float(value) for value in held] for held in zip(*pairs, strict=True))
    found = rank_correlation(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(naive_correlation(a, b), abs=1e-9)
    assert -1 - 1e-9 <= found <= 1 + 1e-9


def test_correlation_of_infinite_losses_is_a_number():
    a = torch.tensor([1.0, torch.inf, 2.0, torch.inf])
    assert rank_correlation(a, a) == pytest.approx(1.0)
    assert rank_correlation(a, torch.zeros(4)) == 0.0


def build(model, loss, draft=None, **given):
    return ProbeSamplingGCGOptimizer(
        model,
        loss,
        draft_model=draft or TinyLM(seed=1, d_model=8),
        **{"n_candidates": 32, "sample_topk": 16, "sampling_factor": 4, **given},
    )


def walk(optimizer, targets, losses):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    state = optimizer.start(problem, problem.encode(START), 1.0)
    moves, rounds = optimizer.step(problem, state, StepRandom(0, 1)), []
    try:
        candidates = next(moves)
        while True:
            rounds.append(candidates)
            candidates = moves.send(losses(problem, candidates))
    except StopIteration as done:
        return problem, rounds, done.value


@pytest.mark.parametrize(("sign", "n_kept"), [(1.0, 1), (-1.0, 8)])
def test_agreement_decides_how_much_the_target_evaluates(model, loss, targets, sign, n_kept):
    def echo(problem, candidates):
        return sign * problem.auxiliary["draft"].compute_losses(candidates)

    optimizer = build(model, loss, reduction_factor=4)
    problem, (probe, kept), _ = walk(optimizer, targets, echo)
    assert (len(probe), len(kept)) == (8, n_kept)
    everything = optimizer.ask(
        problem, optimizer.start(problem, problem.encode(START), 1.0), StepRandom(0, 1)
    )
    draft_losses = problem.auxiliary["draft"].compute_losses(everything)
    best = everything[draft_losses.argsort()[:n_kept]].tolist()
    assert {tuple(row) for row in kept.tolist()} == {tuple(row) for row in best}
    assert {tuple(row) for row in probe.tolist()} <= {tuple(row) for row in everything.tolist()}


def test_step_moves_to_the_best_that_the_target_evaluated(model, loss, targets):
    _, rounds, after = walk(
        build(model, loss), targets, lambda problem, rows: problem.compute_losses(rows)
    )
    problem = build(model, loss).make_problem()
    problem.set_inputs(TEMPLATES, targets)
    losses = problem.compute_losses(torch.cat(rounds))
    assert after.loss == pytest.approx(float(losses.min()), abs=1e-6)
    assert torch.equal(after.trigger_ids, torch.cat(rounds)[losses.argmin()])


def test_target_evaluates_fewer_candidates_than_gcg(model, loss, targets):
    def count(optimizer):
        result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
        return result, result.usage["forward_samples"]

    settings = {"seed": 0, "num_steps": 6, "n_candidates": 32, "sample_topk": 16}
    fast, n_fast = count(
        ProbeSamplingGCGOptimizer(model, loss, draft_model=TinyLM(seed=0), **settings)
    )
    full, n_full = count(GCGOptimizer(TinyLM(seed=0), loss, **settings))
    assert n_fast < n_full / 3
    # A draft that is the target finds what GCG finds.
    assert fast.losses == pytest.approx(full.losses, abs=1e-5)


def test_draft_of_another_tokenizer_is_given_text(model, loss, targets):
    draft = TinyLM(seed=1, tokenizer=TinyTokenizer([" the", " cat"]))
    optimizer = build(model, loss, draft, seed=0, num_steps=3)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert draft.get_usage_stats()["forward_samples"] > 0
    assert draft.get_usage_stats()["grad_calls"] == 0
    assert result.best_loss < result.initial_loss


def test_draft_that_cannot_judge_is_refused(model, loss):
    class Silent(LMBaseModel):
        def invoke_from_texts(self, input_texts, **kwargs):
            raise AssertionError

    with pytest.raises(RequirementError, match=r"ProbeSamplingGCGOptimizer .*takes no text"):
        build(model, loss, Silent())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["sampling_factor", "reduction_factor"])
@pytest.mark.parametrize("value", [0, 0.5, float("nan"), "8"])
def test_senseless_factors_are_refused(model, loss, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 1"):
        build(model, loss, **{name: value})

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import (
    LMBaseModel,
    LossTextAccessMixin,
    NotDifferentiableError,
    RequirementError,
    select_topk,
)
from pellucid.optimizers import GCGPlusOptimizer, StepRandom, TokenConstraints
from pellucid.testing import TinyLM, TinyTokenizer

TEMPLATES = [
    "Say{{OPTIMIZED_TRIGGER}} please.",
    "Now{{OPTIMIZED_TRIGGER}} tell me:",
    "I{{OPTIMIZED_TRIGGER}} hear you.",
]
START = " the cat the cat"


@pytest.fixture
def targets(targets):
    return type(targets)(target_response_strs=["yes you", "no cat", "hello"])


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(START)
    return problem, optimizer.start(problem, ids, 1.0)


def walk(optimizer, problem, state, random, losses=None):
    """Take a step; return what was asked in each round, and the state after."""
    moves, asked = optimizer.step(problem, state, random), []
    try:
        candidates = next(moves)
        while True:
            asked.append(candidates)
            found = problem.compute_losses(candidates) if losses is None else losses(candidates)
            candidates = moves.send(found)
    except StopIteration as done:
        return asked, done.value


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 99),
    st.sampled_from(["gradient", "random", "focused"]),
    st.integers(1, 3),
    st.booleans(),
)
def test_candidates_obey_constraints_and_moves(model, loss, targets, seed, selection, n, momentum):
    banned = TokenConstraints(disallow_custom_token_ids=list(range(110, 128)))
    optimizer = GCGPlusOptimizer(
        model,
        loss,
        candidate_selection=selection,
        n_candidates=24,
        sample_topk=6,
        sample_n_replace=(n, n),
        momentum=0.9 * momentum,
        token_constraints=banned,
    )
    problem, state = prepare(optimizer, targets)
    asked, _ = walk(optimizer, problem, state, StepRandom(seed, 1))
    candidates, allowed = asked[-1], set(problem.allowed_ids(banned).tolist())
    changed = candidates != state.trigger_ids
    assert {int(token) for token in candidates[changed]} <= allowed
    assert changed.sum(dim=1).max() <= (1 if selection == "focused" else n)
    assert problem.survives(candidates).all()
    assert 1 <= len(candidates) <= 24
    if selection == "focused":
        assert changed.any(dim=0).sum() <= 1
        assert len(asked) == 2
    if selection == "gradient":
        grad = model.compute_grad_from_tokens(loss, state.trigger_ids[None])
        offered = select_topk(grad, 6, problem.allowed_ids(banned)).token_ids[0]
        for row, position in changed.nonzero().tolist():
            assert candidates[row, position] in offered[position]


def test_probe_decides_the_position(model, loss, targets):
    optimizer = GCGPlusOptimizer(model, loss, candidate_selection="focused", n_candidates=9)
    problem, state = prepare(optimizer, targets)
    n_positions = len(state.trigger_ids)

    def prefer_second(candidates):
        return torch.tensor([0.0 if row[1] != state.trigger_ids[1] else 1.0 for row in candidates])

    (probes, candidates), _ = walk(optimizer, problem, state, StepRandom(4, 1), prefer_second)
    assert len(probes) == n_positions
    assert ((probes != state.trigger_ids).sum(dim=1) <= 1).all()
    others = [i for i in range(n_positions) if i != 1]
    assert torch.equal(candidates[:, others], state.trigger_ids[others].expand(len(candidates), -1))


def test_momentum_is_the_running_mean_of_normalized_gradients(model, loss, targets):
    optimizer = GCGPlusOptimizer(model, loss, momentum=0.75, n_candidates=8, sample_topk=8)
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(optimizer.token_constraints)

    def slope(ids):
        grad = model.compute_grad_from_tokens(loss, ids[None])[0]
        return (grad / grad.norm(dim=-1, keepdim=True))[:, allowed]

    expected = slope(state.trigger_ids)
    _, first = walk(optimizer, problem, state, StepRandom(0, 1))
    torch.testing.assert_close(first.momentum, expected)
    expected = 0.75 * expected + 0.25 * slope(first.trigger_ids)
    _, second = walk(optimizer, problem, first, StepRandom(0, 2))
    torch.testing.assert_close(second.momentum, expected)


def test_no_trigger_is_evaluated_twice(model, loss, targets):
    optimizer = GCGPlusOptimizer(
        model, loss, skip_visited=True, n_candidates=16, sample_topk=3, candidate_selection="random"
    )
    problem, state = prepare(optimizer, targets)
    seen = {tuple(state.trigger_ids.tolist())}
    for step in range(1, 6):
        (candidates,), state = walk(optimizer, problem, state, StepRandom(0, step))
        rows = {tuple(row) for row in candidates.tolist()}
        assert not rows & seen
        seen |= rows
        assert len(state.visited) == len(seen)


def test_search_goes_on_where_everything_was_seen(model, loss, targets):
    first, second = (int(i) for i in model.tokenizer.encode(" the cat"))
    known = TokenConstraints(
        disallow_custom_token_ids=[i for i in range(128) if i not in (first, second)]
    )
    optimizer = GCGPlusOptimizer(
        model,
        loss,
        skip_visited=True,
        n_candidates=64,
        candidate_selection="random",
        token_constraints=known,
    )
    problem, state = prepare(optimizer, targets)
    for step in range(1, 12):
        asked, state = walk(optimizer, problem, state, StepRandom(0, step))
        assert len(asked[-1]) >= 1


def test_buffer_never_lets_the_loss_rise(model, loss, targets):
    optimizer = GCGPlusOptimizer(
        model, loss, seed=2, num_steps=8, n_candidates=6, buffer_size=4, sample_topk=8
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    path = [result.initial_loss, *result.losses]
    assert sorted(path, reverse=True) == path
    problem, state = prepare(optimizer, targets)
    for step in range(1, 4):
        _, state = walk(optimizer, problem, state, StepRandom(0, step))
        assert len(state.buffer_ids) <= 4
        assert state.buffer_losses.tolist() == sorted(state.buffer_losses.tolist())
        assert torch.equal(state.trigger_ids, state.buffer_ids[0])


def test_mini_batches_report_losses_on_all_templates(model, loss, targets):
    optimizer = GCGPlusOptimizer(
        model, loss, seed=1, num_steps=6, n_candidates=12, sample_topk=12, template_batch_size=1
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    model.set_inputs_from_texts(TEMPLATES, targets)
    exact = model.compute_loss_from_texts([*result.trigger_strs, result.best_trigger_str], loss)
    assert [*result.losses, result.best_loss] == pytest.approx(exact.tolist(), abs=1e-5)
    assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)


def test_mini_batches_compare_on_the_chosen_templates_and_leave_all_in_place(model, loss, targets):
    optimizer = GCGPlusOptimizer(
        model, loss, n_candidates=8, sample_topk=8, template_batch_size=2, buffer_size=2
    )
    problem, state = prepare(optimizer, targets)
    counted = []

    def count(candidates):
        counted.append((problem.n_templates, len(candidates)))
        return problem.compute_losses(candidates)

    walk(optimizer, problem, state, StepRandom(0, 1), count)
    assert counted == [(2, 8), (3, 1)]
    assert problem.n_templates == 3
    chosen = {tuple(optimizer._draw_templates(problem, StepRandom(0, s))) for s in range(30)}
    assert chosen == {(0, 1), (0, 2), (1, 2)}


def test_number_of_replacements_follows_its_schedule(model, loss):
    optimizer = GCGPlusOptimizer(model, loss, num_steps=5, sample_n_replace=(5, 1), sample_topk=8)
    assert [optimizer._n_replace(step) for step in range(1, 6)] == [5, 4, 3, 2, 1]
    single = GCGPlusOptimizer(model, loss, num_steps=1, sample_n_replace=(5, 1), sample_topk=8)
    assert single._n_replace(1) == 5
    fixed = GCGPlusOptimizer(model, loss, sample_n_replace=(2, 2), sample_topk=8)
    assert fixed._n_replace(300) == 2
    assert fixed.schedule_steps is None


class Remote(LMBaseModel, LossTextAccessMixin):
    """Answers text alone; what it thinks is what a local model thinks."""

    def __init__(self):
        self._inner = TinyLM(seed=0)

    def invoke_from_texts(self, input_texts, message_targets=None, require_target_prefill=False):
        return self._inner.invoke_from_texts(
            input_texts, message_targets, require_target_prefill=require_target_prefill
        )

    def set_inputs_from_texts(self, templates, targets=None):
        self._inner.set_inputs_from_texts(templates, targets)
        self._text_input_manager = self._inner._text_input_manager


def test_black_box_gets_text_and_the_proxy_gives_gradients(loss, targets):
    optimizer = GCGPlusOptimizer(
        Remote(), loss, seed=0, num_steps=6, proxy_model=TinyLM(1), n_candidates=16, sample_topk=32
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss
    assert optimizer.proxy_model.get_usage_stats()["grad_calls"] == 6 * len(TEMPLATES)
    assert result.tokenization_gap is None


def test_target_and_proxy_of_one_kind_give_one_run(model, loss, targets):
    def run(**proxy):
        optimizer = GCGPlusOptimizer(
            model, loss, seed=5, num_steps=4, n_candidates=8, sample_topk=8, **proxy
        )
        return optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False).losses

    assert run() == run(proxy_model=TinyLM(seed=0)) == run(proxy_model=model)


def test_random_selection_needs_a_tokenizer_and_no_gradient(loss, targets):
    with pytest.raises(RequirementError, match=r"no tokenizer\. Pass tokenizer="):
        GCGPlusOptimizer(Remote(), loss, candidate_selection="random")
    optimizer = GCGPlusOptimizer(
        Remote(),
        loss,
        seed=0,
        num_steps=3,
        n_candidates=8,
        candidate_selection="random",
        tokenizer=TinyTokenizer(),
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert all(map(math.isfinite, result.losses))


def test_proxy_that_cannot_do_it_is_refused(model, loss):
    class Steep(type(loss)):
        is_differentiable = False

    with pytest.raises(RequirementError, match="the proxy of GCGPlusOptimizer requires Gradient"):
        GCGPlusOptimizer(Remote(), loss)
    with pytest.raises(NotDifferentiableError, match=r"the proxy of GCGPlusOptimizer .*Steep has"):
        GCGPlusOptimizer(model, Steep())
    assert GCGPlusOptimizer(model, Steep(), proxy_loss=loss, sample_topk=8).proxy_loss is loss
    other = TinyTokenizer([" the"])
    with pytest.raises(RequirementError, match="Leave tokenizer= out"):
        GCGPlusOptimizer(model, loss, tokenizer=other)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"momentum": -0.1}, "momentum must be a number from 0 to 1"),
        ({"candidate_oversample_factor": 0.5}, "candidate_oversample_factor must be .* at least 1"),
        ({"sample_n_replace": 1}, "sample_n_replace must be the numbers"),
        ({"sample_n_replace": (1, 0)}, "sample_n_replace must be a whole number"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"template_batch_size": 0}, "template_batch_size"),
        ({"candidate_selection": "best"}, "candidate_selection must be one of gradient, random"),
        ({"sample_topk": 9999}, "sample_topk=9999 exceeds"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        GCGPlusOptimizer(model, loss, **{"sample_topk": 8, **setting})

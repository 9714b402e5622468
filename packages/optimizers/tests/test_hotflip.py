import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import RetokenizationError
from pellucid.optimizers import HotFlipOptimizer, StepRandom, TokenConstraints
from pellucid.testing import TinyTokenizer

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
TOKENIZER = TinyTokenizer()

banned = st.sets(st.integers(0, TOKENIZER.vocab_size - 1), max_size=60)
texts = st.text("abcth eno!", min_size=1, max_size=8)


def prepare(optimizer, targets, trigger):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(trigger), 0.0)


def rank_naively(model, loss, trigger_ids, allowed):
    """Every flip there is, by its first-order change of the loss."""
    grad = model.compute_grad_from_tokens(loss, trigger_ids[None])[0]
    changes = []
    for position, held in enumerate(trigger_ids.tolist()):
        for token in allowed.tolist():
            if token != held:
                change = float(grad[position, token] - grad[position, held])
                changes.append((change, position, token))
    return sorted(changes)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, banned)
def test_best_flip_of_all_is_proposed(model, loss, targets, trigger, banned):
    optimizer = HotFlipOptimizer(
        model,
        loss,
        use_retokenize=False,
        token_constraints=TokenConstraints(disallow_custom_token_ids=sorted(banned)),
    )
    problem, state = prepare(optimizer, targets, trigger)
    (candidate,) = optimizer.ask(problem, state, StepRandom(0, 1))
    allowed = problem.allowed_ids(optimizer.token_constraints)
    ranking = rank_naively(model, loss, state.trigger_ids, allowed)
    (position,) = (candidate != state.trigger_ids).nonzero().flatten().tolist()
    chosen = next(row for row in ranking if row[1:] == (position, int(candidate[position])))
    assert chosen[0] == pytest.approx(ranking[0][0], abs=1e-6)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, banned)
def test_retokenized_flip_survives_and_obeys(model, loss, targets, trigger, banned):
    optimizer = HotFlipOptimizer(
        model, loss, token_constraints=TokenConstraints(disallow_custom_token_ids=sorted(banned))
    )
    problem, state = prepare(optimizer, targets, trigger)
    (candidate,) = optimizer.ask(problem, state, StepRandom(0, 1))
    changed = candidate != state.trigger_ids
    allowed = problem.allowed_ids(optimizer.token_constraints)
    assert changed.any()
    assert torch.isin(candidate[changed], allowed).all()
    assert problem.survives(candidate[None])[0]


def test_flip_that_does_not_survive_yields_to_the_next(model, loss, targets, monkeypatch):
    optimizer = HotFlipOptimizer(model, loss)
    problem, state = prepare(optimizer, targets, " the cat")
    refused = set()
    monkeypatch.setattr(
        problem,
        "survives",
        lambda rows: torch.tensor([tuple(row) not in refused for row in rows.tolist()]),
    )
    for _ in range(20):
        (candidate,) = optimizer.ask(problem, state, StepRandom(0, 1)).tolist()
        assert tuple(candidate) not in refused
        refused.add(tuple(candidate))
    monkeypatch.setattr(problem, "survives", lambda rows: torch.zeros(len(rows), dtype=torch.bool))
    with pytest.raises(RetokenizationError):
        optimizer.ask(problem, state, StepRandom(0, 1))


def test_worse_flips_are_accepted_and_loss_falls_on_the_whole(model, loss, targets):
    optimizer = HotFlipOptimizer(model, loss, num_steps=12)
    result = optimizer.optimize_trigger(TEMPLATES, " the cat the cat", targets, progress=False)
    assert result.best_loss < result.initial_loss - 0.05
    assert result.tokenization_gap == 0
    state = optimizer.tell(
        optimizer.start(optimizer.make_problem(), torch.tensor([5]), 0.0),
        torch.tensor([[7]]),
        torch.tensor([9.0]),
    )
    assert (state.trigger_ids.tolist(), state.loss) == ([7], 9.0)


def test_filter_off_needs_no_text(model, loss, targets, monkeypatch):
    optimizer = HotFlipOptimizer(model, loss, use_retokenize=False)
    problem, state = prepare(optimizer, targets, " the cat")
    monkeypatch.setattr(problem, "decode", None)
    assert len(optimizer.ask(problem, state, StepRandom(0, 1))) == 1


def test_a_flip_costs_one_gradient(model, loss, targets):
    optimizer = HotFlipOptimizer(model, loss)
    problem, state = prepare(optimizer, targets, " the cat")
    model.reset_usage_stats()
    optimizer.ask(problem, state, StepRandom(0, 1))
    assert model.get_usage_stats()["grad_samples"] == len(TEMPLATES)

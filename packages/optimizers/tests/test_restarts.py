"""Several runs in lock step: each is the run that it would have been on its own."""

import pytest

from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
STARTS = [" the cat the cat", " a dog", " the cat the cat"]
SEEDS = [3, 4, 5]


def run_together(optimizer, targets, **more):
    given = {"initial_triggers": STARTS, "seeds": SEEDS, **more}
    return optimizer.optimize_triggers(TEMPLATES, targets=targets, progress=False, **given)


def facts(result):
    return result.trigger_strs, result.stop_reason, result.best_trigger_str, result.seed


def assert_same(result, expected):
    assert facts(result) == facts(expected)
    assert result.losses == pytest.approx(expected.losses, abs=1e-5)
    assert result.best_loss == pytest.approx(expected.best_loss, abs=1e-5)
    assert result.initial_loss == pytest.approx(expected.initial_loss, abs=1e-5)
    assert result.verified_loss == pytest.approx(expected.verified_loss, abs=1e-5)


def test_a_batch_of_restarts_equals_separate_runs(make_optimizer, targets):
    together = run_together(make_optimizer(num_steps=4), targets)
    for result, start, seed in zip(together.results, STARTS, SEEDS, strict=True):
        alone = make_optimizer(num_steps=4, seed=seed)
        expected = alone.optimize_trigger(TEMPLATES, start, targets, progress=False)
        assert_same(result, expected)
    assert together.best.best_loss == min(result.best_loss for result in together.results)


def test_what_runs_ask_together_is_one_call(make_optimizer, targets, monkeypatch):
    def count(optimizer, run):
        calls = {"losses": 0}
        for name in ("compute_loss_from_tokens", "compute_loss_from_texts"):
            own = getattr(TinyLM, name)

            def counted(self, *args, own=own, **kwargs):
                calls["losses"] += self is optimizer.model
                return own(self, *args, **kwargs)

            monkeypatch.setattr(TinyLM, name, counted)
        run(optimizer)
        monkeypatch.undo()
        return calls["losses"]

    start = STARTS[0]
    single = count(
        make_optimizer(num_steps=3),
        lambda o: o.optimize_trigger(TEMPLATES, start, targets, progress=False),
    )
    # The last trigger of each of three runs is evaluated once more as text, alone.
    together = count(
        make_optimizer(num_steps=3),
        lambda o: run_together(o, targets, initial_triggers=start),
    )
    limit = single + 2 if type(make_optimizer()).__name__ not in MANY_ROUNDS else 2 * single
    assert together <= limit


# Optimizers whose runs may differ in the number of rounds of a step, or in templates.
MANY_ROUNDS = {"GASLITEOptimizer", "GASLITEPlusOptimizer", "RASLITEPlusOptimizer"} | {
    "GCGPlusOptimizer"
}
    "GASLITEOptimizer",
    "GASLITEPlusOptimizer",
    "RASLITEPlusOptimizer",
    "GCGPlusOptimizer",
}

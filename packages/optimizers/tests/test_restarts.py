"""Several runs in lock step: each is the run that it would have been on its own."""

import json
import shutil
import threading

import pytest
import torch

from pellucid.core import ArgumentError, CheckpointError, RequirementError
from pellucid.optimizers import DictTracker, ExactMatch, GCGOptimizer, JSONLTracker
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
    together = run_together(make_optimizer(num_steps=2), targets)
    for result, start, seed in zip(together.results, STARTS, SEEDS, strict=True):
        alone = make_optimizer(num_steps=2, seed=seed)
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
        make_optimizer(num_steps=2),
        lambda o: o.optimize_trigger(TEMPLATES, start, targets, progress=False),
    )
    # The last trigger of each of three runs is evaluated once more as text, alone.
    together = count(
        make_optimizer(num_steps=2),
        lambda o: run_together(o, targets, initial_triggers=start),
    )
    limit = single + 2 if type(make_optimizer()).__name__ not in MANY_ROUNDS else 3 * single
    assert together <= limit


# Optimizers whose runs may differ in the number of rounds of a step, in templates or in length.
MANY_ROUNDS = {
    "VariableLengthGCGOptimizer",
    "GASLITEOptimizer",
    "GASLITEPlusOptimizer",
    "RASLITEPlusOptimizer",
    "GCGPlusOptimizer",
}


def rows_of(path):
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in ("elapsed_s", "tokens")} for row in rows]


def assert_same_runs(found, expected):
    for result, awaited in zip(found.results, expected.results, strict=True):
        assert facts(result) == facts(awaited)
        assert (result.losses, result.best_loss) == (awaited.losses, awaited.best_loss)
        for name in ("best_trigger_ids", "best_trigger_emb"):
            one, other = getattr(result, name), getattr(awaited, name)
            assert one is other is None or torch.equal(one, other)


def assert_resumed_runs_equal_uninterrupted_ones(make, targets, folder, *, is_killed):
    whole = make(num_steps=3, tracker=JSONLTracker(folder / "whole.jsonl"))
    expected = run_together(whole, targets)

    parts, kept = folder / "parts.jsonl", folder / "checkpoint"
    optimizer = make(num_steps=3, tracker=JSONLTracker(parts))
    optimizer.checkpoint_every = 2
    runs = optimizer.iterate_restarts(TEMPLATES, STARTS, targets, seeds=SEEDS, checkpoint_dir=kept)
    for step in runs:
        if step.step == 3:
            break
    if is_killed:
        # What a kill at this moment leaves on disk: a checkpoint of step 2 and three rows.
        shutil.copytree(kept, folder / "left")
        shutil.copy(parts, folder / "left.jsonl")
        parts, kept = folder / "left.jsonl", folder / "left"
    runs.close()
    assert {result.stop_reason for result in runs.result().results} == {"interrupted"}

    optimizer = make(num_steps=3, tracker=JSONLTracker(parts))
    optimizer.checkpoint_every = 2
    result = run_together(optimizer, targets, checkpoint_dir=kept, resume=True)
    assert_same_runs(result, expected)
    assert rows_of(parts) == rows_of(folder / "whole.jsonl")
    assert result.best.usage == expected.best.usage


def test_killed_runs_resume_from_their_last_checkpoint(make_optimizer, targets, tmp_path):
    assert_resumed_runs_equal_uninterrupted_ones(make_optimizer, targets, tmp_path, is_killed=True)


def test_interrupted_runs_resume_after_their_last_step(make_gcg, targets, tmp_path):
    assert_resumed_runs_equal_uninterrupted_ones(make_gcg, targets, tmp_path, is_killed=False)


@pytest.fixture
def make_gcg(loss):
    def make(tracker=None, **more):
        kind, settings = GCGOptimizer, {"n_candidates": 8, "sample_topk": 8, "seed": 3}
        return kind(TinyLM(seed=0), loss, tracker, **{"num_steps": 4, **settings, **more})

    return make


def test_a_step_shows_the_best_of_all_runs_and_each(make_gcg, targets):
    optimizer = make_gcg(DictTracker())
    runs = optimizer.iterate_restarts(TEMPLATES, STARTS, targets, n_restarts=3)
    steps = list(runs)
    lowest = min(result.initial_loss for result in runs.result().results)
    for number, step in enumerate(steps, start=1):
        losses = [one.loss for one in step.steps.values()]
        lowest = min(lowest, *losses)
        assert (step.step, step.loss, step.best_loss) == (number, min(losses), lowest)
        assert step.best_trigger in {one.best_trigger for one in step.steps.values()}
    records = optimizer.tracker.records
    assert [record["restart_1/loss"] for record in records] == runs.result().results[1].losses
    assert optimizer.tracker.config["initial_triggers"] == STARTS
    assert optimizer.tracker.summary["best_loss"] == runs.result().best.best_loss == lowest


def test_seeds_are_the_optimizers_and_others_made_of_it(make_gcg, targets):
    first = make_gcg().iterate_restarts(TEMPLATES, STARTS[0], targets, n_restarts=3)
    again = make_gcg().iterate_restarts(TEMPLATES, STARTS[0], targets, n_restarts=3)
    other = make_gcg(seed=4).iterate_restarts(TEMPLATES, STARTS[0], targets, n_restarts=3)
    drawn = make_gcg(seed=None).iterate_restarts(TEMPLATES, STARTS[0], targets, n_restarts=3)
    assert first.seeds == again.seeds
    assert first.seeds[0] == 3
    assert len({*first.seeds, *other.seeds, *drawn.seeds}) == 9


def test_a_run_that_has_converged_leaves_the_others_to_it(make_gcg, targets, monkeypatch):
    optimizer = make_gcg()
    long = run_together(optimizer, targets)
    limit = sorted(result.losses[1] for result in long.results)[0]
    monkeypatch.setattr(GCGOptimizer, "is_finished", lambda _, state: state.loss <= limit)
    short = run_together(make_gcg(), targets)
    reasons = [result.stop_reason for result in short.results]
    assert "converged" in reasons
    for result, awaited in zip(short.results, long.results, strict=True):
        assert result.losses == awaited.losses[: len(result.losses)]
        is_over = any(loss <= limit for loss in [result.initial_loss, *awaited.losses[:-1]])
        assert (result.stop_reason == "converged") == is_over


def test_a_callback_ends_all_runs_and_a_budget_counts_all(make_gcg, targets):
    result = run_together(make_gcg(), targets, callbacks=[lambda step: step.step == 2])
    assert [len(one.losses) for one in result.results] == [2, 2, 2]
    assert {one.stop_reason for one in result.results} == {"callback"}

    free = make_gcg(DictTracker())
    run_together(free, targets)
    optimizer = make_gcg()
    optimizer.set_budget(free.tracker.records[1]["tokens"])
    result = run_together(optimizer, targets)
    assert [len(one.losses) for one in result.results] == [2, 2, 2]
    assert {one.stop_reason for one in result.results} == {"budget"}


def test_runs_end_once_one_reaches_the_goal(make_gcg, targets, monkeypatch):
    optimizer = make_gcg()
    expected = run_together(optimizer, targets)
    winner = expected.best.trigger_strs[1]
    match = ExactMatch(optimizer.model, TEMPLATES, targets)
    monkeypatch.setattr(match, "is_reached", lambda trigger: trigger == winner)
    steps = list(
        make_gcg().iterate_restarts(TEMPLATES, STARTS, targets, seeds=SEEDS, callbacks=[match])
    )
    assert [step.best_trigger == winner for step in steps] == [False] * (len(steps) - 1) + [
        len(steps) < 4
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_ends_all_runs_and_leaves_nothing_behind(
    make_gcg, targets, monkeypatch, tmp_path, error
):
    optimizer = make_gcg(DictTracker())
    runs = optimizer.iterate_restarts(
        TEMPLATES, STARTS, targets, seeds=SEEDS, checkpoint_dir=tmp_path
    )
    next(runs)
    n_threads = threading.active_count()
    names = ("compute_loss_from_tokens", "compute_loss_from_texts", "compute_grad_from_embeds")
    with monkeypatch.context() as patch:

        def fail(*args, **kwargs):
            patch.undo()  # once, so that an interrupted run can be looked at
            raise error("the device is gone")

        for name in names:
            patch.setattr(TinyLM, name, fail)
        with pytest.raises(error):
            next(runs)
    status = "interrupted" if error is KeyboardInterrupt else "failed"
    assert optimizer.tracker.summary["status"] == status
    assert [len(result.losses) for result in runs.result().results] == [1, 1, 1]
    assert {result.stop_reason for result in runs.result().results} == {status}
    assert optimizer.model._token_input_manager is None
    assert threading.active_count() == n_threads
    assert (tmp_path / "state.safetensors").is_file()


def test_a_run_that_fails_fails_all(make_gcg, targets, monkeypatch):
    optimizer = make_gcg()
    own = GCGOptimizer.ask

    def ask(self, problem, state, random):
        if (random.seed, random.step) == (SEEDS[1], 2):
            raise ValueError("this one cannot go on")
        return own(self, problem, state, random)

    monkeypatch.setattr(GCGOptimizer, "ask", ask)
    runs = optimizer.iterate_restarts(TEMPLATES, STARTS, targets, seeds=SEEDS)
    with pytest.raises(ValueError, match="this one cannot go on"):
        list(runs)
    assert [len(result.losses) for result in runs.result().results] == [1, 1, 1]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"n_restarts": 0},
        {"n_restarts": 2, "seeds": [1]},
        {"n_restarts": 2, "initial_triggers": ["a"]},
        {"initial_triggers": []},
        {"seeds": []},
    ],
)
def test_numbers_that_disagree_are_refused(make_gcg, targets, given):
    with pytest.raises(ArgumentError, match="n_restarts, a list of initial_triggers or seeds"):
        make_gcg().optimize_triggers(TEMPLATES, targets=targets, **given)


def test_nothing_is_computed_before_the_first_step(make_gcg, targets):
    optimizer = make_gcg()
    runs = optimizer.iterate_restarts(TEMPLATES, STARTS, targets, n_restarts=3)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0
    with pytest.raises(RequirementError, match="no result yet"):
        runs.result()


def test_the_checkpoint_of_other_runs_is_refused(make_gcg, targets, tmp_path):
    run_together(make_gcg(), targets, checkpoint_dir=tmp_path)
    for more, named in (
        ({"seeds": [3, 4, 6]}, "seeds"),
        ({"initial_triggers": STARTS[:2], "seeds": SEEDS[:2]}, "initial_triggers, seeds"),
    ):
        with pytest.raises(CheckpointError, match=f"{named} differ"):
            run_together(make_gcg(), targets, checkpoint_dir=tmp_path, resume=True, **more)
    with pytest.raises(CheckpointError, match="initial_triggers, seeds differ"):
        make_gcg().iterate(TEMPLATES, STARTS[0], targets, checkpoint_dir=tmp_path, resume=True)

import json
import math
import shutil

import pytest
import torch

from pellucid.core import CheckpointError, Flow, RequirementError, TemplateError
from pellucid.optimizers import DictTracker, JSONLTracker, Search, TokenConstraints

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
LOSSES = ("compute_loss_from_tokens", "compute_loss_from_texts")


def columns(path):
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(row["step"], row["loss"], row["best_loss"], row["trigger"]) for row in rows]


def run_through(optimizer, targets, **more):
    return optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False, **more)


def test_same_seed_gives_the_same_run_and_another_seed_another(make_optimizer, targets):
    optimizer = make_optimizer(num_steps=3)
    first, again = (run_through(optimizer, targets) for _ in range(2))
    fresh, other = (run_through(make_optimizer(num_steps=3, seed=s), targets) for s in (3, 4))
    for repeated in (again, fresh):
        assert first.losses == repeated.losses
        assert first.trigger_strs == repeated.trigger_strs
    assert (first.losses == other.losses) == make_optimizer.is_deterministic


def test_drawn_seed_is_named_and_repeats_the_run(make_optimizer, targets):
    first = run_through(make_optimizer(num_steps=2, seed=None), targets)
    again = run_through(make_optimizer(num_steps=2, seed=first.seed), targets)
    assert first.losses == again.losses


def test_result_tells_the_whole_story(make_optimizer, targets):
    optimizer = make_optimizer(num_steps=3, tracker=DictTracker())
    result = run_through(optimizer, targets)
    assert len(result.losses) == len(result.trigger_strs) == 3
    lowest = min([result.initial_loss, *result.losses])
    if type(optimizer).conclude is Search.conclude:
        assert result.best_loss == lowest
    else:
        assert result.best_loss <= lowest
    assert result.stop_reason == "steps"
    assert result.usage["total_tokens"] > 0
    if optimizer.flow is Flow.EMBEDS:
        assert (result.best_trigger_ids, result.best_trigger_str) == (None, None)
        assert result.verified_loss is None
    elif not result.tokenization_gap:
        assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)
    records = optimizer.tracker.records
    assert [record["loss"] for record in records] == result.losses
    assert set(records[0]) == {"step", "loss", "best_loss", "trigger", "elapsed_s", "tokens"}
    models = [optimizer.model, *optimizer.auxiliary_models().values()]
    spent = sum(model.get_usage_stats()["total_tokens"] for model in models)
    assert result.usage["total_tokens"] <= spent
    assert records[0]["tokens"] < records[-1]["tokens"] <= spent
    assert optimizer.tracker.config["seed"] == 3
    assert optimizer.tracker.summary["status"] == "finished"


def test_interrupted_and_resumed_run_equals_an_uninterrupted_one(make_optimizer, targets, tmp_path):
    whole = make_optimizer(num_steps=4, tracker=JSONLTracker(tmp_path / "whole.jsonl"))
    expected = run_through(whole, targets)
    for stop_after in (1, 2, 3):
        folder = tmp_path / f"after {stop_after}"
        folder.mkdir()
        result = interrupt_and_resume(make_optimizer, targets, folder, stop_after)
        assert columns(folder / "parts.jsonl") == columns(tmp_path / "whole.jsonl")
        assert result.losses == expected.losses
        assert result.trigger_strs == expected.trigger_strs
        assert result.initial_loss == expected.initial_loss
        assert result.best_loss == expected.best_loss
        for name in ("best_trigger_ids", "best_trigger_emb"):
            found, awaited = getattr(result, name), getattr(expected, name)
            assert found is awaited is None or torch.equal(found, awaited)
        assert result.usage == expected.usage


def interrupt_and_resume(make_optimizer, targets, folder, stop_after):
    parts = folder / "parts.jsonl"
    run = make_optimizer(num_steps=4, tracker=JSONLTracker(parts)).iterate(
        TEMPLATES, START, targets, checkpoint_dir=folder / "checkpoint"
    )
    for step in run:
        if step.step == stop_after:
            break
    run.close()
    assert run.result().stop_reason == "interrupted"
    assert len(columns(parts)) == stop_after

    optimizer = make_optimizer(num_steps=4, tracker=JSONLTracker(parts))
    return run_through(optimizer, targets, checkpoint_dir=folder / "checkpoint", resume=True)


def test_killed_process_resumes_from_its_last_checkpoint(make_optimizer, targets, tmp_path):
    whole = make_optimizer(num_steps=4, tracker=JSONLTracker(tmp_path / "whole.jsonl"))
    run_through(whole, targets)

    parts, kept = tmp_path / "parts.jsonl", tmp_path / "checkpoint"
    optimizer = make_optimizer(num_steps=4, tracker=JSONLTracker(parts))
    optimizer.checkpoint_every = 2
    run = optimizer.iterate(TEMPLATES, START, targets, checkpoint_dir=kept)
    for step in run:
        if step.step == 3:
            # What a kill now leaves on disk: checkpoint of step 2, three rows and a half.
            shutil.copytree(kept, tmp_path / "killed")
            shutil.copy(parts, tmp_path / "killed.jsonl")
            break
    run.close()
    with (tmp_path / "killed.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')

    resumed = make_optimizer(num_steps=4, tracker=JSONLTracker(tmp_path / "killed.jsonl"))
    resumed.checkpoint_every = 2
    run_through(resumed, targets, checkpoint_dir=tmp_path / "killed", resume=True)
    assert columns(tmp_path / "killed.jsonl") == columns(tmp_path / "whole.jsonl")


def test_finished_run_can_be_extended_unless_it_follows_a_schedule(
    make_optimizer, targets, tmp_path
):
    run_through(make_optimizer(num_steps=1), targets, checkpoint_dir=tmp_path)
    optimizer = make_optimizer(num_steps=3)
    if getattr(optimizer, "schedule_steps", None) is not None:
        with pytest.raises(CheckpointError, match="hparam/schedule_steps differ"):
            run_through(optimizer, targets, checkpoint_dir=tmp_path, resume=True)
        return
    longer = run_through(optimizer, targets, checkpoint_dir=tmp_path, resume=True)
    assert longer.losses == run_through(make_optimizer(num_steps=3), targets).losses


def test_interrupt_from_the_keyboard_leaves_a_checkpoint_and_a_result(
    make_optimizer, targets, tmp_path
):
    def press(step):
        if step.step == 3:
            raise KeyboardInterrupt

    optimizer = make_optimizer(tracker=DictTracker())
    run = optimizer.iterate(TEMPLATES, START, targets, checkpoint_dir=tmp_path, callbacks=[press])
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert run.result().stop_reason == "interrupted"
    assert len(run.result().losses) == 3
    assert optimizer.tracker.summary["status"] == "interrupted"
    assert (tmp_path / "state.safetensors").is_file()


def test_failing_model_ends_the_run_cleanly(make_optimizer, targets, monkeypatch, tmp_path):
    optimizer = make_optimizer(tracker=DictTracker())
    run = optimizer.iterate(TEMPLATES, START, targets, checkpoint_dir=tmp_path)
    next(run)

    def fail(*args, **kwargs):
        raise RuntimeError("the device is gone")

    for name in (*LOSSES, "compute_grad_from_embeds"):
        monkeypatch.setattr(optimizer.model, name, fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(run)
    assert optimizer.tracker.summary["status"] == "failed"
    assert (run.result().stop_reason, len(run.result().losses)) == ("failed", 1)
    assert run.result().verified_loss is None
    assert optimizer.model._token_input_manager is None
    assert optimizer.model._text_input_manager is None
    assert (tmp_path / "state.safetensors").is_file()


def test_budget_is_overshot_by_one_step_at_most(make_optimizer, targets):
    free = make_optimizer(num_steps=3, tracker=DictTracker())
    run_through(free, targets)
    spent = [record["tokens"] for record in free.tracker.records]
    bound = make_optimizer(num_steps=3, tracker=DictTracker())
    bound.set_budget(spent[1])
    result = run_through(bound, targets)
    assert (result.stop_reason, len(result.losses)) == ("budget", 2)


def test_callback_ends_the_run_and_may_say_why(make_optimizer, targets):
    class Enough:
        stop_reason = "enough"

        def __call__(self, step):
            return step.step == 2

    assert run_through(make_optimizer(), targets, callbacks=[Enough()]).stop_reason == "enough"
    result = run_through(make_optimizer(), targets, callbacks=[lambda step: step.step == 3])
    assert (result.stop_reason, len(result.losses)) == ("callback", 3)


def test_nan_never_wins_and_inputs_are_cleared(make_optimizer, targets, monkeypatch):
    optimizer = make_optimizer(num_steps=3)
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(START)

    def mix(candidates, *args, **kwargs):
        losses = torch.arange(1.0, len(candidates) + 1)
        losses[0] = math.nan
        return losses

    for name in LOSSES:
        monkeypatch.setattr(optimizer.model, name, mix)
    monkeypatch.setattr(
        optimizer.model, "compute_grad_from_embeds", lambda _, at, **kw: (at, mix(at))
    )
    losses = problem.compute_losses(torch.stack([ids, ids.flip(0), ids]))
    assert not losses.isnan().any()
    assert losses[0] == losses[2]
    assert math.inf in losses.tolist()


def test_duplicates_are_computed_once_and_order_is_kept(make_optimizer, targets, monkeypatch):
    optimizer = make_optimizer()
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(START)
    rows = torch.stack([ids, ids.roll(1), ids, ids.roll(2), ids.roll(1)])
    one_by_one = torch.cat([problem.compute_losses(row[None]) for row in rows])
    optimizer.model.reset_usage_stats()
    together = problem.compute_losses(rows)
    torch.testing.assert_close(together, one_by_one)
    seen = optimizer.model.get_usage_stats()["forward_samples"]
    assert seen == len({tuple(row) for row in rows.tolist()}) * len(TEMPLATES)


def test_global_generator_and_targets_are_left_alone(make_optimizer, targets):
    before = torch.get_rng_state()
    run_through(make_optimizer(num_steps=2), targets)
    assert torch.equal(before, torch.get_rng_state())
    assert targets.target_response_strs == ["yes you", "no cat"]
    assert targets.target_response_toks is None


def test_nothing_happens_before_the_first_step(make_optimizer, targets):
    optimizer = make_optimizer(tracker=DictTracker())
    run = optimizer.iterate(TEMPLATES, START, targets)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0
    with pytest.raises(RequirementError, match="no result yet"):
        run.result()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"templates": []}, TemplateError, "at least one template"),
        ({"templates": ["no slot"]}, TemplateError, "0 times"),
        ({"templates": TEMPLATES[:1] * 3}, TemplateError, "3 templates need 3 targets"),
        ({"resume": True}, ValueError, "needs checkpoint_dir"),
        ({"initial_trigger": ""}, ValueError, "has no tokens"),
    ],
)
def test_bad_arguments_are_refused(make_optimizer, targets, arguments, error, message):
    optimizer = make_optimizer(tracker=DictTracker())
    given = {"templates": TEMPLATES, "initial_trigger": START, "targets": targets, **arguments}
    with pytest.raises(error, match=message):
        optimizer.optimize_trigger(**given, progress=False)
    assert optimizer.model._text_input_manager is None


def test_bad_input_is_refused_before_anything_is_written(make_optimizer, targets, tmp_path):
    tracker = JSONLTracker(tmp_path / "steps.jsonl")
    with pytest.raises(TemplateError):
        make_optimizer(tracker=tracker).iterate(
            ["none"], START, targets, checkpoint_dir=tmp_path / "checkpoint"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["seed", "templates", "setting"])
def test_foreign_checkpoint_is_refused_by_name(make_optimizer, targets, tmp_path, change):
    run_through(make_optimizer(num_steps=2), targets, checkpoint_dir=tmp_path)
    kept = (tmp_path / "state.safetensors").read_bytes()
    constraints = TokenConstraints(disallow_custom_token_ids=[9])
    more = {"seed": {"seed": 9}, "setting": {"token_constraints": constraints}}.get(change, {})
    templates = TEMPLATES if change != "templates" else [t + "!" for t in TEMPLATES]
    named = {"seed": "hparam/seed", "setting": "hparam/token_constraints"}.get(change, "templates")
    with pytest.raises(CheckpointError, match=f"{named} differ"):
        make_optimizer(num_steps=2, **more).iterate(
            templates, START, targets, checkpoint_dir=tmp_path, resume=True
        )
    assert (tmp_path / "state.safetensors").read_bytes() == kept

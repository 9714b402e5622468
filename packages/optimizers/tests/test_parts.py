"""Every optimizer on triggers that stand several times, and on triggers of several parts."""

import pytest
import torch

from pellucid.core import TRIGGER_PART_SEPARATOR as SEP
from pellucid.core import ArgumentError, Flow, TemplateError
from pellucid.optimizers import BeamSearchOptimizer, VariableLengthGCGOptimizer

P, P1, P2 = (f"{{{{OPTIMIZED_TRIGGER{number}}}}}" for number in ("", "_1", "_2"))
TWICE = [f"Say{P} or{P} please.", f"Now{P} tell me:"]
PARTS = [f"Say{P2} or{P1} and{P2}.", f"Q{P1} tell{P2} me:"]
START = [" the cat", " XYZ you"]
REFUSING = (BeamSearchOptimizer, VariableLengthGCGOptimizer)


def watch_lengths(model):
    """Return a set that grows by the lengths of the triggers that a model evaluates."""
    seen, own = set(), model.compute_loss_from_tokens

    def compute(candidate_trigger_ids, *args, **kwargs):
        seen.add(candidate_trigger_ids.shape[1])
        return own(candidate_trigger_ids, *args, **kwargs)

    model.compute_loss_from_tokens = compute
    return seen


def test_a_trigger_in_several_places_is_searched_as_any_other(make_optimizer, targets):
    optimizer = make_optimizer(num_steps=2)
    result = optimizer.optimize_trigger(TWICE, " the cat", targets, progress=False)
    assert result.best_loss <= result.initial_loss
    assert result.part_lengths is None
    if optimizer.flow is not Flow.EMBEDS and not result.tokenization_gap:
        assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)


def test_parts_keep_their_lengths_and_mean_the_same_as_text(make_optimizer, targets, tmp_path):
    optimizer = make_optimizer(num_steps=3)
    if isinstance(optimizer, REFUSING):
        with pytest.raises(ArgumentError, match="parts"):
            optimizer.optimize_trigger(PARTS, START, targets, progress=False)
        models = (optimizer.model, *optimizer.auxiliary_models().values())
        assert all(model.get_usage_stats()["forward_calls"] == 0 for model in models)
        return
    seen = watch_lengths(optimizer.model)
    result = optimizer.optimize_trigger(PARTS, START, targets, progress=False)
    lengths = [len(optimizer.model.tokenizer.encode(part)) for part in START]
    assert result.part_lengths == lengths
    assert seen <= {sum(lengths)}
    assert result.best_loss <= result.initial_loss
    assert all(text.count(SEP) == 1 for text in result.trigger_strs)
    if optimizer.flow is Flow.EMBEDS:
        return
    assert [len(ids) for ids in result.best_trigger_part_ids] == lengths
    assert SEP.join(result.best_trigger_parts) == result.best_trigger_str
    if not result.tokenization_gap:
        assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)

    run = make_optimizer(num_steps=3).iterate(PARTS, START, targets, checkpoint_dir=tmp_path)
    next(run)
    run.close()
    resumed = make_optimizer(num_steps=3).optimize_trigger(
        PARTS, SEP.join(START), targets, checkpoint_dir=tmp_path, resume=True, progress=False
    )
    assert resumed.losses == result.losses
    assert resumed.trigger_strs == result.trigger_strs
    assert torch.equal(resumed.best_trigger_ids, result.best_trigger_ids)


def test_a_run_starts_from_marks_shared_out_among_the_parts(loss, targets):
    from pellucid.optimizers import GCGOptimizer
    from pellucid.testing import TinyLM

    optimizer = GCGOptimizer(TinyLM(), loss, seed=0, num_steps=1, n_candidates=8, sample_topk=8)
    result = optimizer.optimize_trigger(PARTS, None, targets, progress=False)
    assert result.part_lengths == [19, 19]


@pytest.mark.parametrize(
    ("templates", "start", "error", "message"),
    [
        (PARTS, " the cat", ArgumentError, "has 1 parts, and the templates have places for 2"),
        (PARTS, ["a", "b", "c"], ArgumentError, "has 3 parts.*places for 2"),
        (PARTS, ["a", f"b{SEP}c"], ArgumentError, "which separates parts"),
        (PARTS, ["a", ""], ArgumentError, "part 2 of the initial trigger .* has no tokens"),
        (TWICE, ["a", "b"], ArgumentError, "has 2 parts.*places for 1"),
        ([f"a {P2}", f"b {P2}"], ["a", "b"], TemplateError, "_1}} in none of them"),
        ([f"a {P}", f"b {P1}"], "a", TemplateError, "Number all"),
    ],
)
def test_wrong_parts_are_refused_before_the_first_forward(
    make_optimizer, targets, templates, start, error, message
):
    optimizer = make_optimizer()
    with pytest.raises(error, match=message):
        optimizer.optimize_trigger(templates, start, targets, progress=False)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0
    assert optimizer.model._token_input_manager is None
    assert optimizer.model._text_input_manager is None

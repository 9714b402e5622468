"""What holds for every optimizer: constraints, budgets, tokenizers, and what is refused at once."""

import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import (
    ArgumentError,
    BaseModel,
    CheckpointError,
    FlopCounterBase,
    LMBaseModel,
    LossTextAccessMixin,
    NotDifferentiableError,
    RequirementError,
    Targets,
    needs_gradient,
)
from pellucid.optimizers import (
    BeamSearchOptimizer,
    DictTracker,
    GCGPlusOptimizer,
    PALOptimizer,
    ProbeSamplingGCGOptimizer,
    Problem,
    QCGOptimizer,
    RandomSearchOptimizer,
    RASLITEPlusOptimizer,
    TokenConstraints,
)
from pellucid.optimizers._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pellucid.testing import TinyLM, TinyTokenizer

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
VOCAB = TinyTokenizer().vocab_size


def run_through(optimizer, targets, **more):
    return optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False, **more)


@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(0, 2**31), st.sets(st.integers(0, VOCAB - 1), max_size=100))
def test_no_candidate_breaks_the_constraints(make_optimizer, targets, seed, banned):
    constraints = TokenConstraints(disallow_custom_token_ids=sorted(banned))
    optimizer = make_optimizer(num_steps=2, seed=seed, token_constraints=constraints)
    if getattr(optimizer, "use_retokenize", False):
        optimizer.use_retokenize = (
            False  # with few tokens none may survive, which is no matter here
        )
    allowed = set(constraints.get_whitelist_ids(TinyTokenizer(), VOCAB).tolist())
    allowed |= set(TinyTokenizer().encode(START))
    seen = []
    own = Problem.compute_losses

    def watch(self, candidates):
        seen.append(candidates)
        return own(self, candidates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "compute_losses", watch)
        result = run_through(optimizer, targets)
    assert seen
    for candidates in seen:
        assert set(candidates.flatten().tolist()) <= allowed
    if result.best_trigger_ids is not None:
        assert set(result.best_trigger_ids.tolist()) <= allowed


class OneFlopAToken(FlopCounterBase):
    def count_forward(self, n_tokens):
        return n_tokens

    def count_backward(self, n_tokens):
        return 2 * n_tokens


def count_flops(optimizer):
    for model in (optimizer.model, *optimizer.auxiliary_models().values()):
        model._flop_counter = OneFlopAToken()


def total_flops(optimizer):
    models = (optimizer.model, *optimizer.auxiliary_models().values())
    return sum(model.get_usage_stats()["total_flops"] for model in models)


def test_a_budget_of_flops_ends_the_run_after_the_step_that_reaches_it(make_optimizer, targets):
    free = make_optimizer(num_steps=3)
    count_flops(free)
    spent = []
    run_through(free, targets, callbacks=[lambda _: spent.append(total_flops(free))])
    bound = make_optimizer(num_steps=3)
    count_flops(bound)
    bound.set_budget(spent[0], "total_flops")
    result = run_through(bound, targets)
    assert (result.stop_reason, len(result.losses)) == ("budget", 1)
    bound.set_budget(spent[0] + 1, "total_flops")
    assert len(run_through(bound, targets).losses) == 2
    for model in bound.auxiliary_models().values():
        model._flop_counter = None


def test_a_budget_of_flops_that_nobody_counts_is_refused_before_the_first_forward(
    make_optimizer, targets
):
    optimizer = make_optimizer()
    optimizer.set_budget(5, "total_flops")
    for iterate in (optimizer.iterate, lambda *a: optimizer.iterate_restarts(*a, n_restarts=2)):
        with pytest.raises(RequirementError, match="set_flop_counting"):
            iterate(TEMPLATES, START, targets)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0


def test_a_budget_of_seconds_ends_the_run(make_optimizer, targets):
    optimizer = make_optimizer()
    optimizer.set_budget(1e-9, "seconds")
    result = run_through(optimizer, targets)
    assert (result.stop_reason, len(result.losses)) == ("budget", 1)


def test_a_checkpoint_that_lacks_anything_is_refused_at_once(make_optimizer, targets, tmp_path):
    run_through(make_optimizer(num_steps=1), targets, checkpoint_dir=tmp_path / "whole")
    whole = load_checkpoint(tmp_path / "whole")
    for name in (*whole.values, *whole.tensors):
        values = {key: value for key, value in whole.values.items() if key != name}
        tensors = {key: value for key, value in whole.tensors.items() if key != name}
        save_checkpoint(tmp_path / "torn", Checkpoint(tensors, values))
        optimizer = make_optimizer(num_steps=1)
        with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
            optimizer.iterate(
                TEMPLATES, START, targets, checkpoint_dir=tmp_path / "torn", resume=True
            )


def test_constraints_that_admit_nothing_are_refused_before_the_first_forward(
    make_optimizer, targets
):
    nothing = TokenConstraints(disallow_custom_token_ids=range(VOCAB))
    optimizer = make_optimizer(tracker=DictTracker(), token_constraints=nothing)
    with pytest.raises(ArgumentError, match=f"admits none of {VOCAB} tokens"):
        run_through(optimizer, targets)
    assert optimizer.model.get_usage_stats()["forward_calls"] == 0
    assert optimizer.tracker.summary["status"] == "failed"


K_SETTINGS = ("sample_topk", "top_k")
COUNTS = {
    "n_candidates",
    "sample_topk",
    "n_grad",
    "n_grad_avg",
    "n_grad_samples",
    "n_final_gumbel_samples",
    "n_flip",
    "n_bulk_flips",
    "buffer_size",
    "beam_size",
    "branching_factor",
    "n_proxy_candidates",
    "n_target_candidates",
    "sample_n_replace",
    "num_steps",
    "top_k",
    "n_candidates_after_proxy_filter",
    "template_batch_size",
}


@pytest.mark.usefixtures("unchecked")
def test_nothing_to_choose_from_is_refused_at_construction(make_optimizer):
    names = COUNTS & set(inspect.signature(type(make_optimizer())).parameters)
    assert "num_steps" in names
    for name in names:
        for count in (0, -1):
            with pytest.raises(ArgumentError, match=name):
                make_optimizer(**{name: count})


def test_more_tokens_than_there_are_are_refused_at_construction(make_optimizer):
    held = vars(make_optimizer())
    if held.get("candidate_selection", "gradient") != "gradient":
        return  # nothing is offered by gradient
    for name in K_SETTINGS:
        if name in held:
            make_optimizer(**{name: VOCAB})
            with pytest.raises(ArgumentError, match=f"{name}={VOCAB + 1} exceeds the vocabulary"):
                make_optimizer(**{name: VOCAB + 1})


def test_a_loss_without_gradient_is_refused_where_gradients_are_taken(
    make_optimizer, loss, monkeypatch
):
    optimizer = make_optimizer()
    takes_gradients = needs_gradient(optimizer.model_requirements) or (
        isinstance(optimizer, GCGPlusOptimizer) and optimizer.candidate_selection == "gradient"
    )
    monkeypatch.setattr(type(loss), "is_differentiable", False)
    if takes_gradients:
        with pytest.raises(NotDifferentiableError):
            make_optimizer()
    else:
        make_optimizer()


OTHER_TOKENS = TinyTokenizer([" dog", " say", "ell", "ow"])


class TextOnly(LossTextAccessMixin, LMBaseModel):
    """Gives losses of texts; nobody may ask for its tokenizer."""

    provides = TinyLM.provides

    def __init__(self):
        self.inner = TinyLM(seed=0)

    @property
    def tokenizer(self):
        raise AssertionError("the tokenizer was read")

    def invoke_from_texts(self, input_texts, message_targets=None, require_target_prefill=False):
        self._update_usage_stats(tokens=1, forward_calls=1)
        return self.inner.invoke_from_texts(input_texts, message_targets, require_target_prefill)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RandomSearchOptimizer, {"tokenizer": TinyTokenizer(), "n_candidates": 4}),
        (
            RASLITEPlusOptimizer,
            {"tokenizer": TinyTokenizer(), "use_random_logits": True, "n_candidates": 4},
        ),
        (RASLITEPlusOptimizer, {"util_lm": TinyLM(seed=1), "n_candidates": 4}),
        (BeamSearchOptimizer, {"util_lm": TinyLM(seed=1), "beam_size": 2, "branching_factor": 2}),
        (
            GCGPlusOptimizer,
            {"tokenizer": TinyTokenizer(), "candidate_selection": "focused", "n_candidates": 4},
        ),
        (GCGPlusOptimizer, {"proxy_model": TinyLM(seed=1), "n_candidates": 4, "sample_topk": 8}),
        (PALOptimizer, {"proxy_model": TinyLM(seed=1), "n_candidates": 4, "sample_topk": 8}),
        (QCGOptimizer, {"proxy_model": TinyLM(seed=1), "n_proxy_candidates": 8}),
    ],
)
def test_the_tokenizer_of_a_model_that_answers_text_is_never_read(kind, given, loss):
    model = TextOnly()
    toks = [torch.tensor(TinyTokenizer().encode(text)) for text in ("yes you", "no cat")]
    targets = Targets(target_response_toks=toks)
    assert isinstance(model, BaseModel)
    optimizer = kind(model, loss, seed=0, num_steps=2, **given)
    result = run_through(optimizer, targets)
    assert result.best_loss <= result.initial_loss
    together = optimizer.optimize_triggers(TEMPLATES, START, targets, n_restarts=2, progress=False)
    assert together.results[0].losses == pytest.approx(result.losses, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (GCGPlusOptimizer, "proxy_model"),
        (PALOptimizer, "proxy_model"),
        (QCGOptimizer, "proxy_model"),
        (RASLITEPlusOptimizer, "util_lm"),
    ],
)
def test_a_helper_of_other_tokens_is_refused_where_ids_must_match(kind, argument, loss):
    helper = TinyLM(seed=1, tokenizer=OTHER_TOKENS)
    more = {} if kind in (QCGOptimizer, RASLITEPlusOptimizer) else {"sample_topk": 16}
    with pytest.raises(ValueError if kind is RASLITEPlusOptimizer else RequirementError):
        kind(TextOnly(), loss, tokenizer=TinyTokenizer(), **{argument: helper}, **more)


def test_a_draft_of_other_tokens_is_given_text(loss, targets):
    draft = TinyLM(seed=1, tokenizer=OTHER_TOKENS)
    settings = {"draft_model": draft, "n_candidates": 8, "sample_topk": 8}
    optimizer = ProbeSamplingGCGOptimizer(TinyLM(seed=0), loss, seed=0, num_steps=1, **settings)
    run_through(optimizer, targets)
    assert draft.get_usage_stats()["forward_samples"] > 0

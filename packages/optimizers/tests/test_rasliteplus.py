import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import (
    BaseLoss,
    LMBaseModel,
    LossTextAccessMixin,
    RequirementError,
    Targets,
    as_tokenizer,
)
from pellucid.optimizers import (
    DictTracker,
    LinearScheduler,
    RASLITEPlusOptimizer,
    StepRandom,
    TokenConstraints,
    random_single_flips,
    rank_likely,
)
from pellucid.testing import TinyEncoder, TinyLM, TinyTokenizer

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"
SMALL = {"n_flip": 4, "n_candidates": 8, "buffer_size": 3, "n_bulk_flips": 2}


class BlackBox(LMBaseModel, LossTextAccessMixin):
    """Answers text, and hides how."""

    def __init__(self):
        self._inner = TinyLM(seed=0)

    def set_inputs_from_texts(self, templates, targets=None):
        self._inner.set_inputs_from_texts(templates, targets)
        self._text_input_manager = self._inner._text_input_manager

    def invoke_from_texts(
        self, input_texts, message_targets=None, require_target_prefill=False, **kwargs
    ):
        output = self._inner.invoke_from_texts(input_texts, message_targets, require_target_prefill)
        self._update_invoke_stats(n_tokens=sum(map(len, input_texts)), n_samples=len(input_texts))
        return output


def prepare(optimizer, targets, trigger=START):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    ids = problem.encode(trigger)
    return problem, optimizer.start(problem, ids, float(problem.compute_losses(ids[None])[0]))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_candidates_obey_constraints_and_the_loss_never_rises(
    drive, loss, targets, seed, at_random, retokenize
):
    constraints = TokenConstraints(disallow_custom_token_ids=range(10, 40))
    source = (
        {"use_random_logits": True, "tokenizer": TinyTokenizer()}
        if at_random
        else {"util_lm": TinyLM(seed=1)}
    )
    optimizer = RASLITEPlusOptimizer(
        BlackBox(),
        loss,
        **SMALL,
        **source,
        use_retokenize=retokenize,
        token_constraints=constraints,
    )
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(constraints)

    def evaluate(candidates):
        changed = candidates != state.trigger_ids
        assert torch.isin(candidates[changed], allowed).all()
        assert problem.survives(candidates).all() or not retokenize
        return problem.compute_losses(candidates)

    _, after = drive(optimizer.step(problem, state, StepRandom(seed, 1)), evaluate)
    assert after.loss <= state.loss


@pytest.mark.parametrize("n_logit_samples", [None, 1, 4])
def test_offers_are_ranked_by_the_mean_logits_of_the_util_lm(loss, targets, n_logit_samples):
    util = TinyLM(seed=1)
    optimizer = RASLITEPlusOptimizer(
        BlackBox(), loss, util_lm=util, n_logit_samples=n_logit_samples
    )
    problem, state = prepare(optimizer, targets)
    random = StepRandom(5, 3)
    allowed = problem.allowed_ids(optimizer.token_constraints)
    copies = random_single_flips(
        state.trigger_ids, n_logit_samples or 1, allowed, generator=random.generator("copies")
    )
    logits = util.compute_logits_from_tokens(copies, return_trigger_logits_only=True).mean(dim=0)
    offered = optimizer.offer(problem, state.trigger_ids, 9, random)
    for position, row in enumerate(logits):
        ranked = sorted(allowed.tolist(), key=lambda i, row=row: -float(row[i]))
        torch.testing.assert_close(row[offered[position]], row[ranked[:9]])


def test_likely_tokens_are_those_of_all_templates_and_triggers(model, targets, loss):
    optimizer = RASLITEPlusOptimizer(model, loss)
    problem, state = prepare(optimizer, targets)
    triggers = torch.stack([state.trigger_ids, state.trigger_ids.flip(0)])
    allowed = torch.tensor([20, 30, 40, 50])
    ranked = rank_likely(problem.auxiliary["util_lm"], triggers, allowed, k=4)
    logits = model.compute_logits_from_tokens(
        triggers, keep_message_dim=True, return_trigger_logits_only=True
    ).mean(dim=(0, 1))[:, allowed]
    assert torch.equal(ranked, allowed[logits.argsort(dim=-1, descending=True)])


def test_share_of_positions_becomes_a_number_before_it_declines(model, loss):
    optimizer = RASLITEPlusOptimizer(
        model, loss, num_steps=10, n_flip=0.5, decline_n_flip_from_step=5
    )
    counts = [
        sum(map(len, optimizer._choose_positions(15, StepRandom(0, step)))) for step in range(1, 11)
    ]
    assert counts == [LinearScheduler(8, 10, 5).get_n_flip(step) for step in range(1, 11)]
    assert counts[0] == 8
    assert counts[6] > 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at_random", [True, False])
def test_black_box_run_falls_step_by_step_and_counts_both_models(loss, targets, seed, at_random):
    util = None if at_random else TinyLM(seed=1)
    optimizer = RASLITEPlusOptimizer(
        BlackBox(),
        loss,
        DictTracker(),
        seed,
        num_steps=6,
        **{**SMALL, "n_candidates": 16},
        util_lm=util,
        use_random_logits=at_random,
        tokenizer=TinyTokenizer() if at_random else None,
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    path = [result.initial_loss, *result.losses]
    assert all(later <= earlier for earlier, later in itertools.pairwise(path))
    assert result.best_loss < result.initial_loss - 0.05
    assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-5)
    assert set(optimizer.auxiliary_models()) == (set() if at_random else {"util_lm"})
    if util is not None:
        used = util.get_usage_stats()["total_tokens"]
        assert used > 0
        assert optimizer.tracker.records[-1]["tokens"] == result.usage["total_tokens"] + used
        assert util._token_input_manager is None


def test_target_that_offers_its_own_tokens_is_named_and_counted_once(model, loss):
    optimizer = RASLITEPlusOptimizer(model, loss)
    config = optimizer.describe(TEMPLATES)
    assert config["util_lm"] == config["model"] == model.get_model_name()
    assert not any("0x" in str(value) for value in config.values())
    assert optimizer.auxiliary_models() == {}


def test_model_that_gives_no_logits_needs_another_or_random_ones(loss):
    with pytest.raises(RequirementError, match=r"Pass util_lm=.*use_random_logits=True"):
        RASLITEPlusOptimizer(BlackBox(), loss)
    with pytest.raises(RequirementError, match="offers tokens by logits"):
        RASLITEPlusOptimizer(TinyLM(), loss, util_lm=BlackBox())
    with pytest.raises(RequirementError, match=r"RASLITEPlusOptimizer .*Pass tokenizer="):
        RASLITEPlusOptimizer(BlackBox(), loss, use_random_logits=True)


def test_contradictions_are_refused(model, loss):
    with pytest.raises(ValueError, match="util_lm or use_random_logits=True, not both"):
        RASLITEPlusOptimizer(model, loss, util_lm=TinyLM(), use_random_logits=True)
    other = TinyTokenizer(words=[" tree"])
    with pytest.raises(ValueError, match=r"are of its own tokens.*Leave tokenizer= out"):
        RASLITEPlusOptimizer(model, loss, tokenizer=other)
    same = RASLITEPlusOptimizer(model, loss, tokenizer=TinyTokenizer())
    assert same.trigger_tokenizer() == model.tokenizer


class Nameless:
    """What a Hugging Face tokenizer made in memory looks like: it has no name."""

    all_special_ids = (0, 1, 2)
    name_or_path = ""

    def __init__(self, *words):
        self._tiny = TinyTokenizer(*words)

    def __len__(self):
        return self._tiny.vocab_size

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": self._tiny.batch_encode(texts)}

    def encode(self, text, add_special_tokens=True):
        return self._tiny.encode(text)

    def decode(self, ids, clean_up_tokenization_spaces=None):
        return self._tiny.decode(ids)


def test_tokenizer_without_a_name_is_known_by_its_tokens(loss, targets):
    class Wrapped(TinyLM):
        held = Nameless()
        tokenizer = property(lambda self: as_tokenizer(self.held))

    util = Wrapped()
    for tokenizer in (None, util.held, util.tokenizer, Nameless()):
        RASLITEPlusOptimizer(BlackBox(), loss, util_lm=util, tokenizer=tokenizer)
    other = Nameless([" dog", " say", "ell", "ow"])
    with pytest.raises(ValueError, match="Leave tokenizer= out"):
        RASLITEPlusOptimizer(BlackBox(), loss, util_lm=util, tokenizer=other)
    optimizer = RASLITEPlusOptimizer(BlackBox(), loss, util_lm=util, num_steps=1, **SMALL)
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss <= result.initial_loss


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_logit_samples": 0}, "n_logit_samples must be a whole number of at least 1, got 0"),
        ({"n_flip": 0}, "n_flip must be a whole number of at least 1, got 0"),
        ({"n_flip": 0.0}, "n_flip must be a whole number of positions, or a share"),
        ({"n_flip": 1.5}, "share above 0.0 and up to 1.0, got 1.5"),
        ({"n_candidates": 0}, "n_candidates"),
    ],
)
def test_senseless_settings_are_refused(model, loss, setting, message):
    with pytest.raises(ValueError, match=message):
        RASLITEPlusOptimizer(model, loss, **setting)


class CosineLoss(BaseLoss):
    """Minus the cosine similarity to a vector."""

    def __call__(self, output_embeddings, target_vectors):
        return -torch.cosine_similarity(output_embeddings.float(), target_vectors[None], dim=-1)


def test_language_model_offers_tokens_to_an_encoder():
    encoder = TinyEncoder(seed=0)
    goal = encoder.invoke_from_texts(["the red cat is in the sun"]).output_embeddings[0]
    optimizer = RASLITEPlusOptimizer(
        encoder, CosineLoss(), seed=0, num_steps=10, util_lm=TinyLM(seed=1), **SMALL
    )
    result = optimizer.optimize_trigger(
        ["{{OPTIMIZED_TRIGGER}}"], "a a a a a", Targets(target_vectors=goal[None]), progress=False
    )
    assert result.best_loss < result.initial_loss - 0.1

import pytest
import torch

from pellucid.core import (
    LMBaseModel,
    LossTextAccessMixin,
    ModelOutput,
    RequirementError,
)
from pellucid.optimizers import BeamSearchOptimizer, StepRandom, TokenConstraints
from pellucid.testing import TinyLM

TEMPLATES = ["Say{{OPTIMIZED_TRIGGER}} please.", "Now{{OPTIMIZED_TRIGGER}} tell me:"]
START = " the cat the cat"


def prepare(optimizer, targets):
    problem = optimizer.make_problem()
    problem.set_inputs(TEMPLATES, targets)
    return problem, optimizer.start(problem, problem.encode(START), 1.0)


def take_step(optimizer, problem, state, random, losses=None):
    moves = optimizer.step(problem, state, random)
    candidates = next(moves)
    found = problem.compute_losses(candidates) if losses is None else losses(candidates)
    with pytest.raises(StopIteration) as done:
        moves.send(found)
    return candidates, done.value.value


def test_beams_grow_by_one_allowed_token_a_step(model, loss, targets):
    constraints = TokenConstraints(disallow_custom_token_ids=list(range(90, 128)))
    optimizer = BeamSearchOptimizer(
        model, loss, beam_size=3, branching_factor=4, token_constraints=constraints
    )
    problem, state = prepare(optimizer, targets)
    allowed = set(problem.allowed_ids(constraints).tolist())
    beams = None
    for step in range(1, 5):
        candidates, state = take_step(optimizer, problem, state, StepRandom(0, step))
        assert candidates.shape == (3 if beams is None else 12, step)
        assert set(candidates.flatten().tolist()) <= allowed
        if beams is not None:
            assert torch.equal(candidates[:, :-1], beams.repeat_interleave(4, dim=0))
        assert len({tuple(row) for row in candidates.tolist()}) == len(candidates)
        beams = state.beam_ids


def test_beams_kept_are_those_of_lowest_loss(model, loss, targets):
    optimizer = BeamSearchOptimizer(model, loss, beam_size=2, branching_factor=3)
    problem, state = prepare(optimizer, targets)
    _, state = take_step(optimizer, problem, state, StepRandom(0, 1))
    order = torch.tensor([0.5, 0.1, 0.9, 0.1, 0.05, 0.7])
    candidates, state = take_step(
        optimizer, problem, state, StepRandom(0, 2), lambda rows: order[: len(rows)]
    )
    assert torch.equal(state.beam_ids, candidates[[4, 1]])
    assert torch.equal(state.trigger_ids, candidates[4])
    assert state.loss == pytest.approx(0.05)


def test_cold_draws_are_the_likeliest_tokens_as_a_plain_pass_finds_them(model, loss, targets):
    optimizer = BeamSearchOptimizer(model, loss, beam_size=2, branching_factor=3, temperature=1e-6)
    problem, state = prepare(optimizer, targets)
    allowed = problem.allowed_ids(optimizer.token_constraints)

    def likeliest(trigger, n):
        rows = []
        for template in TEMPLATES:
            before = template.partition("{{")[0]
            ids = torch.tensor([[1, *model.tokenizer.encode(before), *trigger]])
            rows.append(model.invoke_from_tokens(ids).full_logits[0, -1])
        mean = torch.stack(rows).mean(dim=0)[allowed]
        return allowed[mean.topk(n).indices].tolist()

    candidates, state = take_step(optimizer, problem, state, StepRandom(0, 1))
    assert candidates[:, 0].tolist() == likeliest([], 2)
    beams = state.beam_ids
    candidates, _ = take_step(optimizer, problem, state, StepRandom(0, 2))
    for i, beam in enumerate(beams.tolist()):
        assert candidates[3 * i : 3 * i + 3, -1].tolist() == likeliest(beam, 3)


def test_draws_follow_the_distribution(model, loss):
    optimizer = BeamSearchOptimizer(model, loss, temperature=2.0)
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    drawn = torch.cat([optimizer._draw(logits, 1, StepRandom(0, s)) for s in range(2000)])
    shares = torch.bincount(drawn.flatten(), minlength=4) / 2000
    torch.testing.assert_close(shares, (logits[0] / 2).softmax(dim=-1), atol=0.05, rtol=0)


def test_top_k_bounds_the_choice_and_few_tokens_the_branching(model, loss, targets):
    optimizer = BeamSearchOptimizer(model, loss, beam_size=9, branching_factor=9, top_k=2)
    problem, state = prepare(optimizer, targets)
    candidates, state = take_step(optimizer, problem, state, StepRandom(0, 1))
    assert len(candidates) == 2
    candidates, _ = take_step(optimizer, problem, state, StepRandom(0, 2))
    assert len(candidates) == 4


def test_best_of_all_lengths_is_returned(model, loss, targets):
    optimizer = BeamSearchOptimizer(
        model, loss, seed=0, num_steps=6, beam_size=3, branching_factor=3
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss == min([result.initial_loss, *result.losses])
    best = result.losses.index(min(result.losses))
    if result.best_loss < result.initial_loss:
        assert len(result.best_trigger_ids) == best + 1
    assert result.verified_loss == pytest.approx(result.best_loss, abs=1e-6)


def test_prefix_is_what_the_language_model_reads(model, loss, targets):
    def first_tokens(prefix):
        optimizer = BeamSearchOptimizer(
            model, loss, beam_size=3, temperature=1e-6, util_lm_prefix=prefix
        )
        problem, state = prepare(optimizer, targets)
        candidates, _ = take_step(optimizer, problem, state, StepRandom(0, 1))
        return optimizer, candidates[:, 0].tolist()

    optimizer, found = first_tokens("I say")
    allowed = optimizer.make_problem().allowed_ids(optimizer.token_constraints)
    ids = torch.tensor([[1, *model.tokenizer.encode("I say")]])
    logits = model.invoke_from_tokens(ids).full_logits[0, -1]
    assert found == allowed[logits[allowed].topk(3).indices].tolist()


class Remote(LMBaseModel, LossTextAccessMixin):
    def __init__(self):
        self._inner = TinyLM(seed=0)

    def invoke_from_texts(self, input_texts, message_targets=None, require_target_prefill=False):
        return self._inner.invoke_from_texts(
            input_texts, message_targets, require_target_prefill=require_target_prefill
        )

    def set_inputs_from_texts(self, templates, targets=None):
        self._inner.set_inputs_from_texts(templates, targets)
        self._text_input_manager = self._inner._text_input_manager


def test_black_box_with_a_language_model_beside_it(loss, targets):
    optimizer = BeamSearchOptimizer(
        Remote(), loss, seed=0, num_steps=4, beam_size=4, util_lm=TinyLM(seed=1)
    )
    result = optimizer.optimize_trigger(TEMPLATES, START, targets, progress=False)
    assert result.best_loss < result.initial_loss


def test_black_box_without_one_is_refused(loss):
    class Parrot(LMBaseModel, LossTextAccessMixin):
        def invoke_from_texts(self, input_texts, **kwargs):
            return ModelOutput(generated_response_strs=list(input_texts))

    with pytest.raises(RequirementError, match="util_lm of BeamSearchOptimizer requires Logits"):
        BeamSearchOptimizer(Parrot(), loss)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "setting",
    [{"beam_size": 0}, {"branching_factor": 0}, {"top_k": 0}, {"temperature": 0.0}],
)
def test_senseless_settings_are_refused(model, loss, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        BeamSearchOptimizer(model, loss, **setting)

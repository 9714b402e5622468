import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ArgumentError, BaseLoss, ContractError, MessageTargets, ModelOutput
from pellucid.losses import (
    IGNORE_INDEX,
    PrefillBasedLoss,
    PrefillCELoss,
    PrefillCWLoss,
    PrefillDistillationLoss,
    PrefillMellowMaxLoss,
)

LOGITS = seeded(3, 4, 7)
TOKENS = torch.tensor([2, 0, 6, 3])


def naive_ce(logits, tokens, *, temperature=1.0, clamp=None):
    """The formula, one Python number at a time."""
    rows = []
    for sample in logits.tolist():
        nlls = []
        for row, token in zip(sample, tokens.tolist(), strict=True):
            if token == IGNORE_INDEX:
                continue
            scaled = [z / temperature for z in row]
            nll = math.log(sum(math.exp(z) for z in scaled)) - scaled[token]
            nlls.append(nll if clamp is None else max(clamp, nll))
        rows.append(sum(nlls) / len(nlls) if nlls else 0.0)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("clamp", [None, 0.0, 1.5, 100.0])
def test_ce_is_the_mean_negative_log_likelihood(temperature, clamp):
    loss = PrefillCELoss(temperature=temperature, clamp_min_nll=clamp)
    expected = naive_ce(LOGITS, TOKENS, temperature=temperature, clamp=clamp)
    torch.testing.assert_close(loss(LOGITS, TOKENS), expected)


def test_ce_of_equal_logits_is_the_log_of_the_vocabulary():
    losses = PrefillCELoss()(torch.zeros(2, 3, 11), torch.tensor([1, 2, 3]))
    torch.testing.assert_close(losses, torch.full((2,), math.log(11)))


def test_ce_of_a_certain_target_is_zero():
    logits = torch.full((1, 2, 5), -torch.inf)
    logits[0, 0, 3] = logits[0, 1, 4] = 0.0
    assert PrefillCELoss()(logits, torch.tensor([3, 4])).tolist() == [0.0]


def test_ce_of_an_impossible_target_is_infinite():
    logits = torch.zeros(1, 1, 5)
    logits[0, 0, 3] = -torch.inf
    assert PrefillCELoss()(logits, torch.tensor([3])).tolist() == [math.inf]


def test_ignored_positions_have_no_influence_and_no_gradient():
    tokens = torch.tensor([2, IGNORE_INDEX, 6, IGNORE_INDEX])
    logits = LOGITS.clone()
    logits[:, 1] = 1e9
    leaf = logits.requires_grad_()
    losses = PrefillCELoss(clamp_min_nll=0.1)(leaf, tokens)
    torch.testing.assert_close(losses, naive_ce(LOGITS[:, [0, 2]], TOKENS[[0, 2]], clamp=0.1))
    losses.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad[:, [1, 3]].any()
    assert leaf.grad[:, [0, 2]].any()


def test_a_target_that_is_ignored_altogether_has_loss_zero():
    tokens = torch.full((4,), IGNORE_INDEX)
    assert PrefillCELoss(clamp_min_nll=2.0)(LOGITS, tokens).tolist() == [0.0, 0.0, 0.0]


def test_a_target_of_one_token():
    losses = PrefillCELoss()(LOGITS[:, :1], TOKENS[:1])
    torch.testing.assert_close(losses, -LOGITS[:, 0].log_softmax(dim=-1)[:, 2])


def test_ce_gradient():
    for loss in (PrefillCELoss(), PrefillCELoss(temperature=0.7, clamp_min_nll=1.9)):
        assert_gradient_is_that_of_finite_differences(lambda z, f=loss: f(z, TOKENS), LOGITS)


def test_a_clamped_token_has_no_gradient():
    leaf = LOGITS.clone().requires_grad_()
    PrefillCELoss(clamp_min_nll=100.0)(leaf, TOKENS).sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


@pytest.mark.parametrize("loss", [PrefillCELoss(), PrefillCELoss(0.3, 0.5)])
def test_ce_computes_in_float32(loss):
    assert_low_precision_is_computed_in_float32(lambda z: loss(z, TOKENS), 30 * LOGITS)


def test_large_half_precision_logits_do_not_overflow():
    logits = torch.zeros(1, 1, 3, dtype=torch.float16)
    logits[0, 0, 0] = 60000.0
    losses = PrefillCELoss(temperature=0.5)(logits, torch.tensor([1]))
    assert losses.tolist() == [120000.0]


@given(st.integers(0, 2**16), st.floats(-50, 50), st.integers(1, 4), st.integers(1, 5))
def test_ce_ignores_a_constant_added_to_all_logits(seed, shift, n_batch, n_target):
    logits = seeded(n_batch, n_target, 9, seed=seed)
    tokens = torch.arange(n_target)
    torch.testing.assert_close(
        PrefillCELoss()(logits + shift, tokens), PrefillCELoss()(logits, tokens)
    )


@given(st.integers(0, 2**16), st.floats(0.1, 10), st.floats(0, 4))
def test_ce_laws(seed, temperature, clamp):
    logits = 5 * seeded(4, 3, 8, seed=seed)
    tokens = torch.tensor([1, 7, 3])
    plain = PrefillCELoss(temperature)(logits, tokens)
    clamped = PrefillCELoss(temperature, clamp)(logits, tokens)
    assert (plain >= 0).all()
    assert (clamped >= plain).all()
    assert (clamped >= clamp - 1e-9).all()
    order = torch.tensor([2, 0, 3, 1])  # each sample stands alone
    assert torch.equal(PrefillCELoss(temperature)(logits[order], tokens), plain[order])
    raised = logits.clone()
    raised[:, 0, 1] += 1.0  # a likelier target token lowers the loss
    assert (PrefillCELoss(temperature)(raised, tokens) < plain + 1e-12).all()


def test_int32_targets_are_taken():
    assert torch.equal(PrefillCELoss()(LOGITS, TOKENS.int()), PrefillCELoss()(LOGITS, TOKENS))


def test_nothing_that_is_given_is_changed():
    logits, tokens = LOGITS.clone(), TOKENS.clone()
    PrefillCELoss(0.5, 1.0)(logits, tokens)
    assert torch.equal(logits, LOGITS)
    assert torch.equal(tokens, TOKENS)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ArgumentError, match="temperature must be positive"):
        PrefillCELoss(temperature=temperature)


def test_shapes_that_disagree_are_refused_by_axis_name():
    with pytest.raises(ContractError, match="target_pos"):
        PrefillCELoss()(LOGITS, TOKENS[:3])
    with pytest.raises(ContractError, match="target_response_toks"):
        PrefillCELoss()(LOGITS, TOKENS.float())


def test_what_ce_declares():
    loss = PrefillCELoss()
    assert isinstance(loss, PrefillBasedLoss)
    assert isinstance(loss, BaseLoss)
    assert loss.is_differentiable
    assert loss.reads().required == {"prefill_response_logits", "target_response_toks"}
    assert [name for name, asked in loss.options().items() if asked] == ["require_target_prefill"]
    assert repr(loss) == "PrefillCELoss(temperature=1.0, clamp_min_nll=None)"


def test_ce_is_resolved_from_output_and_targets():
    losses = resolve(
        PrefillCELoss(),
        ModelOutput(prefill_response_logits=LOGITS),
        message_targets=MessageTargets(target_response_toks=TOKENS),
    )
    torch.testing.assert_close(losses, naive_ce(LOGITS, TOKENS))


def naive_mellowmax(logits, tokens, *, alpha, temperature):
    rows = []
    for sample in logits.tolist():
        kept = [
            math.exp(-alpha * row[token] / temperature)
            for row, token in zip(sample, tokens.tolist(), strict=True)
            if token != IGNORE_INDEX
        ]
        rows.append(math.log(sum(kept) / len(kept)) / alpha)
    return torch.tensor(rows, dtype=torch.float64)


def naive_cw(logits, tokens, *, margin, first):
    rows = []
    for sample in logits.tolist():
        terms = []
        for t, (row, token) in enumerate(zip(sample, tokens.tolist(), strict=True)):
            if token == IGNORE_INDEX:
                continue
            rival = max(z for v, z in enumerate(row) if v != token)
            terms.append((first if t == 0 else 1.0) * max(-margin, rival - row[token]))
        rows.append(sum(terms) / len(terms))
    return torch.tensor(rows, dtype=torch.float64)


def naive_distillation(logits, reference, *, temperature, reference_temperature, clamp):
    rows = []
    for sample in logits.tolist():
        terms = []
        for row, ref in zip(sample, reference.tolist(), strict=True):
            total = sum(math.exp(z / temperature) for z in row)
            ref_total = sum(math.exp(z / reference_temperature) for z in ref)
            terms.append(
                -sum(
                    math.exp(r / reference_temperature)
                    / ref_total
                    * (z / temperature - math.log(total))
                    for z, r in zip(row, ref, strict=True)
                )
            )
        rows.append(sum(t if clamp is None else max(clamp, t) for t in terms) / len(terms))
    return torch.tensor(rows, dtype=torch.float64)


PADDED = torch.tensor([2, IGNORE_INDEX, 6, 3])
REFERENCE = seeded(4, 7, seed=5)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("tokens", [TOKENS, PADDED])
def test_mellowmax_formula(alpha, temperature, tokens):
    losses = PrefillMellowMaxLoss(alpha, temperature)(LOGITS, tokens)
    expected = naive_mellowmax(LOGITS, tokens, alpha=alpha, temperature=temperature)
    torch.testing.assert_close(losses, expected)


def test_mellowmax_lies_between_the_mean_and_the_maximum_and_grows_sharper():
    lows = -LOGITS[:, torch.arange(4), TOKENS]
    losses = [PrefillMellowMaxLoss(alpha)(LOGITS, TOKENS) for alpha in (1e-4, 1.0, 10.0, 1e3)]
    torch.testing.assert_close(losses[0], lows.mean(dim=-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(losses[-1], lows.amax(dim=-1), atol=2e-3, rtol=0)
    for softer, sharper in itertools.pairwise(losses):
        assert (softer <= sharper).all()


def test_mellowmax_of_an_ignored_target_is_zero_without_a_gradient():
    leaf = LOGITS.clone().requires_grad_()
    losses = PrefillMellowMaxLoss(2.0)(leaf, torch.full((4,), IGNORE_INDEX))
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.zeros(3, dtype=torch.float64))
    assert leaf.grad is not None
    assert leaf.grad.eq(0).all()


@pytest.mark.parametrize("margin", [0.0, 1e-3, 0.7, 5.0])
@pytest.mark.parametrize("first", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("tokens", [TOKENS, PADDED])
def test_cw_formula(margin, first, tokens):
    losses = PrefillCWLoss(margin, first)(LOGITS, tokens)
    torch.testing.assert_close(losses, naive_cw(LOGITS, tokens, margin=margin, first=first))


def test_cw_is_minus_the_margin_once_greedy_decoding_yields_the_target():
    logits = torch.zeros(1, 4, 7)
    logits[0, torch.arange(4), TOKENS] = 5.0
    assert PrefillCWLoss(cw_margin=1.0)(logits, TOKENS).tolist() == [-1.0]
    logits[0, 2] = 0.0
    logits[0, 2, 1] = 2.0
    assert PrefillCWLoss(cw_margin=1.0)(logits, TOKENS).tolist() == [-0.25]


def test_equal_logits_are_a_draw():
    assert PrefillCWLoss()(torch.ones(1, 2, 3), torch.tensor([0, 2])).tolist() == [0.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("reference_temperature", [0.5, 2.0])
@pytest.mark.parametrize("clamp", [None, 2.2])
def test_distillation_formula(temperature, reference_temperature, clamp):
    losses = PrefillDistillationLoss(temperature, reference_temperature, clamp)(LOGITS, REFERENCE)
    expected = naive_distillation(
        LOGITS,
        REFERENCE,
        temperature=temperature,
        reference_temperature=reference_temperature,
        clamp=clamp,
    )
    torch.testing.assert_close(losses, expected)


def test_distillation_of_a_certain_reference_is_the_cross_entropy():
    reference = torch.full((4, 7), -torch.inf, dtype=torch.float64)
    reference[torch.arange(4), TOKENS] = 0.0
    losses = PrefillDistillationLoss()(LOGITS, reference)
    torch.testing.assert_close(losses, PrefillCELoss()(LOGITS, TOKENS))


def test_distillation_takes_tokens_that_both_sides_exclude():
    logits, reference = LOGITS.clone(), REFERENCE.clone()
    logits[..., 5] = reference[..., 5] = -torch.inf
    leaf = logits.requires_grad_()
    losses = PrefillDistillationLoss()(leaf, reference)
    losses.sum().backward()
    kept = [0, 1, 2, 3, 4, 6]
    expected = PrefillDistillationLoss()(LOGITS[..., kept], REFERENCE[..., kept])
    torch.testing.assert_close(losses, expected)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@given(st.integers(0, 2**16))
def test_distillation_is_least_where_the_prediction_is_the_reference(seed):
    reference = seeded(2, 5, seed=seed)
    logits = torch.stack([reference, reference + seeded(2, 5, seed=seed + 1)])
    at_reference, elsewhere = PrefillDistillationLoss()(logits, reference)
    assert at_reference <= elsewhere + 1e-12


BATCH_LOSSES = [
    (PrefillMellowMaxLoss(0.7, 1.3), PADDED),
    (PrefillCWLoss(0.4, 2.0), PADDED),
    (PrefillDistillationLoss(0.8, 1.2), REFERENCE),
    (PrefillDistillationLoss(clamp_min_nll=2.1), REFERENCE),
]


@pytest.mark.parametrize(("loss", "target"), BATCH_LOSSES, ids=str)
def test_other_gradients(loss, target):
    assert_gradient_is_that_of_finite_differences(lambda z: loss(z, target), LOGITS)


@pytest.mark.parametrize(("loss", "target"), BATCH_LOSSES, ids=str)
def test_other_losses_compute_in_float32(loss, target):
    def compute(logits):
        return loss(logits, target if target.dtype == torch.int64 else target.float())

    assert_low_precision_is_computed_in_float32(compute, 20 * LOGITS)


@pytest.mark.parametrize(("loss", "target"), BATCH_LOSSES, ids=str)
def test_a_target_of_one_token_and_samples_that_stand_alone(loss, target):
    single = loss(LOGITS[:, :1], target[:1])
    assert single.shape == (3,)
    torch.testing.assert_close(loss(LOGITS[1:2, :1], target[:1]), single[1:2])
    assert isinstance(loss, PrefillBasedLoss)
    assert loss.options()["require_target_prefill"]
    assert loss.is_differentiable


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PrefillMellowMaxLoss(mellowmax_alpha=0.0), "mellowmax_alpha must be positive"),
        (lambda: PrefillMellowMaxLoss(temperature=-1.0), "temperature must be positive"),
        (lambda: PrefillCWLoss(cw_margin=-0.1), "cw_margin must not be negative, got -0.1"),
        (lambda: PrefillCWLoss(first_token_weight=-1.0), "first_token_weight must not be negative"),
        (lambda: PrefillDistillationLoss(temperature=0.0), "temperature must be positive"),
        (lambda: PrefillDistillationLoss(reference_temperature=0.0), "reference_temperature must"),
    ],
)
def test_bad_hyperparameters_are_refused(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_a_reference_of_another_length_is_refused_by_axis_name():
    with pytest.raises(ContractError, match="target_pos"):
        PrefillDistillationLoss()(LOGITS, REFERENCE[:2])


def test_what_distillation_declares():
    reads = PrefillDistillationLoss().reads()
    assert reads.required == {"prefill_response_logits", "target_response_logits"}

"""Gradients, against autograd through one-hot inputs and against finite differences."""

import pytest
import torch

from pellucid.core import NotDifferentiableError, Targets, select_topk
from pellucid.hf import LMHFModel
from pellucid.hf import _gradients as gradients
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer


@pytest.fixture(params=["llama", "gpt2"])
def ready(request, made):
    """A model in double precision, so that finite differences mean something."""
    build = {"llama": tiny_llama, "gpt2": tiny_gpt2}[request.param]
    model = LMHFModel(build(dtype=torch.float64), tokenizer=tiny_tokenizer())
    targets = Targets(target_response_strs=made.targets[:2])
    model.set_inputs_from_tokens(made.templates[:2], targets)
    return model


def one_hot_losses(model, weights, loss, template_idx):
    """Losses as a function of one-hot tokens, through the whole table."""
    embeds = weights @ model.effective_embedding_matrix
    inputs = model._token_input_manager.get_triggered_inputs(
        template_idx,
        weights.argmax(dim=-1),
        trigger_embeds=embeds,
        do_append_embeds=loss.require_target_prefill,
    )
    output = model.invoke_from_tokens(
        input_embeds=inputs.input_embeds, input_slices=inputs.input_slices, **loss.options()
    )
    from pellucid.core import resolve_and_compute_loss

    return resolve_and_compute_loss(output, inputs, loss)


def naive_gradient(model, ids, loss, template_idx):
    weights = torch.nn.functional.one_hot(ids, model.vocab_size).to(model.dtype).requires_grad_()
    losses = one_hot_losses(model, weights, loss, template_idx)
    return torch.autograd.grad(losses.sum(), weights)[0]


@pytest.mark.parametrize("name", ["PrefillCE", "TriggerCE", "HiddenNorm"])
def test_gradients_equal_autograd_through_one_hot_tokens(ready, made, candidates, name):
    loss = getattr(made, name)()
    grads = ready.compute_grad_from_tokens(loss, candidates, keep_message_dim=True)
    expected = torch.stack([naive_gradient(ready, candidates, loss, i) for i in range(2)])
    torch.testing.assert_close(grads, expected, rtol=1e-5, atol=1e-9)
    mean = ready.compute_grad_from_tokens(loss, candidates)
    torch.testing.assert_close(mean, expected.mean(dim=0), rtol=1e-5, atol=1e-9)


def test_gradients_equal_finite_differences(ready, made, candidates):
    loss, ids = made.PrefillCE(), candidates[:1]
    grads = ready.compute_grad_from_tokens(loss, ids, keep_message_dim=True)[0]
    weights = torch.nn.functional.one_hot(ids, ready.vocab_size).to(ready.dtype)
    step = 1e-3  # norms of Llama compute in float32 whatever the weights are
    for position, token in [(0, 17), (3, 301), (5, 99)]:
        nudge = torch.zeros_like(weights)
        nudge[0, position, token] = step
        with torch.no_grad():
            up, down = (one_hot_losses(ready, weights + sign * nudge, loss, 0) for sign in (1, -1))
        assert grads[0, position, token].item() == pytest.approx(
            ((up - down) / (2 * step)).item(), rel=1e-2
        )


def test_batch_size_changes_no_gradient(ready, made, candidates):
    whole, losses = ready.compute_grad_from_tokens(made.PrefillCE(), candidates, return_loss=True)
    ready._backward_pass_batch_size = 2
    parts, same = ready.compute_grad_from_tokens(made.PrefillCE(), candidates, return_loss=True)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(same, losses)
    torch.testing.assert_close(
        losses, ready.compute_loss_from_tokens(candidates, made.PrefillCE()), atol=1e-9, rtol=0
    )


def test_gradients_of_tokens_and_of_embeddings_agree(ready, made, candidates):
    embeds = ready.effective_embedding_matrix[candidates]
    at_embeds = ready.compute_grad_from_embeds(made.PrefillCE(), embeds)
    at_tokens = ready.compute_grad_from_tokens(made.PrefillCE(), candidates)
    product = at_embeds @ ready.embedding_matrix.mT
    torch.testing.assert_close(product, at_tokens, rtol=1e-5, atol=1e-9)


def test_normalized_gradients_have_length_one(ready, made, candidates):
    for kept in (False, True):
        grads = ready.compute_grad_from_tokens(
            made.PrefillCE(), candidates, normalize_grads=True, keep_message_dim=kept
        )
        torch.testing.assert_close(grads.norm(dim=-1), torch.ones(grads.shape[:-1]).double())


@pytest.mark.parametrize("n_scores", [2**24, 7000])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("only_some", [False, True])
def test_topk_equals_that_of_the_whole_gradient(
    ready, made, candidates, monkeypatch, n_scores, average, normalize, only_some
):
    monkeypatch.setattr(gradients, "_MAX_SCORES", n_scores)
    allowed = torch.arange(3, 384, 5) if only_some else None
    found = ready.compute_topk_from_tokens(
        made.PrefillCE(), candidates, 8, allowed, average=average, normalize=normalize
    )
    grads = ready.compute_grad_from_tokens(made.PrefillCE(), candidates)
    if normalize:
        grads = grads / grads.norm(dim=-1, keepdim=True)
    if average:
        grads = grads.mean(dim=0, keepdim=True)
    expected = select_topk(grads, 8, allowed)
    assert torch.equal(found.token_ids, expected.token_ids)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-9)


def test_topk_takes_every_allowed_token_but_no_other(ready, made, candidates):
    allowed = torch.tensor([4, 90, 91])
    found = ready.compute_topk_from_tokens(made.PrefillCE(), candidates, 3, allowed)
    assert torch.equal(found.token_ids.sort(dim=-1).values, allowed.expand(9, 6, 3))
    with pytest.raises(ValueError, match="between 1 and the 3 tokens"):
        ready.compute_topk_from_tokens(made.PrefillCE(), candidates, 4, allowed)


def test_soft_tokens_get_the_gradient_of_their_weights(ready, made):
    weights = torch.rand((2, 4, 384), generator=torch.Generator().manual_seed(0)).double()
    weights = weights.softmax(dim=-1)
    grads, losses = ready.compute_grad_from_tokens(
        made.PrefillCE(), candidate_trigger_probs=weights, keep_message_dim=True, return_loss=True
    )
    leaf = weights.clone().requires_grad_()
    expected = one_hot_losses(ready, leaf, made.PrefillCE(), 0)
    torch.testing.assert_close(losses[0], expected.detach())
    torch.testing.assert_close(
        grads[0], torch.autograd.grad(expected.sum(), leaf)[0], rtol=1e-5, atol=1e-9
    )


def test_gumbel_gradient_is_that_of_the_logits(ready, made):
    logits = torch.randn((1, 3, 384), generator=torch.Generator().manual_seed(0)).double()

    def run(at):
        return ready.compute_grad_from_tokens(
            made.PrefillCE(),
            candidate_trigger_probs=at,
            do_gumbel_softmax=True,
            gumbel_softmax_temp=0.7,
            return_loss=True,
            generator=torch.Generator().manual_seed(1),
        )

    grads, _ = run(logits)
    step = 1e-2
    steepest = grads.abs().flatten().topk(3).indices
    for place in steepest:
        nudge = torch.zeros_like(logits)
        nudge.view(-1)[place] = step
        slope = (run(logits + nudge)[1] - run(logits - nudge)[1]) / (2 * step)
        assert grads.flatten()[place].item() == pytest.approx(slope.item(), rel=1e-2)


def test_gumbel_noise_comes_from_the_generator_alone(ready, made):
    logits = torch.zeros((2, 3, 384)).double()
    before = torch.random.get_rng_state()
    one, two, other = (
        ready.compute_grad_from_tokens(
            made.PrefillCE(),
            candidate_trigger_probs=logits,
            do_gumbel_softmax=True,
            gumbel_softmax_temp=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_returned_in_float32(made, candidates, dtype):
    model = LMHFModel(tiny_llama(dtype=dtype), tokenizer=tiny_tokenizer())
    exact = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    for one in (model, exact):
        one.set_inputs_from_tokens(made.templates[:1], Targets(target_response_strs=["Yes"]))
    grads = model.compute_grad_from_tokens(made.PrefillCE(), candidates)
    expected = exact.compute_grad_from_tokens(made.PrefillCE(), candidates)
    assert grads.dtype == torch.float32
    assert torch.cosine_similarity(grads.flatten(), expected.flatten(), dim=0) > 0.98


def test_losses_without_gradient_are_refused(ready, made, candidates):
    with pytest.raises(NotDifferentiableError, match="FirstTokenCE has no gradient"):
        ready.compute_grad_from_tokens(made.FirstTokenCE(), candidates)
    with pytest.raises(ValueError, match="does not depend on the trigger"):
        ready.compute_grad_from_tokens(made.NaNLoss(), candidates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of candidate_trigger_ids and candidate_trigger_probs, got neither"),
        ({"ids": True, "probs": True}, "got both"),
        ({"ids": True, "do_gumbel_softmax": True}, "takes logits"),
        ({"probs": True, "do_gumbel_softmax": True}, "positive gumbel_softmax_temp, got None"),
        (
            {"probs": True, "do_gumbel_softmax": True, "gumbel_softmax_temp": 0.0},
            "positive gumbel_softmax_temp, got 0.0",
        ),
        ({"ids": True, "gumbel_softmax_temp": 1.0}, "has no effect"),
    ],
)
def test_meaningless_combinations_are_refused(ready, made, candidates, options, message):
    given = dict(options)
    if given.pop("ids", False):
        given["candidate_trigger_ids"] = candidates
    if given.pop("probs", False):
        given["candidate_trigger_probs"] = torch.rand((9, 6, 384))
    with pytest.raises(ValueError, match=message):
        ready.compute_grad_from_tokens(made.PrefillCE(), **given)

"""Losses of the token flow, against a plain computation of one candidate at a time."""

import pytest
import torch

from pellucid.core import CombinedLoss, Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer


def naive_losses(model, candidates, template_idx):
    """One candidate at a time, all logits, no slices: token ids in, cross entropy out."""
    inputs = model._token_input_manager
    before, after = inputs._before_ids[template_idx], inputs._after_ids[template_idx]
    target = inputs.targets.select_message(template_idx).target_response_toks
    losses = []
    for row in candidates:
        ids = torch.cat([before, row, after, target])
        with torch.no_grad():
            logprobs = model._model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        at = range(len(ids) - len(target) - 1, len(ids) - 1)
        losses.append(-sum(logprobs[i, t] for i, t in zip(at, target, strict=True)) / len(target))
    return torch.stack(losses)


@pytest.fixture
def ready(lm, made):
    lm.set_inputs_from_tokens(made.templates, Targets(target_response_strs=made.targets))
    return lm


def test_losses_equal_those_of_one_candidate_at_a_time(ready, made, candidates):
    losses = ready.compute_loss_from_tokens(candidates, made.PrefillCE(), keep_message_dim=True)
    expected = torch.stack([naive_losses(ready, candidates, i) for i in range(3)])
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    mean = ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    torch.testing.assert_close(mean, expected.mean(dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_batch_size_changes_nothing(ready, made, candidates, size):
    whole = ready.compute_loss_from_tokens(candidates, made.PrefillCE(), keep_message_dim=True)
    ready._forward_pass_batch_size = size
    parts = ready.compute_loss_from_tokens(candidates, made.PrefillCE(), keep_message_dim=True)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_order_and_company_change_nothing(ready, made, candidates):
    whole = ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))
    turned = ready.compute_loss_from_tokens(candidates[order], made.PrefillCE())
    torch.testing.assert_close(turned, whole[order], atol=1e-5, rtol=0)
    alone = ready.compute_loss_from_tokens(candidates[4:5], made.PrefillCE())
    torch.testing.assert_close(alone, whole[4:5], atol=1e-5, rtol=0)


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(ready, made, candidates):
    whole = ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    forward = ready._forward

    def starve(given, mask, **options):
        if len(given) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(given, mask, **options)

    ready._forward = starve
    less = ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    torch.testing.assert_close(less, whole, atol=1e-5, rtol=0)
    assert ready._forward_pass_batch_size == 2


def test_nan_never_wins(ready, made, candidates):
    losses = ready.compute_loss_from_tokens(candidates, made.NaNLoss())
    odd = candidates[:, 0] % 2 == 1
    assert 0 < odd.sum() < len(odd)
    assert losses[odd].isposinf().all()
    assert (losses[~odd] == 1).all()


def test_losses_over_logits_hidden_states_first_tokens_and_answers(ready, made, candidates):
    for loss in (made.TriggerCE(), made.HiddenNorm(), made.FirstTokenCE(), made.AnswerLength()):
        whole = ready.compute_loss_from_tokens(candidates[:3], loss, keep_message_dim=True)
        alone = ready.compute_loss_from_tokens(candidates[1:2], loss, keep_message_dim=True)
        torch.testing.assert_close(alone, whole[:, 1:2], atol=1e-5, rtol=0)


def test_a_combined_loss_is_the_sum_of_its_parts(ready, made, candidates):
    parts = [made.PrefillCE(), made.TriggerCE(), made.FirstTokenCE()]
    both = ready.compute_loss_from_tokens(candidates, CombinedLoss(parts, [1.0, 0.5, 2.0]))
    one, two, three = (ready.compute_loss_from_tokens(candidates, part) for part in parts)
    torch.testing.assert_close(both, one + 0.5 * two + 2.0 * three, atol=1e-5, rtol=0)


def test_prefilling_leaves_the_first_token_and_the_answer_alone(ready, made, candidates):
    for loss in (made.FirstTokenCE(), made.AnswerLength()):
        alone = ready.compute_loss_from_tokens(candidates[:3], loss)
        with_prefill = CombinedLoss([loss, made.PrefillCE()], [1.0, 0.0])
        beside = ready.compute_loss_from_tokens(candidates[:3], with_prefill)
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)


def test_half_precision_models_get_losses_in_float32(made):
    model = LMHFModel(tiny_llama(dtype=torch.bfloat16), tokenizer=tiny_tokenizer())
    model.set_inputs_from_tokens(made.templates[:1], Targets(target_response_strs=["Yes, it is."]))
    near = torch.randint(0, 384, (200, 6), generator=torch.Generator().manual_seed(0))
    losses = model.compute_loss_from_tokens(near, made.PrefillCE())
    assert losses.dtype == torch.float32
    # Rounded to bfloat16, far fewer values would be told apart.
    assert len(losses.unique()) > 1.5 * len(losses.bfloat16().unique())


def test_given_target_tokens_win_over_the_text(lm, made, candidates):
    toks = [torch.tensor([5, 6, 7])]
    both = Targets(target_response_strs=["Yes, it is."], target_response_toks=toks)
    lm.set_inputs_from_tokens(made.templates[:1], both)
    losses = lm.compute_loss_from_tokens(candidates, made.PrefillCE())
    lm.set_inputs_from_tokens(made.templates[:1], Targets(target_response_toks=toks))
    same = lm.compute_loss_from_tokens(candidates, made.PrefillCE())
    torch.testing.assert_close(losses, same)
    assert both.target_response_toks is toks


def test_usage_counts_each_pass_once(ready, made, candidates):
    ready.reset_usage_stats()
    ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    inputs = ready._token_input_manager
    n_prefix = sum(len(ids) for ids in inputs._before_ids)
    # The target's last token predicts nothing that is read.
    n_tokens = sum(
        ready_input.input_ids.numel() - 9 * (ready_input.input_slices["trigger"].start + 1)
        for ready_input in (
            inputs.get_triggered_inputs(i, candidates, do_append_embeds=True) for i in range(3)
        )
    )
    assert ready.get_usage_stats() == {
        "total_tokens": n_prefix + n_tokens,
        "forward_calls": 6,
        "forward_samples": 27,
        "grad_calls": 0,
        "grad_samples": 0,
    }
    ready.set_flop_counting("manual")
    ready.compute_grad_from_tokens(made.PrefillCE(), candidates)
    stats = ready.get_usage_stats()
    assert (stats["grad_calls"], stats["grad_samples"]) == (3, 27)
    # Frozen weights: two for the pass forward, two for the gradient of activations.
    assert stats["total_flops"] == 4 * ready._flop_counter.n_active_params * n_tokens


def test_head_sees_only_the_rows_that_are_read(ready, made, candidates, monkeypatch):
    seen = []
    head = ready._model.get_output_embeddings()
    forward = head.forward

    def record(states):
        seen.append(tuple(states.shape[:2]))
        return forward(states)

    monkeypatch.setattr(head, "forward", record)
    ready.compute_loss_from_tokens(candidates, made.PrefillCE())
    n_target = [len(t) for t in ready._token_input_manager.targets.target_response_toks]
    # The template that begins with the trigger shares nothing, and so is not cut short either.
    has_prefix = [len(ids) > 0 for ids in ready._token_input_manager._before_ids]
    expected = [(9, n + (not has)) for n, has in zip(n_target, has_prefix, strict=True)]
    assert [shape for shape in seen if shape[0] > 1] == expected

"""The laws of exactness, for every architecture: losses, gradients, order, company, prefixes."""

import functools

import pytest
import torch
from torch.nn.functional import one_hot

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_tokenizer

# Longer than the sliding windows, which hold twelve positions.
PREFIX = "The answer is yes! The question is: why? "
LAWFUL = [
    "llama",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "gpt2",
    "gpt_neox",
    "opt",
    "phi3",
    "mixtral",
    "gpt_oss",
    "qwen3_next",
]


def prepare(model, **options):
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), consistency="trigger", **options)
    templates = [f"{PREFIX}Tell me {P} now", f"Is it {P} so?"]
    lm.set_inputs_from_tokens(templates, Targets(target_response_strs=["Yes, it is.", "No"]))
    return lm


@pytest.fixture(scope="module")
def build(architectures):
    """Each architecture, built once."""
    return functools.cache(lambda name: architectures[name]())


@pytest.fixture(params=LAWFUL)
def lm(request, build):
    """A model of each architecture in turn, with two templates, the first beyond any window."""
    return prepare(build(request.param))


@pytest.fixture
def few():
    """Random triggers of four tokens, some of which begin alike."""
    rows = torch.randint(0, 384, (6, 4), generator=torch.Generator().manual_seed(3))
    rows[2:5, :3] = rows[2, :3]
    return rows


def naive_losses(model, inputs, rows, template_idx):
    """One candidate at a time, all logits, no cache: token ids in, cross entropy out."""
    target = inputs.targets.select_message(template_idx).target_response_toks
    losses = []
    for row in rows:
        prompt = inputs.get_triggered_inputs(template_idx, row[None]).input_ids[0]
        ids = torch.cat([prompt, target])[None]
        with torch.no_grad():
            logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(dim=-1)
        at = range(len(prompt) - 1, len(prompt) + len(target) - 1)
        losses.append(-sum(logprobs[i, t] for i, t in zip(at, target, strict=True)) / len(target))
    return torch.stack(losses)


def test_losses_are_those_of_one_candidate_at_a_time_without_a_cache(lm, made, few):
    found = lm.compute_loss_from_tokens(few, made.PrefillCE(), keep_message_dim=True)
    inputs = lm._token_input_manager
    expected = torch.stack([naive_losses(lm._model, inputs, few, i) for i in range(2)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_order_company_chunks_and_prefix_change_nothing(lm, made, few):
    loss = made.PrefillCE()
    whole = lm.compute_loss_from_tokens(few, loss, keep_message_dim=True)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    others = [lm.compute_loss_from_tokens(few[order], loss, True)[:, order.argsort()]]
    others.append(torch.cat([lm.compute_loss_from_tokens(row[None], loss, True) for row in few], 1))
    others.append(lm.compute_loss_from_tokens(few.repeat(2, 1), loss, True)[:, 6:])
    for size in (1, 4):
        lm._forward_pass_batch_size = size
        others.append(lm.compute_loss_from_tokens(few, loss, keep_message_dim=True))
    plain = prepare(lm._model, use_prefix_cache=False)
    others.append(plain.compute_loss_from_tokens(few, loss, keep_message_dim=True))
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)


def naive_gradient(lm, rows, template_idx):
    """Autograd through one-hot tokens times the whole table, one candidate at a time."""
    inputs, table = lm._token_input_manager, lm.effective_embedding_matrix
    target = inputs.targets.select_message(template_idx).target_response_toks
    grads = []
    for row in rows:
        weights = one_hot(row[None], lm.vocab_size).to(table.dtype).requires_grad_()
        filled = inputs.get_triggered_inputs(
            template_idx, row[None], trigger_embeds=weights @ table, do_append_embeds=True
        )
        logits = lm._model(inputs_embeds=filled.input_embeds, use_cache=False).logits
        predicting = logits[0, -len(target) - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(predicting, target)
        grads.append(torch.autograd.grad(loss, weights)[0][0])
    return torch.stack(grads)


def test_gradients_are_those_of_autograd_through_one_hot_tokens(lm, made, few):
    found = lm.compute_grad_from_tokens(made.PrefillCE(), few[:3], keep_message_dim=True)
    for i, grads in enumerate(found):
        expected = naive_gradient(lm, few[:3], i)
        scale = expected.abs().max()
        assert scale > 0
        torch.testing.assert_close(grads / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_differences(lm, made, few):
    loss, table = made.PrefillCE(), lm.effective_embedding_matrix
    agree = [agrees_with_differences(lm, loss, table[row[None]]) for row in few]
    # Which experts a token is sent to is a step function: next to a step, differences see the jump.
    has_experts = any("experts" in name for name, _ in lm._model.named_modules())
    assert sum(agree) >= (4 if has_experts else 6), agree


def agrees_with_differences(lm, loss, embeds):
    grad = lm.compute_grad_from_embeds(loss, embeds)
    assert grad.norm() > 0
    slopes = []
    for size in (1e-3, 3e-4, 1e-4):
        step = size * embeds.norm() * grad / grad.norm()
        up, down = (
            lm.compute_grad_from_embeds(loss, embeds + sign * step, return_loss=True)[1]
            for sign in (1, -1)
        )
        slopes.append((up - down).item() / (2 * step.norm().item()))
    return any(slope == pytest.approx(grad.norm().item(), rel=1e-2) for slope in slopes)


def test_a_conversation_means_the_same_in_both_flows(lm, made):
    turns = [
        ("system", "Be brief."),
        ("user", "Is it so?"),
        ("assistant", "Yes."),
        ("user", "Why?"),
    ]
    targets = Targets(target_response_strs=["Yes."])
    for place in (0, 2, 3):
        template = [{"role": role, "content": text} for role, text in turns]
        template[place]["content"] += f" {P}"
        lm.set_inputs_from_tokens([template], targets)
        rows = torch.stack([lm.encode_trigger(text) for text in ("! !", "? !")])
        assert lm.retokenization_mask(rows).all()
        by_tokens = lm.compute_loss_from_tokens(rows, made.PrefillCE())
        lm.set_inputs_from_texts([template], targets)
        by_texts = lm.compute_loss_from_texts(["! !", "? !"], made.PrefillCE())
        torch.testing.assert_close(by_texts, by_tokens, atol=1e-5, rtol=0)

"""The text flow: padding, predictions, responses."""

import math

import pytest
import torch

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import MessageTargets, Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer

TEXTS = ["Hello", "Is it so, or is it not so?", "Why?"]


def prompt_ids(text):
    return tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )


@pytest.fixture
def target():
    return MessageTargets(target_response_toks=torch.tensor([9, 30, 31]))


def test_padding_changes_no_prediction(lm, target):
    output = lm.invoke_from_texts(
        TEXTS, target, require_target_prefill=True, require_first_token_logprobs=True
    )
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([[*prompt_ids(text), 9, 30, 31]])
        with torch.no_grad():
            logits = lm._model(input_ids=ids).logits
        torch.testing.assert_close(
            output.prefill_response_logits[i], logits[0, -4:-1], atol=1e-5, rtol=1e-5
        )
        best = logits[0, -4].log_softmax(dim=-1).max().item()
        assert max(output.response_first_token_logprobs[i].values()) >= best - 1e-5


def test_first_tokens_are_the_likeliest_by_their_text(lm):
    (found,) = lm.invoke_from_texts(
        TEXTS[:1], require_first_token_logprobs=True
    ).response_first_token_logprobs
    ids = torch.tensor([prompt_ids(TEXTS[0])])
    with torch.no_grad():
        top = lm._model(input_ids=ids).logits[0, -1].log_softmax(dim=-1).topk(20)
    total = math.fsum(math.exp(value) for value in found.values())
    # Tokens that read the same share an entry; none of their probability is lost.
    assert total == pytest.approx(top.values.exp().sum().item(), rel=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert set(found) == {tiny_tokenizer().decode([i]) for i in top.indices.tolist()}


def test_greedy_answers_are_those_of_one_prompt_at_a_time(lm):
    output = lm.invoke_from_texts(TEXTS, require_generation=True, max_new_tokens=6)
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([prompt_ids(text)])
        for _ in output.generated_response_ids[i]:
            with torch.no_grad():
                following = lm._model(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, following[None, None]], dim=1)
        assert output.generated_response_ids[i].tolist() == ids[0, len(prompt_ids(text)) :].tolist()
        whole = output.full_ids[i].tolist()[-ids.shape[1] :]
        assert whole == ids[0].tolist()
        assert output.full_strs[i] == tiny_tokenizer().decode(ids[0])


def test_an_answer_ends_with_the_end_token_and_reads_without_it():
    model = tiny_llama()
    tokenizer = tiny_tokenizer()
    with torch.no_grad():  # make the end likely at once
        model.lm_head.weight[tokenizer.eos_token_id] *= 100
    lm = LMHFModel(model, tokenizer=tokenizer)
    output = lm.invoke_from_texts(TEXTS, require_generation=True, max_new_tokens=10)
    ended = [ids for ids in output.generated_response_ids if tokenizer.eos_token_id in ids.tolist()]
    assert ended
    for ids in ended:
        assert ids.tolist().index(tokenizer.eos_token_id) == len(ids) - 1
    assert all(tokenizer.eos_token not in text for text in output.generated_response_strs)


def test_calling_a_model_answers(lm):
    answers = lm(TEXTS, max_new_tokens=4)
    assert answers == lm(TEXTS, max_new_tokens=4)
    assert all(isinstance(answer, str) for answer in answers)
    conversation = [{"role": "user", "content": TEXTS[0]}]
    assert lm([conversation], max_new_tokens=4) == answers[:1]


def test_sampled_answers_differ(lm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        answers = lm(TEXTS[:1] * 8, max_new_tokens=8, greedy_decode=False)
    assert len(set(answers)) > 1


def test_generated_logits_are_those_that_were_chosen_from(lm):
    output = lm.invoke_from_texts(
        TEXTS, require_generation=True, require_generation_logits=True, max_new_tokens=5
    )
    for ids, logits in zip(
        output.generated_response_ids, output.generated_response_logits, strict=True
    ):
        assert torch.equal(logits.argmax(dim=-1), ids)


def test_nothing_asked_for_gives_the_prompts_and_runs_nothing(lm):
    output = lm.invoke_from_texts(TEXTS)
    assert set(output.to_dict()) == {"full_ids", "full_strs"}
    assert output.full_ids[0].tolist()[-len(prompt_ids(TEXTS[0])) :] == prompt_ids(TEXTS[0])
    assert lm.get_usage_stats()["forward_calls"] == 0


def test_usage_counts_tokens_and_no_padding(lm, target):
    lm.invoke_from_texts(TEXTS, target, require_target_prefill=True)
    n_tokens = sum(len(prompt_ids(text)) + 3 for text in TEXTS)
    assert lm.get_usage_stats()["total_tokens"] == n_tokens
    assert lm.get_usage_stats()["forward_calls"] == 1
    output = lm.invoke_from_texts(TEXTS, require_generation=True, max_new_tokens=3)
    n_new = sum(len(ids) for ids in output.generated_response_ids)
    n_prompts = sum(len(prompt_ids(text)) for text in TEXTS)
    assert lm.get_usage_stats()["total_tokens"] == n_tokens + n_prompts + n_new


def test_prefill_losses_work_in_the_text_flow(lm, made):
    targets = Targets(target_response_strs=["Yes, it is."])
    lm.set_inputs_from_texts([f"Tell me {P} now"], targets)
    losses = lm.compute_loss_from_texts(["! !", "the red house", "x"], made.PrefillCE())
    one = lm.compute_loss_from_texts(["the red house"], made.PrefillCE())
    torch.testing.assert_close(losses[1:2], one, atol=1e-5, rtol=0)
    assert targets.target_response_toks is None


def test_raw_token_calls_append_the_target_and_know_padding(lm, target):
    rows = [prompt_ids(text) for text in TEXTS]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    by_ids = lm.invoke_from_tokens(
        ids, target, require_target_prefill=True, input_attention_mask=mask
    )
    by_text = lm.invoke_from_texts(TEXTS, target, require_target_prefill=True)
    torch.testing.assert_close(
        by_ids.prefill_response_logits, by_text.prefill_response_logits, atol=1e-5, rtol=1e-5
    )
    assert by_ids.full_logits.shape[:2] == (3, longest + 3)
    by_embeds = lm.invoke_from_tokens(
        input_embeds=lm.effective_embedding_matrix[ids],
        input_attention_mask=mask,
        message_targets=target,
        require_target_prefill=True,
        require_full_logits=False,
    )
    torch.testing.assert_close(
        by_embeds.prefill_response_logits, by_text.prefill_response_logits, atol=1e-5, rtol=1e-5
    )
    assert by_embeds.full_logits is None


def test_attentions_and_hidden_states_are_those_of_the_model():
    model = tiny_llama(attn_implementation="eager")
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), use_eager_attention=True)
    ids = torch.tensor([prompt_ids(TEXTS[1])])
    output = lm.invoke_from_tokens(ids, require_attentions=True, require_hidden_states=True)
    with torch.no_grad():
        expected = model(input_ids=ids, output_attentions=True, output_hidden_states=True)
    assert torch.equal(output.full_attentions, torch.stack(expected.attentions, dim=1))
    assert torch.equal(output.full_hidden_states, torch.stack(expected.hidden_states[1:], dim=1))
    assert output.full_attentions.shape[1] == lm.n_layers


def test_trigger_logits_predict_the_trigger(lm, made, candidates):
    lm.set_inputs_from_tokens(made.templates)  # templates of three lengths
    found = lm.compute_logits_from_tokens(
        candidates, keep_message_dim=True, return_trigger_logits_only=True
    )
    after = lm.compute_logits_from_tokens(candidates, return_after_trigger_logits_only=True)
    expected_after = []
    for i in range(3):
        inputs = lm._token_input_manager.get_triggered_inputs(i, candidates)
        with torch.no_grad():
            logits = lm._model(input_ids=inputs.input_ids).logits
        start, stop = inputs.input_slices["trigger"].start, inputs.input_slices["trigger"].stop
        torch.testing.assert_close(found[i], logits[:, start - 1 : stop - 1], atol=1e-5, rtol=1e-5)
        expected_after.append(logits[:, stop - 1 : stop])
    torch.testing.assert_close(after, torch.stack(expected_after).mean(0), atol=1e-5, rtol=1e-5)


def test_all_logits_need_templates_of_one_length(lm, made, candidates):
    lm.set_inputs_from_tokens(made.templates)
    with pytest.raises(ValueError, match="templates differ in length"):
        lm.compute_logits_from_tokens(candidates)
    lm.set_inputs_from_tokens(made.templates[:1])
    assert lm.compute_logits_from_tokens(candidates).shape[0] == len(candidates)

"""A shared prefix changes no result, and is not shared where it would."""

import pytest
import torch

from pellucid.core import CombinedLoss, Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer

TEMPLATE_PREFIX = "The answer is yes! The question is: why? "
SHARED = {
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
}
# Only the cache that it fills shows what the second one keeps.
NOT_SHARED = {
    "qwen3_next": "recurrent state",
    "lfm2": "has a LinearAttentionLayer, not keys and values alone",
    "mamba": "takes no past_key_values",
}


def prepare(model, made, **options):
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), consistency="trigger", **options)
    templates = [TEMPLATE_PREFIX + made.templates[0], made.templates[2]]
    lm.set_inputs_from_tokens(templates, Targets(target_response_strs=made.targets[:2]))
    return lm


@pytest.fixture(scope="module")
def built(architectures):
    """Each architecture, built once."""
    models = {}

    def build(name):
        if name not in models:
            models[name] = architectures[name]()
        return models[name]

    return build


@pytest.fixture
def pair(built, made, request):
    """The same model with and without a shared prefix."""
    model = built(request.param)
    return prepare(model, made), prepare(model, made, use_prefix_cache=False)


on_all = pytest.mark.parametrize("pair", sorted(SHARED | {"qwen3_next", "lfm2"}), indirect=True)
on_llama = pytest.mark.parametrize("pair", ["llama"], indirect=True)


@pytest.fixture
def few():
    """Random triggers of four tokens."""
    return torch.randint(0, 384, (4, 4), generator=torch.Generator().manual_seed(3))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@on_all
def test_losses_and_gradients_are_those_of_whole_inputs(pair, made, few):
    loss = CombinedLoss([made.PrefillCE(), made.TriggerCE(), made.HiddenNorm()], [1.0, 0.5, 0.2])
    # Twice, since the first pass could have changed what is shared.
    for one in (made.PrefillCE(), loss, made.PrefillCE()):
        ours, theirs = (lm.compute_loss_from_tokens(few, one, keep_message_dim=True) for lm in pair)
        close(ours, theirs)
    ours, theirs = (lm.compute_grad_from_tokens(loss, few, keep_message_dim=True) for lm in pair)
    close(ours, theirs)
    ours, theirs = (lm.compute_topk_from_tokens(made.PrefillCE(), few, 5) for lm in pair)
    assert torch.equal(ours.token_ids, theirs.token_ids)
    close(ours.scores, theirs.scores)
    close(*(lm.compute_grad_from_embeds(made.PrefillCE(), lm.embedding_matrix[few]) for lm in pair))


@on_all
def test_logits_are_those_of_whole_inputs(pair, few):
    for flags in ({"return_trigger_logits_only": True}, {"return_after_trigger_logits_only": True}):
        ours, theirs = (
            lm.compute_logits_from_tokens(few, keep_message_dim=True, **flags) for lm in pair
        )
        close(ours, theirs)
    # With one token in the slot, nothing but the prefix predicts the trigger.
    close(
        *(lm.compute_logits_from_tokens(few[:, :1], return_trigger_logits_only=True) for lm in pair)
    )
    ours, theirs = (
        lm.invoke_from_tokens(
            **{
                name: held
                for name, held in lm._token_input_manager.get_triggered_inputs(0, few)
                .to_dict()
                .items()
                if name in ("input_ids", "input_slices", "input_prefix_cache_kwargs")
            },
            require_hidden_states=True,
            require_first_token_logprobs=True,
        )
        for lm in pair
    )
    close(ours.full_logits, theirs.full_logits)
    close(ours.full_hidden_states, theirs.full_hidden_states)
    for one, other in zip(
        ours.response_first_token_logprobs, theirs.response_first_token_logprobs, strict=True
    ):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_the_prefix_is_shared(name, built, made, few):
    lm = prepare(built(name), made)
    assert [report.is_shared for report in lm.prefix_cache_report] == [False, False]
    assert lm.prefix_cache_report[0].reason == "no input has needed it yet"
    seen = positions_seen(lm)
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    inputs = lm._token_input_manager
    n_prefix = [len(ids) for ids in inputs._before_ids]
    assert [report.n_tokens for report in lm.prefix_cache_report] == n_prefix
    assert [report.is_shared for report in lm.prefix_cache_report] == [True, True]
    wholes = [
        inputs.get_triggered_inputs(i, few, do_append_embeds=True).input_ids.shape for i in range(2)
    ]
    assert seen == [
        shape
        for n, (batch, n_pos) in zip(n_prefix, wholes, strict=True)
        for shape in ((1, n), (batch, n_pos - n - 1))  # the target's last token predicts nothing
    ]
    assert lm.get_usage_stats()["total_tokens"] == sum(batch * n for batch, n in seen)
    lm.compute_grad_from_tokens(made.PrefillCE(), few)
    assert seen[4:] == [seen[1], seen[3]]


def positions_seen(lm):
    """Record (batch, pos) of each raw call."""
    seen, forward = [], lm._model.forward

    def record(**arguments):
        given = arguments.get("input_ids")
        seen.append(tuple((arguments["inputs_embeds"] if given is None else given).shape[:2]))
        return forward(**arguments)

    class Recorder:
        """The model, its calls recorded; everything else is its own."""

        def __call__(self, **arguments):
            return record(**arguments)

    lm._forward._model = Recorder()
    return seen


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "gpt_oss"])
def test_windows_are_shorter_than_the_prefix(name, built, made):
    lm = prepare(built(name), made)
    assert lm._model.config.sliding_window < len(lm._token_input_manager._before_ids[0]) // 2


@pytest.mark.parametrize("name", sorted(NOT_SHARED))
def test_recurrent_models_are_given_whole_inputs(name, built, made, few):
    lm = prepare(built(name), made)
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    for report in lm.prefix_cache_report:
        assert not report.is_shared
        assert NOT_SHARED[name] in report.reason


def test_a_cache_of_another_kind_is_not_shared(made, few):
    from transformers import DynamicCache

    class OwnCache(DynamicCache):
        """A cache that no one here knows."""

    model = tiny_llama()
    forward = model.forward

    def give_own_cache(input_ids=None, past_key_values=None, use_cache=None, **arguments):
        result = forward(
            input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, **arguments
        )
        if use_cache:
            result.past_key_values.__class__ = OwnCache
        return result

    expected = prepare(tiny_llama(), made).compute_loss_from_tokens(few, made.PrefillCE())
    lm = prepare(model, made)
    model.forward = give_own_cache
    close(lm.compute_loss_from_tokens(few, made.PrefillCE()), expected)
    assert "is a OwnCache, not a DynamicCache" in lm.prefix_cache_report[0].reason


@on_llama
def test_nothing_shared_is_changed(pair, made, few):
    lm, _ = pair
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    (layer, *_) = lm._token_input_manager.prefixes[0]._run.result.past_key_values.layers
    keys, held = layer.keys, layer.keys.clone()
    assert layer.keys.shape[0] == 1
    lm.compute_grad_from_tokens(made.PrefillCE(), few)
    lm.compute_loss_from_tokens(few, made.AnswerLength())
    lm.compute_loss_from_tokens(few[:2], made.HiddenNorm())
    (layer, *_) = lm._token_input_manager.prefixes[0]._run.result.past_key_values.layers
    assert torch.equal(layer.keys, held)
    assert torch.equal(keys, held)


def test_candidates_get_views_and_only_one_layer_is_held_at_a_time(made, few):
    from pellucid.hf._prefix_views import view_cache

    lm = prepare(tiny_llama(), made)
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    cache = lm._token_input_manager.prefixes[0]._run.result.past_key_values
    view = view_cache(cache, 64)
    for layer, original in zip(view.layers, cache.layers, strict=True):
        assert layer.keys.shape[0] == 64
        assert layer.keys.data_ptr() == original.keys.data_ptr()
        assert layer.values.data_ptr() == original.values.data_ptr()
    n = cache.get_seq_length()
    new = torch.zeros((64, *cache.layers[0].keys.shape[1:]))
    keys, _ = view.update(new, new, 0)
    assert keys.shape[-2] == 2 * n
    assert view.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr()


@on_llama
def test_answers_do_not_depend_on_it(pair, made, few):
    ours, theirs = (
        lm.invoke_from_tokens(
            input_ids=filled.input_ids,
            input_slices=filled.input_slices,
            input_prefix_cache_kwargs=filled.input_prefix_cache_kwargs,
            require_generation=True,
            max_new_tokens=5,
        )
        for lm in pair
        for filled in [lm._token_input_manager.get_triggered_inputs(0, few)]
    )
    assert ours.generated_response_strs == theirs.generated_response_strs


def test_new_weights_make_a_new_prefix(made, few):
    model = tiny_llama()
    lm = prepare(model, made)
    before = lm.compute_loss_from_tokens(few, made.PrefillCE())
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = lm.compute_loss_from_tokens(few, made.PrefillCE())
    fresh = prepare(model, made, use_prefix_cache=False)
    close(after, fresh.compute_loss_from_tokens(few, made.PrefillCE()))
    assert not torch.allclose(after, before, atol=1e-3)


def test_gradients_of_weights_flow_through_the_prefix(made, few):
    grads = []
    for use_prefix_cache in (True, False):
        lm = prepare(tiny_llama(), made, use_prefix_cache=use_prefix_cache, set_model_to_train=True)
        lm.compute_loss_from_tokens(few, made.PrefillCE())
        with torch.enable_grad():
            filled = lm._token_input_manager.get_triggered_inputs(0, few)
            output = lm.invoke_from_tokens(
                filled.input_ids, input_prefix_cache_kwargs=filled.input_prefix_cache_kwargs
            )
            weight = lm._model.model.layers[0].self_attn.k_proj.weight
            grads.append(torch.autograd.grad(output.full_logits[:, -1].sum(), weight)[0])
    close(*grads)


def test_hooks_see_whole_inputs(made, few):
    lm = prepare(tiny_llama(), made)
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    seen = []
    layer = lm._model.model.layers[0]
    handle = layer.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    handle.remove()
    inputs = lm._token_input_manager
    assert seen == [
        inputs.get_triggered_inputs(i, few, do_append_embeds=True).input_ids.shape[1]
        for i in range(2)
    ]
    assert "hooks may read" in lm.prefix_cache_report[0].reason
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    assert lm.prefix_cache_report[0].is_shared


def test_attention_patterns_are_those_of_whole_inputs(made, few):
    model = tiny_llama(attn_implementation="eager")
    outputs = []
    for use_prefix_cache in (True, False):
        lm = prepare(model, made, use_prefix_cache=use_prefix_cache, use_eager_attention=True)
        filled = lm._token_input_manager.get_triggered_inputs(0, few)
        outputs.append(
            lm.invoke_from_tokens(
                filled.input_ids,
                input_prefix_cache_kwargs=filled.input_prefix_cache_kwargs,
                require_attentions=True,
            ).full_attentions
        )
    close(*outputs)
    assert outputs[0].shape[-1] == outputs[0].shape[-2]


def test_a_template_that_begins_with_the_trigger_has_nothing_to_share(made, few):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    lm = LMHFModel(tiny_llama(), tokenizer=tokenizer)
    lm.set_inputs_from_tokens([made.templates[1]], Targets(target_response_strs=["Yes"]))
    if lm.prefix_cache_report[0].n_tokens:
        pytest.fail("the tokenizer puts a token before every text, so this tests nothing")
    lm.compute_loss_from_tokens(few, made.PrefillCE())
    assert lm.prefix_cache_report[0].reason == "nothing stands before the trigger"


def test_a_cache_of_the_caller_is_refused(made, few):
    lm = prepare(tiny_llama(), made)
    with pytest.raises(ValueError, match=r"holds \['past_key_values'\], expected the prefix"):
        lm.invoke_from_tokens(few, input_prefix_cache_kwargs={"past_key_values": None})


@pytest.mark.parametrize("kind", ["QuantizedCache", "StaticCache"])
def test_other_caches_of_transformers_get_whole_inputs_and_a_reason(kind, made, few):
    import transformers

    cache_class = getattr(transformers, kind)

    def give(result):
        # What such a cache holds does not matter: it is not looked into.
        result.past_key_values = cache_class.__new__(cache_class)
        return result

    lm, expected = prepare(tiny_llama(), made), prepare(tiny_llama(), made, use_prefix_cache=False)
    forward = lm._model.forward

    def wrapped(input_ids=None, past_key_values=None, use_cache=None, **arguments):
        result = forward(
            input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, **arguments
        )
        return give(result) if use_cache else result

    lm._model.forward = wrapped
    close(
        lm.compute_loss_from_tokens(few, made.PrefillCE()),
        expected.compute_loss_from_tokens(few, made.PrefillCE()),
    )
    assert f"is a {kind}, not a DynamicCache" in lm.prefix_cache_report[0].reason

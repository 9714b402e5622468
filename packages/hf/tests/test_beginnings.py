"""Candidates that begin alike share what they have in common, and their losses stay their own."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import CombinedLoss, Targets
from pellucid.hf import LMHFModel, _beginnings
from pellucid.hf._beginnings import arrange
from pellucid.testing import tiny_llama, tiny_tokenizer

PREFIX = "The answer is yes! The question is: why? "
N_TRIGGER = 7
SHARED = (
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
)


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
def always(monkeypatch):
    """Share however little there is to gain."""
    monkeypatch.setattr(_beginnings, "_WORTH", 0)


def prepare(model, made, templates=None, **options):
    lm = LMHFModel(model, tokenizer=tiny_tokenizer(), consistency="none", **options)
    templates = templates or [PREFIX + made.templates[0], made.templates[2]]
    lm.set_inputs_from_tokens(
        templates, Targets(target_response_strs=made.targets[: len(templates)])
    )
    return lm


def flipped(n=12, seed=0):
    """One trigger with one token changed at a time, the positions mixed, some rows twice."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 384, (1, N_TRIGGER), generator=draw).repeat(n, 1)
    at = torch.randint(0, N_TRIGGER, (n,), generator=draw)
    rows[torch.arange(n), at] = torch.randint(0, 384, (n,), generator=draw)
    return torch.cat([rows, rows[:2]])[torch.randperm(n + 2, generator=draw)]


def shapes_seen(lm):
    """Record (batch, pos) of each raw call."""
    seen, call = [], lm._forward

    def record(given, mask, **options):
        seen.append(tuple(given.shape[:2]))
        return call(given, mask, **options)

    lm._forward = record
    return seen


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SHARED)
def test_losses_are_those_of_whole_inputs(name, built, made, always):
    lm = prepare(built(name), made, forward_pass_batch_size=3)
    whole = prepare(built(name), made, use_prefix_cache=False)
    ids = flipped()
    inside = CombinedLoss([made.PrefillCE(), made.TriggerCE(), made.HiddenNorm()], [1.0, 0.5, 0.2])
    for loss in (made.PrefillCE(), inside, made.PrefillCE()):
        ours, theirs = (
            model.compute_loss_from_tokens(ids, loss, keep_message_dim=True)
            for model in (lm, whole)
        )
        close(ours, theirs)


def test_batches_begin_where_the_first_of_their_rows_departs(made, always):
    lm = prepare(tiny_llama(), made, templates=[PREFIX + made.templates[0]])
    lm._forward_pass_batch_size = 2
    base = torch.arange(10, 10 + N_TRIGGER)
    ids = base.repeat(N_TRIGGER - 1, 1)
    for i in range(1, N_TRIGGER):
        ids[i - 1, i] = 5
    lm.compute_loss_from_tokens(base[None], made.PrefillCE())
    seen = shapes_seen(lm)
    lm.reset_usage_stats()
    lm.compute_loss_from_tokens(ids.flip(0), made.PrefillCE())
    inputs = lm._token_input_manager.get_triggered_inputs(0, ids, do_append_embeds=True)
    n_rest = inputs.input_ids.shape[1] - inputs.input_slices["trigger"].start - 1
    assert seen == [(1, N_TRIGGER), *((2, n_rest - i) for i in (5, 3, 1))]
    stats = lm.get_usage_stats()
    assert stats["total_tokens"] == sum(n * length for n, length in seen)
    assert stats["forward_samples"] == len(ids)


def test_equal_candidates_are_computed_once(made):
    lm = prepare(tiny_llama(), made)
    ids = torch.randint(0, 384, (3, N_TRIGGER))[[2, 0, 0, 1, 2]]
    lm.reset_usage_stats()
    losses = lm.compute_loss_from_tokens(ids, made.PrefillCE())
    assert lm.get_usage_stats()["forward_samples"] == 2 * 3
    assert losses[1] == losses[2]
    assert losses[0] == losses[4]
    assert len(losses.unique()) == 3


def test_a_common_row_that_does_not_pay_is_not_run(made):
    lm = prepare(tiny_llama(), made, templates=[PREFIX + made.templates[0]])
    lm.compute_loss_from_tokens(flipped(2), made.PrefillCE())
    seen = shapes_seen(lm)
    lm.compute_loss_from_tokens(flipped(4), made.PrefillCE())
    lm.compute_loss_from_tokens(torch.randint(0, 384, (40, N_TRIGGER)), made.PrefillCE())
    assert all(batch > 1 for batch, _ in seen)


def test_logits_of_what_is_shared_can_be_read(made, always):
    from pellucid.core import BaseLoss

    class LastLogit(BaseLoss):
        """Reads a single row, that of the token before the target."""

        require_first_token_logprobs = True

        def __call__(self, response_first_token_logprobs):
            return torch.tensor([max(row.values()) for row in response_first_token_logprobs])

    # Nothing follows the trigger, so that its own last tokens predict the answer.
    lm, whole = (
        prepare(tiny_llama(), made, templates=["Why?\n" + made.templates[0].split(" now")[0]], **o)
        for o in ({"forward_pass_batch_size": 2}, {"use_prefix_cache": False})
    )
    ids = flipped()
    for loss in (LastLogit(), made.TriggerCE(), made.AnswerLength()):
        close(lm.compute_loss_from_tokens(ids, loss), whole.compute_loss_from_tokens(ids, loss))


def test_hooks_and_training_get_whole_inputs(made, always):
    model = tiny_llama()
    lm = prepare(model, made, forward_pass_batch_size=3)
    handle = model.model.layers[0].register_forward_hook(lambda *_: None)
    seen = shapes_seen(lm)
    lm.compute_loss_from_tokens(flipped(), made.PrefillCE())
    handle.remove()
    n_pos = [
        lm._token_input_manager.get_triggered_inputs(
            i, flipped(), do_append_embeds=True
        ).input_ids.shape[1]
        for i in range(2)
    ]
    assert {length for _, length in seen} == set(n_pos)
    trained = prepare(tiny_llama(), made, set_model_to_train=True)
    seen = shapes_seen(trained)
    trained.compute_loss_from_tokens(flipped(), made.PrefillCE())
    assert seen == [(14, n) for n in n_pos]


RAGGED = st.integers(2, 24).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(3, 6), min_size=4, max_size=4), min_size=n, max_size=n),
        st.permutations(range(n)),
        st.integers(1, n),
    )
)


@pytest.fixture(scope="module")
def windowed(architectures):
    """A model whose window is shorter than the prefix."""
    return architectures["mistral"]()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=RAGGED)
def test_order_and_company_change_nothing(windowed, made, always, case):
    rows, order, size = case
    ids, order, loss = torch.tensor(rows), list(order), made.PrefillCE()
    template = [PREFIX + made.templates[0]]
    lm = prepare(windowed, made, template, forward_pass_batch_size=size)
    whole = prepare(windowed, made, template, use_prefix_cache=False)
    expected = whole.compute_loss_from_tokens(ids, loss)
    close(lm.compute_loss_from_tokens(ids, loss), expected)
    close(lm.compute_loss_from_tokens(ids[order], loss), expected[order])


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=30))
def test_an_arrangement_is_of_all_candidates_and_tells_what_they_share(rows):
    ids = torch.tensor(rows)
    arranged = arrange(ids)
    assert torch.equal(arranged.ids[arranged.sources], ids)
    assert len(arranged.ids) == len({tuple(row) for row in rows})
    assert list(arranged.n_common) == sorted(arranged.n_common, reverse=True)
    for row, n in zip(arranged.ids, arranged.n_common, strict=True):
        assert torch.equal(row[:n], arranged.base[:n])
        assert n == 4 or row[n] != arranged.base[n]

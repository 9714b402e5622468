"""Candidates that begin alike share what they have in common, and their losses stay their own."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.core import CombinedLoss, Targets
from pellucid.hf import LMHFModel, _beginnings
from pellucid.hf._beginnings import CommonRow, arrange, line_up
from pellucid.hf._prefix import SharedPrefix
from pellucid.testing import tiny_llama, tiny_tokenizer

PREFIX = "The answer is yes! The question is: why? "
N_TRIGGER = 7
P1, P2 = (f"{{{{OPTIMIZED_TRIGGER_{number}}}}}" for number in (1, 2))
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
    assert seen == [(1, N_TRIGGER - 1), *((2, n_rest - i) for i in (5, 3, 1))]
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
    assert torch.equal(arranged.agrees, arranged.ids == arranged.base)
    n_common = arranged.agrees.cumprod(dim=1).sum(dim=1).tolist()
    assert n_common == sorted(n_common, reverse=True)


@pytest.fixture(scope="module")
def tiny():
    """A model that is looked at, and not run."""
    return tiny_llama()


SLOTS = st.permutations([0, 1, 2]).flatmap(
    lambda parts: st.lists(st.sampled_from(parts), min_size=1, max_size=5)
)


@settings(max_examples=40)
@given(
    rows=st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=12),
    parts=SLOTS,
    n_fixed=st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_a_line_shares_what_assembled_rows_have_in_common(tiny, rows, parts, n_fixed):
    from pellucid.core import columns_of, place_slots

    columns = columns_of([2, 1, 2])
    slots = place_slots(n_fixed, [columns[part] for part in parts])
    arranged = arrange(torch.tensor(rows))
    ends, never = [], (tiny, print)

    def assemble(row):
        whole = torch.full((slots[-1].positions.stop,), -1)
        for slot in slots:
            whole[slot.positions] = row[slot.columns]
        return whole

    def make(n_tokens):
        ends.append(n_tokens)
        prefix = SharedPrefix(assemble(arranged.base)[: n_fixed[0]], *never, count_tokens=print)
        return CommonRow(prefix, assemble(arranged.base)[:n_tokens], print, count_tokens=print)

    line = line_up(arranged, slots, make)
    assert torch.equal(line.ids[line.places], arranged.ids)
    base = assemble(arranged.base)
    for i in range(len(line.ids)):
        for stop in range(i + 1, len(line.ids) + 1):
            lent = line.lend(slice(i, stop))
            if lent:
                n = lent["input_prefix_cache_kwargs"]["prefix"].n_tokens
                assert n_fixed[0] < n <= ends[0]
                for other in line.ids[i:stop]:
                    assert torch.equal(assemble(other)[:n], base[:n])


PARTS = [f"{P2} or\n{P1} and\n{P2}", f"Why?\n{P1}\nthen\n{P2}", f"So\n{P2}\n!"]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "nothing before"])
def test_parts_and_templates_that_begin_with_the_trigger_share_as_well(
    name, chat, built, made, always
):
    tokenizer = tiny_tokenizer()
    if not chat:
        tokenizer.chat_template = None
    ours, whole = (
        LMHFModel(
            built(name),
            tokenizer=tokenizer,
            consistency="none",
            forward_pass_batch_size=3,
            use_prefix_cache=on,
        )
        for on in (True, False)
    )
    ids = flipped(16, seed=5)
    for lm in (ours, whole):
        lm.set_inputs_from_tokens(PARTS, Targets(target_response_strs=made.targets))
        lm.arrange_parts([3, 4])
        lm.reset_usage_stats()
    for loss in (made.PrefillCE(), made.HiddenNorm()):
        close(
            *(lm.compute_loss_from_tokens(ids, loss, keep_message_dim=True) for lm in (ours, whole))
        )
    n_before = ours.prefix_cache_report[0].n_tokens
    assert bool(n_before) == chat
    for lm in (ours, whole):
        lm.reset_usage_stats()
        lm.compute_loss_from_tokens(ids, made.PrefillCE())
    ours, whole = (lm.get_usage_stats()["total_tokens"] for lm in (ours, whole))
    assert ours < 0.8 * whole


def test_a_trigger_with_nothing_before_it_is_shared_from_its_second_token_on(made, always):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    lm = LMHFModel(tiny_llama(), tokenizer=tokenizer, forward_pass_batch_size=2)
    lm.set_inputs_from_tokens([made.templates[1]], Targets(target_response_strs=["Yes"]))
    base = torch.arange(10, 10 + N_TRIGGER)
    ids = base.repeat(2, 1)
    ids[0, -1], ids[1, -2] = 5, 5
    seen = shapes_seen(lm)
    lm.compute_loss_from_tokens(ids, made.PrefillCE())
    n_pos = lm._token_input_manager.get_triggered_inputs(
        0, ids, do_append_embeds=True
    ).input_ids.shape[1]
    # The first token was run before, as a prefix.
    assert seen == [(1, N_TRIGGER - 2), (2, n_pos - (N_TRIGGER - 2) - 1)]

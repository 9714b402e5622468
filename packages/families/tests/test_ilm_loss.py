import itertools
import math

import pytest
import torch
from family_tools import BOS, CLS, EOS, MASK, SEP, UNK
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from pellucid.core import ArgumentError, RequirementError, UnknownNameError
from pellucid.families.ilm import (
    DefaultILMCollator,
    ILMLossWithMaskedCE,
    ILMSeq2SeqCollator,
    RotaryTransformerILMModel,
    RotaryTransformerILMModelWithLengthClassification,
    RotaryTransformerILMModelWithStoppingClassification,
)
from pellucid.families.ilm._insertion import mean_insertion_nats
from pellucid.xlm.datamodule import SimpleSpaceTokenizer


def stirred(model):
    """Return a model whose heads say something, as after training."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


@pytest.fixture
def model(make_model):
    return stirred(make_model(RotaryTransformerILMModelWithStoppingClassification))


@pytest.fixture
def counting_model(make_model):
    return stirred(make_model(RotaryTransformerILMModelWithLengthClassification, num_classes=4))


@pytest.fixture
def batch(tokenizer, pairs):
    class DropSome(ILMSeq2SeqCollator):
        def choose_drops(self, is_token):
            return is_token & (torch.arange(5) != torch.tensor([0, 1, 5, 9, 0])[:, None])

    doubled = {"prompt_ids": [9, 8], "input_ids": [7, 7, 7, 8, 7]}
    examples = [*pairs, doubled, {"prompt_ids": [7], "input_ids": []}]
    return DropSome(tokenizer, 5, input_block_size=6)(examples)


def dense_nats(logits, batch):
    """Compute what the loss does of tokens with counts of all slots and tokens."""
    n_rows, width, d_vocab = logits.shape
    counts = torch.zeros(n_rows, width, d_vocab, dtype=logits.dtype)
    for row, (ids, slots) in enumerate(
        zip(batch["target_ids"], batch["target_slots"], strict=True)
    ):
        for token, slot in zip(ids.tolist(), slots.tolist(), strict=True):
            if slot != -100:
                counts[row, slot, token] += 1
    is_slot = batch["token_type_ids"] == 2
    allowed = logits.masked_fill(~is_slot[..., None], -torch.inf).flatten(1)
    log_probs = allowed.log_softmax(dim=1).view_as(logits)
    total = counts.sum((1, 2)).clamp(min=1)
    return -(counts * log_probs.where(counts > 0, 0)).sum((1, 2)) / total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tokens_cost_what_a_dense_softmax_says_and_so_do_gradients(model, batch, dtype):
    model.to(dtype)
    given = (batch["input_ids"], batch["attention_mask"])
    slots = batch["token_type_ids"] == 2
    naive = dense_nats(model(*given)[0], batch)
    asked = (slots, batch["target_ids"], batch["target_slots"])
    lean = mean_insertion_nats(model(*given, where=slots)[0], *asked)
    assert lean.dtype == dtype
    torch.testing.assert_close(lean, naive)
    weights = torch.rand(len(naive), dtype=dtype)
    expected = torch.autograd.grad(
        (naive * weights).sum(), list(model.parameters()), allow_unused=True
    )
    found = torch.autograd.grad((lean * weights).sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_half_precision_is_summed_in_single():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 50, generator=generator).bfloat16()
    slots = torch.ones(2, 3, dtype=torch.bool)
    asked = (torch.tensor([[4, 5], [6, 7]]), torch.tensor([[0, 2], [1, -100]]))
    found = logits.clone().requires_grad_()
    nats = mean_insertion_nats(found * 1, slots, *asked)
    assert nats.dtype == torch.float32
    exact = logits.float().requires_grad_()
    expected = mean_insertion_nats(exact * 1, slots, *asked)
    torch.testing.assert_close(nats, expected)
    nats.sum().backward()
    expected.sum().backward()
    assert found.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.grad.float(), exact.grad, atol=2e-3, rtol=1e-2)


def test_a_second_backward_pass_raises():
    logits = torch.zeros(2, 5, requires_grad=True)
    asked = (torch.tensor([[1]]), torch.tensor([[0]]))
    nats = mean_insertion_nats(logits * 1, torch.ones(1, 2, dtype=torch.bool), *asked).sum()
    nats.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nats.backward()


def peak_of(work):
    """Return the most bytes that were allocated at once during some work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as held:
        work()
    events = [
        event for event in held.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_takes_little_beside_the_logits(dtype):
    n_rows, width, d_vocab, n_dropped = 4, 256, 16_384, 100
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_rows * width, 8, generator=generator, dtype=dtype, requires_grad=True)
    matrix = torch.randn(d_vocab, 8, generator=generator, dtype=dtype, requires_grad=True)
    slots = torch.ones(n_rows, width, dtype=torch.bool)
    tokens = torch.randint(d_vocab, (n_rows, n_dropped), generator=generator)
    places = torch.randint(width, (n_rows, n_dropped), generator=generator)

    def lean():
        mean_insertion_nats(hidden @ matrix.T, slots, tokens, places).mean().backward()

    def dense():
        # Without counts, which would be as large again.
        flat = (hidden @ matrix.T).view(n_rows, -1).log_softmax(1)
        (-flat.gather(1, places * d_vocab + tokens).mean()).backward()

    size = n_rows * width * d_vocab * dtype.itemsize
    assert peak_of(lean) < 1.2 * size
    assert peak_of(dense) > 1.9 * size


def test_the_loss_is_made_of_tokens_and_of_whether_any_are_missing(model, tokenizer, batch):
    logits, stops = model(batch["input_ids"], batch["attention_mask"])
    tokens = dense_nats(logits, batch)
    n_drops = (batch["target_slots"] != -100).sum(1)
    decided = functional.cross_entropy(stops, (n_drops > 0).long(), reduction="none")
    found = ILMLossWithMaskedCE(model, tokenizer)(batch)
    torch.testing.assert_close(found["loss"], (tokens + decided).mean())
    torch.testing.assert_close(found["per_example_ce"], tokens)
    torch.testing.assert_close(found["per_example_length_loss"], decided)
    torch.testing.assert_close(found["length_logits"], stops)
    assert torch.equal(found["n_drops"], n_drops)
    weighted = ILMLossWithMaskedCE(
        model, tokenizer, length_loss_weight=3.0, stopping_class_weight=0.9
    )(batch)
    share = torch.where(n_drops == 0, 0.9, 0.1)
    torch.testing.assert_close(weighted["loss"], (tokens + 3 * share * decided).mean())


def test_numbers_of_missing_tokens_are_learnt_up_to_the_last_class(
    counting_model, tokenizer, batch
):
    logits = counting_model(batch["input_ids"], batch["attention_mask"])[1]
    n_drops = (batch["target_slots"] != -100).sum(1)
    assert n_drops.tolist() == [1, 1, 3, 5, 0]
    found = ILMLossWithMaskedCE(counting_model, tokenizer, "ce")(batch)
    expected = functional.cross_entropy(logits, n_drops.clamp(max=3), reduction="none")
    torch.testing.assert_close(found["per_example_length_loss"], expected)
    # Asked whether any are missing, the network answers with the sum of all numbers but none.
    found = ILMLossWithMaskedCE(counting_model, tokenizer, "binary_ce")(batch)
    none = logits.log_softmax(1)[:, 0]
    expected = -torch.where(n_drops > 0, (1 - none.exp()).log(), none)
    torch.testing.assert_close(found["per_example_length_loss"], expected)


@pytest.mark.parametrize("suffix", [[], [7, 8]])
def test_with_nothing_dropped_there_is_a_loss_and_a_gradient(model, tokenizer, suffix):
    class DropNothing(ILMSeq2SeqCollator):
        def choose_drops(self, is_token):
            return torch.zeros_like(is_token)

    collator = DropNothing(tokenizer, 3, input_block_size=4, truncate="max")
    found = ILMLossWithMaskedCE(model, tokenizer)(
        collator([{"prompt_ids": [9], "input_ids": suffix}] * 2)
    )
    assert (found["per_example_ce"] == 0).all()
    found["loss"].backward()
    assert all(
        bool(weight.grad.isfinite().all())
        for weight in model.parameters()
        if weight.grad is not None
    )
    assert bool(model.length_head.classify.weight.grad.any())


def test_a_network_without_a_head_is_asked_for_tokens_alone(make_model, tokenizer, batch):
    model = make_model(RotaryTransformerILMModel)
    found = ILMLossWithMaskedCE(model, tokenizer)(batch)
    assert found["length_logits"] is None
    torch.testing.assert_close(found["loss"], found["per_example_ce"].mean())
    with pytest.raises(RequirementError, match="does not say when a text is complete"):
        ILMLossWithMaskedCE(model, tokenizer).nll_bound(batch)


def test_where_nothing_may_be_inserted_there_is_no_slot(model, tokenizer):
    batch = DefaultILMCollator(tokenizer, 6)([{"input_ids": [7, 8, 9]}])
    batch["constraint"] = torch.zeros_like(batch["attention_mask"])
    loss = ILMLossWithMaskedCE(model, tokenizer)
    free = loss({name: held for name, held in batch.items() if name != "constraint"})
    torch.testing.assert_close(loss(batch)["loss"], free["loss"])
    with pytest.raises(ArgumentError, match="'constraint' has no likelihood"):
        loss.nll_bound(batch)


# The likelihood by brute force: all ways in which a text can come about.

TINY = SimpleSpaceTokenizer.for_numbers(3)
ALLOWED = [MASK, EOS, SEP, UNK, 7, 8, 9]
PROMPT = [CLS, 9, BOS]


@pytest.fixture(scope="module")
def tiny_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = RotaryTransformerILMModelWithStoppingClassification
        model = kind(len(TINY), 16, 2, 2, dropout=0.0, max_length=32, mix_neighbours=True)
    return stirred(model).double().eval()


@torch.no_grad()
def look_at(model, text):
    """Return the probability to stop, and those of each slot and token."""
    logits, stops = model(torch.tensor([[*PROMPT, *text]]))
    scores = torch.full_like(logits[0, 2:], -torch.inf)
    scores[:, ALLOWED] = logits[0, 2:, ALLOWED]
    return float(stops.softmax(1)[0, 0]), scores.flatten().softmax(0).view_as(scores)


def costs_of_orders(model, text):
    """Return the nats of a text for each order in which its tokens can come."""
    costs = []
    for order in itertools.permutations(range(len(text))):
        nats, held = 0.0, []
        for place in order:
            stop, probs = look_at(model, [text[at] for at in held])
            slot = sum(at < place for at in held)
            nats -= math.log1p(-stop) + math.log(probs[slot, text[place]])
            held = sorted([*held, place])
        costs.append(nats - math.log(look_at(model, text)[0]))
    return torch.tensor(costs, dtype=torch.float64)


def likelihood(model, text, state=()):
    """Return the probability to get from a state to a text, whatever the order."""
    stop, probs = look_at(model, list(state))
    if len(state) == len(text):
        return stop if list(state) == list(text) else 0.0
    return (1 - stop) * sum(
        float(probs[slot, token]) * likelihood(model, text, (*state[:slot], token, *state[slot:]))
        for slot in range(len(state) + 1)
        for token in set(text)
    )


N_ROWS = 10_000
TEXTS = [[], [7], [8, 7], [7, 7], [7, 8, 9], [8, 8, 7]]


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_orders_and_insertions_are_the_same_thing(tiny_model, text):
    """The sum over orders is the probability of the text, repeated tokens or not."""
    total = torch.logsumexp(-costs_of_orders(tiny_model, text), 0).exp()
    assert float(total) == pytest.approx(likelihood(tiny_model, text), rel=1e-9)


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_the_bound_is_the_mean_over_orders(tiny_model, text):
    loss = ILMLossWithMaskedCE(tiny_model, TINY, n_bound_samples=max(1, len(text)))
    collator = ILMSeq2SeqCollator(TINY, 4, input_block_size=3)
    batch = collator([{"prompt_ids": [9], "input_ids": text}] * N_ROWS)
    state = torch.get_rng_state()
    bound = loss.nll_bound(batch)
    assert torch.equal(torch.get_rng_state(), state)
    costs = costs_of_orders(tiny_model, text)
    expected = float(costs.mean()) - math.lgamma(len(text) + 1)
    error = max(5 * float(bound.nats.std()) / math.sqrt(N_ROWS), 1e-4)
    assert abs(float(bound.nats.mean()) - expected) < error
    assert error < 0.12
    assert expected >= -math.log(likelihood(tiny_model, text)) - 1e-9
    assert bound.tokens.tolist() == [len(text)] * N_ROWS


def test_the_bound_does_not_depend_on_what_was_dropped(model, tokenizer, pairs):
    loss = ILMLossWithMaskedCE(model, tokenizer)
    collator = ILMSeq2SeqCollator(tokenizer, 5, input_block_size=8, truncate="max")
    bounds = []
    for seed in (0, 1):
        collator.generator = torch.Generator().manual_seed(seed)
        bounds.append(loss.nll_bound(collator(pairs)))
    torch.testing.assert_close(bounds[0].nats, bounds[1].nats)
    loss.generator = torch.Generator().manual_seed(1)
    assert not torch.equal(loss.nll_bound(collator(pairs)).nats, bounds[0].nats)


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="binary_ce"):
        ILMLossWithMaskedCE(length_loss="binary")
    with pytest.raises(ArgumentError, match=r"length_loss_weight is -1\.0"):
        ILMLossWithMaskedCE(length_loss_weight=-1.0)
    with pytest.raises(ArgumentError, match="is for length_loss='binary_ce'"):
        ILMLossWithMaskedCE(length_loss="ce", stopping_class_weight=0.5)
    with pytest.raises(ArgumentError, match=r"stopping_class_weight is 1\.0"):
        ILMLossWithMaskedCE(stopping_class_weight=1.0)
    with pytest.raises(ArgumentError, match="n_bound_samples is 0"):
        ILMLossWithMaskedCE(n_bound_samples=0)
    with pytest.raises(ArgumentError, match="num_classes is 1"):
        RotaryTransformerILMModelWithLengthClassification(9, 16, 1, 2, num_classes=1)

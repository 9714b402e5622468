import itertools
import math

import numpy as np
import pytest
import torch
from family_tools import BOS, EOS, MASK, PAD

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mdlm import (
    DefaultMDLMCollator,
    MDLMLoss,
    MDLMModel,
    MDLMSeq2SeqTrainCollator,
    subs_log_probs,
)
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.noise import ContinuousTimeCosine, ContinuousTimeLogLinear


def shaken(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(word in name for word in ("norm", "bias", "modulations", "final_layer")):
                weight.add_(0.3 * torch.randn_like(weight))
        # Waves so long that a few nodes are enough to integrate over the time.
        model.timestep.rates.mul_(0.003)
    return model


@pytest.fixture
def model(make_model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(make_model(MDLMModel, d_cond=8, mask_idx=MASK))


@pytest.fixture
def loss(model, tokenizer):
    return MDLMLoss(model=model, tokenizer=tokenizer)


@pytest.fixture(params=["number", "each"])
def batch(request, tokenizer, pairs):
    collator = MDLMSeq2SeqTrainCollator(
        tokenizer, 5, ContinuousTimeLogLinear(), input_block_size=6, noising=request.param
    )
    collator.generator = torch.Generator().manual_seed(3)
    return collator(pairs)


def naive_nats(model, batch):
    """Return the cross-entropy of every position that could be masked, without the mask's logit."""
    logits = model(batch["input_ids"], batch["total_noise"], batch["attention_mask"]).clone()
    targets = batch["target_ids"].clamp(min=0)
    logits[..., MASK] = -torch.inf
    return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


def test_the_loss_weighs_masks_and_divides_by_all_that_could_be_masked(loss, batch):
    nats, total = naive_nats(loss.model, batch), 0.0
    is_masked, is_eligible = batch["input_ids"] == MASK, batch["target_ids"] != -100
    for row, at in is_masked.nonzero().tolist():
        total = total + batch["weight"][row] * nats[row, at]
    out = loss(batch)
    torch.testing.assert_close(out["loss"], total / is_eligible.sum())
    assert torch.equal(out["tokens"], is_eligible.sum(dim=1))


def test_masks_can_count_the_same(model, tokenizer, batch):
    loss = MDLMLoss(model=model, tokenizer=tokenizer, weighting="even")
    is_masked = batch["input_ids"] == MASK
    torch.testing.assert_close(loss(batch)["loss"], naive_nats(model, batch)[is_masked].mean())
    assert torch.equal(loss(batch)["tokens"], is_masked.sum(dim=1))


def test_more_or_less_can_be_asked_about(model, tokenizer, batch):
    nats, is_eligible = naive_nats(model, batch), batch["target_ids"] != -100
    visible = MDLMLoss(True, True, model, tokenizer=tokenizer, weighting="even")
    torch.testing.assert_close(visible(batch)["loss"], nats[is_eligible].mean())
    bare = MDLMLoss(False, False, model, tokenizer=tokenizer, weighting="even")
    is_asked = (batch["input_ids"] == MASK) & (batch["target_ids"] != PAD)
    torch.testing.assert_close(bare(batch)["loss"], nats[is_asked].mean())


@pytest.mark.parametrize("weighting", ["bound", "even"])
def test_a_batch_about_which_nothing_is_asked_has_no_loss(model, tokenizer, batch, weighting):
    loss = MDLMLoss(model=model, tokenizer=tokenizer, weighting=weighting)
    out = loss({**batch, "target_ids": torch.full_like(batch["target_ids"], -100)})
    assert out["loss"] == 0
    out["loss"].backward()


def test_a_new_network_pays_the_logarithm_of_its_vocabulary(tokenizer, texts):
    """All tokens but the mask, which is none of a clean text."""
    model = MDLMModel(len(tokenizer), 16, 2, 2, d_cond=8)
    loss = MDLMLoss(model=model, tokenizer=tokenizer)
    expected = math.log(len(tokenizer) - 1)
    collator = DefaultMDLMCollator(tokenizer, 9)
    batch = collator(texts)
    # Drawn by their number, the weighted masks of each row always count as all of its tokens.
    assert loss(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    bound = loss.nll_bound(batch)
    torch.testing.assert_close(bound.nats, torch.full((3,), 8 * expected))


def test_the_answer_is_a_substitution(model, batch):
    ids, noise = batch["input_ids"], batch["total_noise"]
    log_probs = model.log_probs(ids, noise, batch["attention_mask"])
    probs = log_probs.exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(ids.shape))
    assert (probs[..., MASK] == 0).all()
    visible = ids != MASK
    assert (probs.gather(-1, ids[..., None])[..., 0][visible] == 1).all()
    logits = model(ids, noise, batch["attention_mask"])
    raised = logits.clone()
    raised[..., MASK] += 100
    torch.testing.assert_close(subs_log_probs(raised, ids, MASK), log_probs)


def test_the_mask_s_logit_costs_nothing(model, tokenizer, batch):
    def biased(*args, **settings):
        logits = model(*args, **settings)
        return logits + 50 * torch.nn.functional.one_hot(torch.tensor(MASK), logits.shape[-1])

    plain, other = (MDLMLoss(model=one, tokenizer=tokenizer) for one in (model, biased))
    torch.testing.assert_close(plain(batch)["loss"], other(batch)["loss"])
    torch.testing.assert_close(plain.nll_bound(batch).nats, other.nll_bound(batch).nats)


def legendre(n=24):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2).float(), torch.from_numpy(weights / 2)


def exact_bound(model, ids, open_at):
    """Return the integral over all shares of masks of the expected weighted cross-entropy."""
    shares, weights = legendre()
    total = 0.0
    for size in range(1, len(open_at) + 1):
        for masked in itertools.combinations(open_at, size):
            row = ids.clone()
            row[list(masked)] = MASK
            rows = row.expand(len(shares), -1)
            log_probs = model.log_probs(rows, -torch.log1p(-shares))
            nats = -sum(log_probs[:, at, ids[at]] for at in masked)
            chance = shares ** (size - 1) * (1 - shares) ** (len(open_at) - size)
            total += float((weights * chance * nats).sum())
    return total


@torch.no_grad()
def test_the_bound_is_the_integral_over_all_times_and_masks(loss):
    """400 rows of 9 maskings each; a bound that is off by 2 % is found at 4 standard errors."""
    ids = torch.tensor([BOS, 7, 8, 9, EOS])
    targets = torch.tensor([-100, 7, 8, 9, -100])
    batch = {"input_ids": ids.expand(400, -1), "target_ids": targets.expand(400, -1)}
    batch["attention_mask"] = torch.ones(400, 5, dtype=torch.bool)
    loss.n_bound_samples = 9
    bound = loss.nll_bound(batch)
    exact = exact_bound(loss.model.eval(), ids, [1, 2, 3])
    assert (bound.tokens == 3).all()
    error = float(bound.nats.std()) / math.sqrt(400)
    assert 4 * error < 0.02 * exact
    assert abs(float(bound.nats.mean()) - exact) < 4 * error + 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("noising", "power"), [("number", 0.03), ("each", 0.08)])
def test_the_loss_has_the_bound_as_its_mean(loss, tokenizer, noising, power):
    """4,000 rows; a mean that is off by `power` is found at 4 standard errors."""
    schedule = ContinuousTimeLogLinear(eps=1e-4)
    collator = DefaultMDLMCollator(tokenizer, 4, schedule, add_eos=False, noising=noising)
    collator.generator = torch.Generator().manual_seed(0)
    means = []
    for _ in range(40):
        batch = collator([{"input_ids": [7, 8, 9]}] * 100)
        means.append(float(loss(batch)["loss"]) * 3)
    exact = exact_bound(loss.model.eval(), torch.tensor([BOS, 7, 8, 9]), [1, 2, 3])
    error = float(np.std(means)) / math.sqrt(40)
    assert 4 * error < power * exact
    assert abs(np.mean(means) - exact) < 4 * error + 2e-3 * exact


class Contexts:
    """What a network says in every state of a few tokens, each a mask or not."""

    def __init__(self, model, d_vocab, n, shares):
        self.n, self.d_vocab = n, d_vocab
        states = torch.cartesian_prod(*[torch.arange(d_vocab)] * n)
        rows = torch.nn.functional.pad(states, (1, 0), value=BOS)
        noise = -torch.log1p(-shares)
        self.log_probs = torch.stack(
            [model.log_probs(rows, one.expand(len(rows)))[:, 1:] for one in noise]
        ).double()

    def of(self, text, known, at):
        """Return the log-probability of a token, given some others, at each share."""
        state = [text[i] if i in known else MASK for i in range(self.n)]
        index = sum(id_ * self.d_vocab ** (self.n - 1 - i) for i, id_ in enumerate(state))
        return self.log_probs[:, index, at, text[at]]


@torch.no_grad()
def test_the_bound_is_above_the_likelihood_of_what_the_network_stands_for():
    """One that is told no time is a mixture of orders, whose likelihood can be summed up."""
    tokenizer = SimpleSpaceTokenizer.for_numbers(1)
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "max_length": 8, "mask_idx": MASK, "time_conditioning": False}
    model = shaken(MDLMModel(len(tokenizer), 16, 2, 2, d_cond=8, **settings)).eval()
    ids = [token for token in range(len(tokenizer)) if token != MASK]
    told = Contexts(model, len(tokenizer), 3, torch.zeros(1))
    likelihoods, bounds = [], []
    for text in itertools.product(ids, repeat=3):
        lengths = [
            -sum(float(told.of(text, order[:i], order[i])) for i in range(3))
            for order in itertools.permutations(range(3))
        ]
        likelihoods.append(np.mean(np.exp(np.negative(lengths))))
        bounds.append(np.mean(lengths))
    assert sum(likelihoods) == pytest.approx(1, abs=1e-4)
    gaps = np.array(bounds) + np.log(likelihoods)
    assert gaps.min() > -1e-6
    assert gaps.max() > 1e-3
    text = torch.tensor([[BOS, *ids[2:5]]])
    targets = text.clone()
    targets[0, 0] = -100
    loss = MDLMLoss(model=model, tokenizer=tokenizer, n_bound_samples=999)
    shown = torch.ones(1, 4, dtype=torch.bool)
    bound = loss.nll_bound({"input_ids": text, "target_ids": targets, "attention_mask": shown})
    place = list(itertools.product(ids, repeat=3)).index(tuple(ids[2:5]))
    assert float(bound.nats[0]) == pytest.approx(bounds[place], rel=0.02)


@torch.no_grad()
def test_the_bound_of_a_network_that_is_told_the_time_is_above_its_likelihood():
    """Two tokens, of which the last is masked at M and the first at m: uniform over 0 < m < M."""
    tokenizer = SimpleSpaceTokenizer.for_numbers(1)
    torch.manual_seed(1)
    model = MDLMModel(len(tokenizer), 16, 1, 2, d_cond=8, max_length=8, mask_idx=MASK)
    model = shaken(model).eval()
    nodes, weights = legendre(16)
    # Pairs (M, m = M u): the density 2 of the pair times the Jacobian M.
    shares = torch.cat([nodes, (nodes[:, None] * nodes).flatten()])
    told = Contexts(model, len(tokenizer), 2, shares)
    density = 2 * nodes[:, None].double() * weights[:, None] * weights
    ids = [token for token in range(len(tokenizer)) if token != MASK]
    total = 0.0
    for text in itertools.product(ids, repeat=2):
        chance, length = 0.0, 0.0
        for first, second in ((0, 1), (1, 0)):
            late = told.of(text, (), first)[:16, None]
            early = told.of(text, (first,), second)[16:].view(16, 16)
            chance += 0.5 * float((density * (late + early).exp()).sum())
            length -= 0.5 * float((density * (late + early)).sum())
        total += chance
        assert length >= -math.log(chance) - 1e-6
        exact = exact_bound(model, torch.tensor([BOS, *text]), [1, 2])
        assert exact == pytest.approx(length, rel=1e-4)
    assert total == pytest.approx(1, abs=1e-3)


def test_the_bound_is_about_texts_and_not_about_how_they_were_masked(loss, tokenizer, texts):
    def bound(**settings):
        collator = DefaultMDLMCollator(tokenizer, 9, **settings)
        collator.generator = torch.Generator().manual_seed(len(settings))
        return loss.nll_bound(collator(texts))

    before = torch.get_rng_state()
    first = bound()
    for other in (bound(noising="each"), bound(noise_schedule=ContinuousTimeCosine())):
        assert torch.equal(other.nats, first.nats)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.tokens.tolist() == [4, 2, 6]
    loss.generator = torch.Generator().manual_seed(1)
    assert not torch.equal(bound().nats, first.nats)


def test_a_network_that_is_told_the_time_needs_it(model, tokenizer):
    ids = torch.tensor([[BOS, MASK]])
    with pytest.raises(ArgumentError, match="noise is None"):
        model(ids)
    settings = {"d_cond": 8, "time_conditioning": False, "dropout": 0.0}
    blind = shaken(MDLMModel(len(tokenizer), 16, 1, 2, **settings))
    torch.testing.assert_close(blind(ids), blind(ids, torch.tensor([2.0])))
    with pytest.raises(ArgumentError, match="mask_idx is None"):
        blind.log_probs(ids)


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="n_bound_samples is 0"):
        MDLMLoss(n_bound_samples=0)
    with pytest.raises(UnknownNameError, match="weighting"):
        MDLMLoss(weighting="evenly")

import math
from types import SimpleNamespace

import pytest
import torch
from flexmdm_worlds import (
    BOS,
    EOS,
    LONGEST,
    TEXTS,
    TOKENIZER,
    A,
    B,
    Oracle,
    Table,
    batch_of,
    encode,
    exact_bound,
    exact_law,
    gauss,
    shares,
    states,
)
from torch.nn import functional

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.flexmdm import (
    CosineSchedule,
    FlexMDMLoss,
    FlexMDMModel,
    FlexMDMNoiseSchedule,
    FlexMDMTrainCollator,
    GeometricSchedule,
    PolynomialSchedule,
    SinSchedule,
)
from pellucid.families.flexmdm._gaps import expected_gaps, gap_loss

KINDS = ("expectation", "distribution")


class Both(Table):
    """A network that says anything, about either kind of gaps."""

    def __init__(self, kind):
        super().__init__()
        self.len_predict_type = kind
        generator = torch.Generator().manual_seed(5)
        shape = (4 ** (LONGEST + 1), LONGEST + 1, LONGEST + 1)
        self.numbers = torch.randn(shape, generator=generator, dtype=torch.float64)

    def forward(self, x_t, t, attention_mask=None, *, where=None):
        logits, said = super().forward(x_t, t, attention_mask, where=where)
        if self.len_predict_type == "expectation":
            return logits, said
        columns = (torch.arange(x_t.shape[1]) - 1).clamp(0, LONGEST)
        return logits, self.numbers[encode(x_t)][:, columns]


def exact_loss(model, text, *, eps, max_weight=math.inf, n_points=400):
    """Return both parts of the loss of a text, by sums over its states and quadrature over time."""
    x, w = torch.tensor(gauss(n_points), dtype=torch.float64)
    t, dt = (1 - eps) * (x + 1) / 2, w / 2
    chances = shares(t)
    weight = (1 / (1 - t)).clamp(max=max_weight)
    unmask, insertion = torch.zeros_like(t), torch.zeros_like(t)
    for state in states(text):
        chance = math.prod(chances[how] for how in state.pattern) if text else torch.ones_like(t)
        row = torch.tensor([[BOS, *state.string, EOS]]).expand(n_points, -1)
        logits, said = model(row, t.float())
        for j, gap in enumerate(state.gaps):
            if model.len_predict_type == "distribution":
                nats = -said[:, j + 1].log_softmax(-1)[:, gap]
            else:
                nats = said[:, j + 1] - gap
                nats = nats + (gap * (gap / said[:, j + 1]).log() if gap else 0.0)
            insertion += chance * weight * nats
        for j, (letter, token) in enumerate(zip(state.string, state.kept, strict=True)):
            if letter != token:
                unmask += chance * weight * -logits[:, j + 1].log_softmax(-1)[:, token]
    n_tokens = max(len(text), 1)
    return [float((part * dt).sum()) / n_tokens for part in (unmask, insertion)]


@pytest.mark.parametrize("max_weight", [None, 3.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [(), (A,), (A, B, A)], ids=str)
def test_the_loss_is_the_mean_over_all_states_and_times(kind, text, max_weight):
    model, n_rows, n_batches = Both(kind), 2000, 8
    loss = FlexMDMLoss(None, model, TOKENIZER, eps=0.02, max_weight=max_weight)
    loss.generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(n_batches):
        out = loss(batch_of(text, n_rows))
        assert (out["tokens"] == len(text)).all()
        # Without a token the mean is over one.
        scale = 1 if text else 1 / n_rows
        parts.append([float(out[name]) * scale for name in ("unmask_loss", "insertion_loss")])
        assert float(out["loss"]) == pytest.approx(sum(parts[-1]) / scale)
    found = torch.tensor(parts, dtype=torch.float64)
    error = found.std(0) / math.sqrt(n_batches)
    exact = exact_loss(model, text, eps=0.02, max_weight=max_weight or math.inf)
    # An error of 3 % of either part would be found.
    assert (error < 0.03 * found.mean(0).clamp(min=0.1)).all()
    assert (found.mean(0) - torch.tensor(exact)).abs().lt(5 * error + 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_better_than_to_know_the_conditional_law(kind):
    """The expected loss at a time, over all texts and states, is least where the oracle is."""
    t, oracle = torch.tensor([0.6], dtype=torch.float64), Oracle(kind=kind)
    chances = [float(share) for share in shares(t)]
    total, n_shifts = torch.zeros(9, dtype=torch.float64), 9
    shifts = torch.linspace(-0.4, 0.4, n_shifts, dtype=torch.float64)
    slope = 0.0
    for text, p in TEXTS.items():
        for state in states(text):
            chance = p * math.prod(chances[how] for how in state.pattern)
            row = torch.tensor([[BOS, *state.string, EOS]])
            _, said = oracle(row, t)
            gaps = torch.tensor([[0, *state.gaps]])
            where = torch.ones_like(gaps, dtype=torch.bool)
            where[:, 0] = False
            said = said.clamp(min=-20.0).detach()
            # Every string is moved in its own way, the same for all states that look like it.
            towards = torch.randn(
                said.shape, generator=torch.Generator().manual_seed(int(encode(row)))
            ).double()
            moved = (shifts.view(-1, *[1] * (said.ndim - 1)) * towards).requires_grad_()
            is_distribution = kind == "distribution"
            values = said + moved if is_distribution else said.clamp(min=1e-3) * moved.exp()
            nats = gap_loss(
                values,
                gaps.expand(n_shifts, -1),
                where.expand(n_shifts, -1),
                is_distribution=is_distribution,
            )
            total += chance * nats.view(n_shifts, -1).sum(1).detach()
            (grad,) = torch.autograd.grad(nats.sum(), moved)
            slope += chance * float((grad[n_shifts // 2] * towards[0]).sum())
    assert total.argmin() == n_shifts // 2
    assert abs(slope) < 1e-2
    assert (total.diff().sign() == torch.tensor([-1.0] * 4 + [1.0] * 4)).all()


def test_a_trained_network_comes_to_the_conditional_expectation():
    """Of texts AB and B, after B is seen at time 1/2, A is missing with chance 1/3."""
    rows = [{"input_ids": [A, B]}, {"input_ids": [B]}] * 64
    batch = FlexMDMTrainCollator(TOKENIZER, 5)(rows)
    torch.manual_seed(0)
    model = FlexMDMModel(
        len(TOKENIZER), 16, 1, 2, d_cond=16, dropout=0.0, len_predict_type="expectation", max_gap=3
    )
    loss = FlexMDMLoss(None, model, TOKENIZER, max_weight=5.0)
    loss.generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)
        optimizer.zero_grad()
        loss(batch)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        _, said = model(torch.tensor([[BOS, B, EOS]]), torch.tensor([0.5]))
    # Shown B: A missing with chance 1/2 in one text of two; 1/2 / (1/2 + 1) is a third.
    assert float(said[0, 1]) == pytest.approx(1 / 3, abs=0.08)
    assert float(said[0, 2]) < 0.05


def test_a_new_network_has_the_loss_of_knowing_nothing():
    torch.manual_seed(0)
    model = FlexMDMModel(len(TOKENIZER), 16, 1, 2, len_predict_type="distribution", max_gap=3)
    noisy = torch.tensor([[BOS, 2, B, EOS]])
    logits, lengths = model(noisy, torch.tensor([0.5]))
    target = torch.tensor([[BOS, A, B, EOS]])
    nats = functional.cross_entropy(logits[0], target[0], reduction="none")
    torch.testing.assert_close(nats, torch.full((4,), math.log(len(TOKENIZER))))
    said = expected_gaps(lengths, is_distribution=True)
    torch.testing.assert_close(said, torch.full((1, 4), 1.5))


def test_times_are_spread_over_rows_and_weights_are_bounded():
    loss = FlexMDMLoss(eps=1e-3)
    loss.generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        t = loss._draw_times(64, torch.device("cpu")).sort().values
        assert (t <= 1 - 1e-3).all()
        assert torch.equal((t / (1 - 1e-3) * 64).floor(), torch.arange(64.0))
    for schedule, power in ((None, 1), (SinSchedule(), 2)):
        rate = (schedule or CosineSchedule()).rate_scale_factor(torch.tensor([1 - 1e-3]))
        assert float(rate) < 1.01 * power / 1e-3


@pytest.mark.parametrize("text", [(), (A,), (B, B), (A, B, A)], ids=str)
def test_the_bound_is_what_the_states_say_and_above_the_exact_likelihood(text):
    model, end, n_rows = Table(1), 0.99, 4000
    loss = FlexMDMLoss(None, model, TOKENIZER, eps=1 - end)
    loss.generator = torch.Generator().manual_seed(0)
    bound = loss.nll_bound(batch_of(text, n_rows))
    assert (bound.tokens == len(text)).all()
    nats = bound.nats.double()
    exact = exact_bound(model, text, end)
    error = float(nats.std()) / math.sqrt(n_rows)
    assert error < 0.1
    assert abs(float(nats.mean()) - exact) < 4.5 * error + 1e-3
    true = -math.log(exact_law(model, end)[text])
    assert exact >= true - 1e-6
    if not text:
        assert exact == pytest.approx(true)


def test_the_exact_law_is_a_law():
    law = exact_law(Table(0), 0.99)
    assert sum(law.values()) == pytest.approx(1)
    assert law == pytest.approx(exact_law(Table(0), 0.99, n_steps=500), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "schedule",
    [None, SinSchedule(), CosineSchedule(), PolynomialSchedule(2.0), GeometricSchedule(0.05, 9.0)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_who_knows_the_texts_pays_their_information(kind, schedule):
    """With exact posteriors the bound of a text is minus the logarithm of its probability."""
    noise = None if schedule is None else FlexMDMNoiseSchedule(schedule, schedule)
    model, n_rows = Oracle(schedule=schedule, kind=kind), 1500
    loss = FlexMDMLoss(noise, model, TOKENIZER, eps=1e-4)
    for text, p in TEXTS.items():
        nats = loss.nll_bound(batch_of(text, n_rows)).nats.double()
        error = float(nats.std()) / math.sqrt(n_rows)
        assert error < 0.15
        assert abs(float(nats.mean()) + math.log(p)) < 4.5 * error + 2e-3


@pytest.fixture
def parts(make_model, tokenizer, pairs):
    model = make_model(FlexMDMModel, len_predict_type="expectation", max_gap=4)
    batch = FlexMDMTrainCollator(tokenizer, 5, input_block_size=6)(pairs)
    return FlexMDMLoss(None, model, tokenizer), batch


def test_the_batch_stays_as_it_is_and_the_generator_decides(parts):
    loss, batch = parts
    before = {name: held.clone() for name, held in batch.items()}
    state = torch.get_rng_state()
    losses, bounds = [], []
    for seed in (0, 0, 1):
        loss.generator = torch.Generator().manual_seed(seed)
        losses.append(float(loss(batch)["loss"].detach()))
        bounds.append(loss.nll_bound(batch).nats)
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(bounds[0], bounds[1])
    assert not torch.equal(bounds[0], bounds[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(held, batch[name]) for name, held in before.items())


def test_where_nothing_is_noised_there_is_a_graph(parts):
    loss, batch = parts
    fixed = torch.ones_like(batch["fixed"])
    out = loss({**batch, "fixed": fixed})
    assert out["loss"] == 0
    out["loss"].backward()


def test_bad_input_is_named(parts):
    loss, batch = parts
    with pytest.raises(ArgumentError, match=r"eps is 0"):
        FlexMDMLoss(eps=0.0)
    with pytest.raises(ArgumentError, match=r"max_weight is -1"):
        FlexMDMLoss(max_weight=-1)
    with pytest.raises(ArgumentError, match="n_bound_samples is 0"):
        FlexMDMLoss(n_bound_samples=0)
    wrong = FlexMDMLoss(None, loss.model, loss.tokenizer, insert_loss_fn="distribution")
    with pytest.raises(ArgumentError, match="the model predicts 'expectation'; set"):
        wrong.configure(SimpleNamespace())
    shared = SimpleNamespace(pad_token_id=3, eos_token_id=3, mask_token_id=2)
    with pytest.raises(RequirementError, match="padding and EOS are one token"):
        FlexMDMLoss(None, loss.model, shared)(batch)

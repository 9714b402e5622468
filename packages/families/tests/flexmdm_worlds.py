"""Worlds of a few short texts, in which everything that flexmdm predicts is known exactly."""

import itertools
import math
from dataclasses import dataclass

import torch
from family_tools import BOS, EOS, MASK, PAD
from torch import nn

from pellucid.families.flexmdm import FlexMDMNoiseSchedule, LinearSchedule
from pellucid.xlm.datamodule import SimpleSpaceTokenizer

A, B = 7, 8
TOKENIZER = SimpleSpaceTokenizer.for_numbers(2)
LONGEST = 3
LETTERS = (MASK, A, B)

TEXTS = {(): 0.1, (A,): 0.15, (A, B): 0.25, (B, B): 0.2, (A, B, A): 0.3}
"""Texts and their probabilities: of several lengths, and alike in places."""


def shares(passed):
    """Return the chances that a token is missing, masked, shown, if both schedules are alike.

    A token comes in at a time of distribution `passed`, and is shown at a time of the same
    distribution, given that it is later.
    """
    missing = 1 - passed
    log_missing = torch.log(missing.clamp(min=1e-300))
    masked = -missing * log_missing
    return missing, masked, (1 - missing - masked).clamp(min=0.0)


def encode(strings):
    """Return a number for each row of token ids, whatever BOS, EOS and padding there are."""
    digit = torch.zeros(len(TOKENIZER), dtype=torch.long)
    digit[list(LETTERS)] = torch.arange(1, 4)
    digits = digit[strings]
    place = (digits > 0).cumsum(1) - 1
    return (digits * 4**place * (digits > 0)).sum(1)


@dataclass
class State:
    """A text of which some tokens are missing and some masked."""

    text: tuple[int, ...]
    pattern: tuple[int, ...]  # of each token: 0 missing, 1 masked, 2 shown

    @property
    def string(self):
        return tuple(
            MASK if how == 1 else token
            for token, how in zip(self.text, self.pattern, strict=True)
            if how
        )

    @property
    def kept(self):
        return [token for token, how in zip(self.text, self.pattern, strict=True) if how]

    @property
    def gaps(self):
        found = [0]
        for how in self.pattern:
            if how:
                found.append(0)
            else:
                found[-1] += 1
        return found


def states(text):
    return [State(text, how) for how in itertools.product(range(3), repeat=len(text))]


class Oracle(nn.Module):
    """The network that knows the texts: it returns exact posteriors.

    Args:
        texts: Text to probability.
        schedule: Of insertions and of masks, both alike.
        kind: Of what is said about gaps.
        end: If not 1, what is known for certain by that time.
    """

    def __init__(self, texts=None, schedule=None, kind="expectation", end=1.0):
        super().__init__()
        self.len_predict_type, self.max_length = kind, 2 * LONGEST + 2
        self.schedule, self.end = schedule or LinearSchedule(), end
        texts = TEXTS if texts is None else texts
        known = [(state, p) for text, p in texts.items() for state in states(text)]
        self.codes = encode(
            torch.tensor([[*s.string, *[PAD] * (LONGEST - len(s.string))] for s, _ in known])
        )
        self.log_p = torch.tensor([math.log(p) for _, p in known], dtype=torch.float64)
        self.counts = torch.tensor(
            [[s.pattern.count(how) for how in range(3)] for s, _ in known], dtype=torch.float64
        )
        self.gaps = torch.tensor([(s.gaps + [0] * LONGEST)[: LONGEST + 1] for s, _ in known])
        self.kept = torch.tensor([(s.kept + [PAD] * LONGEST)[:LONGEST] for s, _ in known])

    def weights(self, codes, t):
        """Return the posterior of each state, and whether any state is possible."""
        passed = self.schedule.at(t.double()) / self.schedule.at(
            torch.tensor(self.end, dtype=torch.float64)
        )
        logs = torch.stack([share.clamp(min=1e-30).log() for share in shares(passed)], 1)
        scores = self.log_p + logs @ self.counts.T
        possible = codes[:, None] == self.codes
        scores = scores.masked_fill(~possible, -torch.inf)
        is_known = possible.any(1)
        scores[~is_known] = 0.0
        return scores.softmax(1), is_known

    def forward(self, x_t, t, attention_mask=None, *, where=None):
        weights, is_known = self.weights(encode(x_t), t)
        first = (x_t == BOS).long().argmax(1) + 1
        columns = torch.arange(x_t.shape[1]) - first[:, None]
        inside = (columns >= 0) & (columns <= LONGEST)
        at = columns.clamp(0, LONGEST)
        tokens = torch.zeros(len(x_t), LONGEST + 1, len(TOKENIZER), dtype=torch.float64)
        for letter in (A, B):
            tokens[:, :LONGEST, letter] = weights @ (self.kept == letter).double()
        tokens[~is_known] = 1.0
        logits = (
            tokens.clamp(min=1e-30).log().gather(1, at[..., None].expand(-1, -1, tokens.shape[2]))
        )
        numbers = torch.arange(LONGEST + 1)
        dist = (weights[..., None, None] * (self.gaps[..., None] == numbers)).sum(1)
        dist[~is_known] = torch.tensor([1.0, *[0.0] * LONGEST], dtype=torch.float64)
        dist = dist.gather(1, at[..., None].expand(-1, -1, LONGEST + 1))
        nothing = torch.zeros(LONGEST + 1, dtype=torch.float64)
        nothing[0] = 1.0
        dist = torch.where(inside[..., None], dist, nothing)
        said = dist.log() if self.len_predict_type == "distribution" else dist @ numbers.double()
        return (logits if where is None else logits[where]), said


class Table(nn.Module):
    """A network that says anything: random numbers of each string, that change with time."""

    len_predict_type = "expectation"
    max_length = 2 * LONGEST + 2

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        n = 4 ** (LONGEST + 1)
        self.gaps = torch.rand(n, LONGEST + 1, generator=generator, dtype=torch.float64)
        self.drift = torch.rand(n, LONGEST + 1, generator=generator, dtype=torch.float64)
        self.tokens = torch.randn(n, LONGEST + 1, 2, generator=generator, dtype=torch.float64)

    def say(self, codes, t):
        """Return expectations of slots, and logits of A and B, for each string."""
        now = t.double()[:, None]
        # In proportion to 1 - t, so that rates stay finite and the process has an end.
        gaps = (0.2 + 2 * self.gaps[codes]) * (1 - now) * (1 + self.drift[codes] * now)
        tokens = self.tokens[codes] * (0.5 + now[..., None])
        return gaps, tokens

    def forward(self, x_t, t, attention_mask=None, *, where=None):
        said, tokens = self.say(encode(x_t), t)
        first = (x_t == BOS).long().argmax(1) + 1
        columns = torch.arange(x_t.shape[1]) - first[:, None]
        at = columns.clamp(0, LONGEST)
        logits = torch.full((*x_t.shape, len(TOKENIZER)), -torch.inf, dtype=torch.float64)
        logits[..., [A, B]] = tokens.gather(1, at[..., None].expand(-1, -1, 2))
        lengths = said.gather(1, at).where((columns >= 0) & (columns <= LONGEST), 0.0)
        return (logits if where is None else logits[where]), lengths


def batch_of(text, n_rows):
    """Return a batch of one text, many times: BOS, the text, EOS, and padding."""
    row = [BOS, *text, EOS]
    ids = torch.tensor([row + [PAD] * (LONGEST + 2 - len(row))]).expand(n_rows, -1).contiguous()
    shown = ids != PAD
    return {"input_ids": ids, "attention_mask": shown, "fixed": (ids == BOS) | ~shown}


def prompt_batch(n_rows):
    """Return a batch that asks for texts from nothing."""
    ids = torch.tensor([[BOS, EOS]]).expand(n_rows, -1).contiguous()
    shown = torch.ones_like(ids, dtype=torch.bool)
    return {"input_ids": ids, "attention_mask": shown, "fixed": ids == BOS}


STRINGS = [s for n in range(LONGEST + 1) for s in itertools.product(LETTERS, repeat=n)]


def exact_law(model, end, *, n_steps=1000):
    """Return the probability of each text if a network's rates run until a time.

    The equations of the process are integrated (linear schedules, Runge-Kutta in -log(1 - t), in
    which all hazards are 1); nothing is inserted into a string of the greatest length; what is
    masked at the end is filled by what the network says then.
    """
    place = {s: i for i, s in enumerate(STRINGS)}
    rows = torch.tensor([[BOS, *s, EOS, *[PAD] * (LONGEST - len(s))] for s in STRINGS])
    codes = encode(rows)
    source, target, what, slot = torch.tensor(list(_moves(place))).T

    def say(time):
        t = torch.full((len(STRINGS),), 1 - math.exp(-time), dtype=torch.float64)
        gaps, tokens = model.say(codes, t)
        return gaps, tokens.softmax(-1)

    def flow(p, said):
        gaps, probs = said
        token = probs[source, slot, (what - A).clamp(min=0)]
        moved = torch.where(what == 0, gaps[source, slot], token) * p[source]
        return torch.zeros_like(p).index_add(0, target, moved).index_add(0, source, -moved)

    h = -math.log(1 - end) / n_steps
    p = torch.zeros(len(STRINGS), dtype=torch.float64)
    p[place[()]] = 1.0
    said = say(0.0)
    for step in range(n_steps):
        half, full = say((step + 0.5) * h), say((step + 1) * h)
        k1 = flow(p, said)
        k2 = flow(p + h / 2 * k1, half)
        k3 = flow(p + h / 2 * k2, half)
        k4 = flow(p + h * k3, full)
        p, said = p + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), full
    return _fill_law(p.tolist(), said[1].tolist())


def _moves(place):
    """Yield from where, to where, what (0 for an insertion), and at which slot."""
    for i, s in enumerate(STRINGS):
        for j in range(len(s) + 1 if len(s) < LONGEST else 0):
            yield i, place[(*s[:j], MASK, *s[j:])], 0, j
        for j, letter in enumerate(s):
            for token in (A, B) if letter == MASK else ():
                yield i, place[(*s[:j], token, *s[j + 1 :])], token, j


def _fill_law(p, probs):
    """Return the law of texts whose masks are filled at once."""
    law = {}
    for i, s in enumerate(STRINGS):
        for text in itertools.product(*[(A, B) if c == MASK else (c,) for c in s]):
            masked = [probs[i][j][text[j] - A] for j, c in enumerate(s) if c == MASK]
            law[text] = law.get(text, 0.0) + p[i] * math.prod(masked)
    return law


def exact_bound(model, text, end, *, n_points=400):
    """Return the bound of a text under linear schedules, by sums over states and quadrature."""
    x, w = torch.tensor(gauss(n_points), dtype=torch.float64)
    left = (x + 1) / 2  # t = end (1 - left^2), as times are denser towards the end
    t, dt = end * (1 - left**2), end * left * w
    missing, masked, shown = shares(t / end)
    a, a_cut = 1 / (1 - t), 1 / (end - t)
    total = torch.zeros_like(t)
    for state in states(text):
        n = [state.pattern.count(how) for how in range(3)]
        chance = missing ** n[0] * masked ** n[1] * shown ** n[2]
        row = torch.tensor([[BOS, *state.string, EOS]])
        code = encode(row).expand(n_points)
        gaps, tokens = model.say(code, t)
        log_probs = tokens.log_softmax(-1)
        nats = torch.zeros_like(t)
        for j, gap in enumerate(state.gaps):
            said = gaps[:, j].clamp(min=1e-6)
            nats += a * said - a_cut * gap + a_cut * gap * ((a_cut / a).log() - said.log())
        for j, (letter, token) in enumerate(zip(state.string, state.kept, strict=True)):
            if letter == MASK:
                surprise = (a_cut / a).log() - log_probs[:, j, token - A]
                nats += a_cut * surprise + a - a_cut
        total += chance * nats
    return float((total * dt).sum())


def gauss(n):
    """Return the points and the weights of Gauss and Legendre, by Golub and Welsch."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return torch.stack((values, 2 * vectors[0] ** 2)).tolist()


def schedule_of(kind=LinearSchedule, **settings):
    return FlexMDMNoiseSchedule(kind(**settings), kind(**settings))

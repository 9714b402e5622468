"""Associative recall learnt from scratch: the delta rule against rules that only add.

A row lists pairs of a key and a value, then asks for the values of the keys, in another order
(multi-query associative recall, Arora et al., arXiv:2312.04927). There are many more keys than a
head has features, so that those of a row are never orthogonal: what is added for one key is found
under others. Where pairs are written again, half of the keys get a second value, and the one that
came last is right, as in the comparison of update rules by Schlag et al. (arXiv:2102.11174): what
only adds finds both values, where the delta rule takes out what a key finds already (Yang et al.,
arXiv:2406.06484).

The linear attention of the literature (Katharopoulos et al., arXiv:2006.16236) has positive
features, elu + 1, and divides by their sum. "Sum of outer products" has the keys of the delta rule
instead, of norm 1 and of either sign, and differs from it in the update alone. All else is the
same: short mixtures of neighbouring tokens, a norm, an MLP.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.tptt import RecurrentMode, linear_attention

RULES = ("delta rule", "sum of outer products", "linear attention, elu + 1")
TASKS = ((16, False), (32, False), (8, True), (16, True))
RATES = (3e-3, 1e-2)
KEYS, VALUES = 128, 64
LAYERS, WIDTH, HEADS, D_HEAD = 2, 64, 1, 16
BATCH = 32


def describe(steps: int) -> list[str]:
    """Return what the table says, as lines."""
    rates = " and ".join(f"{rate:g}" for rate in RATES)
    return [
        "## Recall from scratch\n",
        "A row lists pairs of a key and a value, then asks for the value of each key (MQAR, Arora",
        f"et al., arXiv:2312.04927). {LAYERS} layers of width {WIDTH}, one head of width {D_HEAD},",
        f"{KEYS} keys, {VALUES} values, {steps} steps of {BATCH} rows; the share of right values",
        f"in 20 new batches, for the better of the learning rates {rates}. Where pairs are written",
        "again, half of the keys get a second value, which counts.\n",
        "Linear attention with elu + 1 is that of Katharopoulos et al. (arXiv:2006.16236). The sum",
        "of outer products has the delta rule's keys, of norm 1 and either sign, and differs from",
        "it in the update alone: it takes nothing out of the state, and has no gate. Schlag et al.",
        "(arXiv:2102.11174) and Yang et al. (arXiv:2406.06484) say that what only adds falls",
        "behind the delta rule as pairs outnumber features, and where a key gets a new value.",
    ]


def compare(rates: dict[tuple[str, int, bool], float]) -> list[str]:
    """Return by how much the delta rule is ahead, as lines.

    Args:
        rates: The share of right values by rule, pairs and whether they are written again; the
            lines leave out what is not there yet.
    """
    lines: list[str] = []
    for rule in RULES[1:]:
        said: list[str] = []
        for renewed, where in ((False, "where nothing is written again"), (True, "where half is")):
            ahead = [
                100 * (rates[RULES[0], pairs, again] - rates[rule, pairs, again])
                for pairs, again in TASKS
                if again == renewed and {(each, pairs, again) for each in RULES} <= rates.keys()
            ]
            if ahead:
                said.append(f"{min(ahead):.1f} to {max(ahead):.1f} points {where}")
        if said:
            lines.append(f'- The delta rule is ahead of "{rule}" by {" and ".join(said)}.')
    return lines


def measure(rule: str, pairs: int, *, renewed: bool, steps: int) -> dict[str, Any]:
    """Learn a task with a rule, and return how many values are recalled at the better rate."""
    begin = time.monotonic()
    found = {rate: _learn(rule, pairs, renewed, steps, rate) for rate in RATES}
    best = max(found, key=lambda rate: found[rate])
    spent = time.monotonic() - begin
    return {"accuracy": found[best], "rate": best, "all": list(found.values()), "seconds": spent}


def draw(pairs: int, *, renewed: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows of pairs and queries, and the values that are asked for."""
    keys = torch.rand(BATCH, KEYS, generator=generator).argsort(-1)[:, :pairs]
    values = torch.randint(VALUES, (BATCH, pairs), generator=generator)
    written, said = keys, values
    if renewed:
        half = pairs // 2
        again = torch.randint(VALUES, (BATCH, half), generator=generator)
        written = torch.cat((keys, keys[:, :half]), -1)
        said = torch.cat((values, again), -1)
        values = torch.cat((again, values[:, half:]), -1)
    context = torch.stack((written, said + KEYS), -1).flatten(1)
    order = torch.rand(BATCH, pairs, generator=generator).argsort(-1)
    return torch.cat((context, keys.gather(1, order)), -1), values.gather(1, order)


class Recaller(nn.Module):
    """Layers of linear attention between an embedding and a head."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(KEYS + VALUES, WIDTH)
        self.layers = nn.Sequential(*(Layer(rule) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VALUES))

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of the values at each token."""
        return self.head(self.layers(self.embedding(ids)))


class Layer(nn.Module):
    """Linear attention with one of the rules, then an MLP."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mix = nn.Conv1d(WIDTH, WIDTH, 2, groups=WIDTH)
        inner = HEADS * D_HEAD
        self.q, self.k, self.v = (nn.Linear(WIDTH, inner, bias=False) for _ in range(3))
        self.gate = nn.Linear(2 * WIDTH, HEADS)
        self.read_norm = nn.RMSNorm(D_HEAD)
        self.out = nn.Linear(inner, WIDTH, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after attention and MLP."""
        x = x + self.out(self._recall(self.norms[0](x)))
        return x + self.mlp(self.norms[1](x))

    def _recall(self, x: Tensor) -> Tensor:
        mixed = self.mix(functional.pad(x.mT, (1, 0))).mT
        q, k, v = _heads(self.q(x)), _heads(self.k(mixed)), _heads(self.v(x))
        if self.rule == RULES[2]:
            weights = ((functional.elu(q) + 1) @ (functional.elu(k) + 1).mT).tril()
            read = weights @ v / weights.sum(-1, keepdim=True)
        else:
            q, k = (functional.normalize(functional.silu(each), dim=-1) for each in (q, k))
            read = self._update(q, k, v, torch.cat((x, mixed), -1))
        return self.read_norm(read).transpose(1, 2).flatten(2)

    def _update(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        if self.rule == RULES[1]:
            return (q @ k.mT).tril() @ v
        gate = torch.sigmoid(self.gate(x)).mT[..., None]
        return linear_attention(q, k, v, gate, mode=RecurrentMode())[0]


def _learn(rule: str, pairs: int, renewed: bool, steps: int, rate: float) -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Recaller(rule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        ids, wanted = draw(pairs, renewed=renewed, generator=generator)
        logits = model(ids)[:, -wanted.shape[1] :]
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    right = [_right(model, *draw(pairs, renewed=renewed, generator=generator)) for _ in range(20)]
    return sum(right) / len(right)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


@torch.no_grad()
def _right(model: Recaller, ids: Tensor, wanted: Tensor) -> float:
    chosen = model(ids)[:, -wanted.shape[1] :].argmax(-1)
    return (chosen == wanted).float().mean().item()

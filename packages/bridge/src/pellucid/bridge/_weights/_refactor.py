"""Choosing the bases of a head's inner axes by singular value decomposition.

Scores depend on W_Q and W_K by W_Q W_K^T alone, what a head writes depends on W_V and W_O by
W_V W_O alone: any factors of these products are as good.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pellucid.bridge._weights._fold_values import ValueBiasFolding, view_of
from pellucid.bridge._weights._ground import Ground
from pellucid.bridge._weights._ledger import Ledger, read_exactly

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}


class Refactoring:
    """What `refactor_factored_attn_matrices` does.

    It needs scores that are products of queries and keys as their projections give them (not
    rotated, not normalised, not capped), a key head for each query head, and what the folding of
    value biases needs.

    Args:
        ground: The model.
        values: The folding of value biases, which is done as well.
    """

    def __init__(self, ground: Ground, values: ValueBiasFolding) -> None:
        self._ground = ground
        self._values = values

    def find_obstacle(self) -> str | None:
        """Return why the factors of a head are not free to be chosen, None if all are."""
        owners = list(self._values.owners())
        if not owners:
            return "no block has attention"
        for owner in owners:
            obstacle = self._check_shapes(owner)
            if obstacle is not None:
                return obstacle
        shorts = ("q.hook_out", "k.hook_out", "hook_attn_scores")
        held = self._ground.read(f"{owner}.{short}" for owner in owners for short in shorts)
        for owner in owners:
            if not _are_products(*(held.get(f"{owner}.{short}") for short in shorts)):
                return (
                    f"the scores of {owner} are not products of queries and keys as they are: "
                    "these are rotated, normalised or capped on the way"
                )
        return self._values.find_obstacle(everywhere=True)

    def _check_shapes(self, owner: str) -> str | None:
        weights = self._ground.weights
        names = [f"{owner}.W_{letter}" for letter in "QKVO"]
        missing = [name for name in names if name not in weights]
        if missing:
            return f"{missing[0]} is not known"
        if not weights[names[1]].reads_stream:
            return f"{owner} makes keys and values of a latent"
        n_heads = {name: weights[name].source.get().shape[0] for name in names}
        if len(set(n_heads.values())) > 1:
            return f"query heads of {owner} share keys and values"
        return None

    def apply(self, ledger: Ledger) -> None:
        """Fold value biases, then write all heads' new factors."""
        self._values.apply(ledger)
        for owner in self._values.owners():
            self._refactor_scores(owner, ledger)
            self._refactor_output(owner, ledger)

    def _refactor_scores(self, owner: str, ledger: Ledger) -> None:
        queries, keys = (self._read_augmented(owner, letter) for letter in "QK")
        left, values, right = _decompose(queries, keys)
        root = values.sqrt().unsqueeze(-2)
        for letter, made in (("Q", left * root), ("K", right * root)):
            made = pad(made, (0, queries.shape[-1] - made.shape[-1]))
            self._write(f"{owner}.W_{letter}", made[:, :-1], ledger)
            if f"{owner}.b_{letter}" in self._ground.weights:
                # Without a bias the last row of one factor is 0, and that of its new basis too.
                self._write(f"{owner}.b_{letter}", made[:, -1], ledger)

    def _read_augmented(self, owner: str, letter: str) -> Tensor:
        """Return a weight of heads with its bias as one more row, zeros if there is none."""
        weight = self._read(f"{owner}.W_{letter}")
        name = f"{owner}.b_{letter}"
        has_bias = name in self._ground.weights
        row = self._read(name) if has_bias else torch.zeros_like(weight[:, 0])
        return torch.cat([weight, row.to(weight.device).unsqueeze(1)], dim=1)

    def _refactor_output(self, owner: str, ledger: Ledger) -> None:
        value, output = self._read(f"{owner}.W_V"), self._read(f"{owner}.W_O")
        left, values, right = _decompose(value, output.mT)
        width = (0, value.shape[-1] - left.shape[-1])
        self._write(f"{owner}.W_V", pad(left * values.unsqueeze(-2), width), ledger)
        self._write(f"{owner}.W_O", pad(right, width).mT, ledger)

    def _read(self, name: str) -> Tensor:
        view = view_of(self._ground.weights, name)
        return view.read(read_exactly(view.module, view.parameter))

    def _write(self, name: str, made: Tensor, ledger: Ledger) -> None:
        view = view_of(self._ground.weights, name)
        whole = read_exactly(view.module, view.parameter)
        ledger.write(view.module, view.parameter, view.place(whole, made))


def _decompose(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V of A B^T for heads' matrices of shape (head, row, d_head).

    The decomposition is that of a matrix of the inner axis' size, which is the smaller one.
    """
    (q_a, r_a), (q_b, r_b) = torch.linalg.qr(a), torch.linalg.qr(b.to(a.device))
    u, s, vh = torch.linalg.svd(r_a @ r_b.mT, full_matrices=False)
    return q_a @ u, s, q_b @ vh.mT


def _are_products(query: Tensor | None, key: Tensor | None, scores: Tensor | None) -> bool:
    """Say whether scores are queries times keys, up to a factor and what is added to all samples.

    Args:
        query: Of shape (batch, pos, head, d_head); key likewise.
        key: The keys.
        scores: Of shape (batch, head, query_pos, key_pos).
    """
    if query is None or key is None or scores is None or scores.shape[0] < 2:
        return False
    products = torch.einsum("bqhd,bkhd->bhqk", query.double(), key.double())
    if products.shape != scores.shape:
        return False
    # What is added (masks, relative positions) is the same for two samples of one length.
    seen = (scores[0].float() > torch.finfo(scores.dtype).min / 2) & scores[0].isfinite()
    seen &= scores[1].isfinite()
    made, given = ((held[0] - held[1])[seen].double() for held in (products, scores))
    factor = (made @ given) / (made @ made).clamp(min=1e-30)
    gap = (given - factor * made).abs().max()
    return bool(gap <= _TOLERANCE.get(scores.dtype, 3e-2) * given.abs().max())

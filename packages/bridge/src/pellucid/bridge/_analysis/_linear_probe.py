"""Linear probes: whether a property of the input can be read off an activation by a plane.

Alain and Bengio 2016, https://arxiv.org/abs/1610.01644.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core import ArgumentError, MissingDependencyError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """Two classes, told apart by the sign of `activation @ weight + bias`.

    Attributes:
        weight: Normal of the plane, in the units of the activation.
        bias: Its offset.
        train_accuracy: Share of the rows it was fitted on that it gets right.
        test_accuracy: Share of the rows held out.
        n_train: How many rows it was fitted on.
        n_test: How many were held out.
    """

    weight: Float[Tensor, " d_model"]
    bias: float
    train_accuracy: float
    test_accuracy: float
    n_train: int
    n_test: int

    @property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The normal, of length 1, towards the class with label 1."""
        return self.weight / self.weight.norm()

    def scores(self, activations: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest"]:
        """Return how far on the side of label 1 activations lie, as log-odds."""
        return activations.to(self.weight.dtype) @ self.weight + self.bias

    def predict(self, activations: Float[Tensor, "*rest d_model"]) -> Int64[Tensor, "*rest"]:
        """Return the label of each activation, 0 or 1."""
        return (self.scores(activations) > 0).long()


def fit_probe(
    activations: Any,
    labels: Sequence[int] | Tensor,
    *,
    test_share: float = 0.25,
    regularization: float = 1.0,
    seed: int = 0,
) -> LinearProbe:
    """Fit a logistic regression on activations, and measure it on rows that it has not seen.

    Args:
        activations: An array or tensor of shape (n_rows, d_model), such as a stored activation.
        labels: 0 or 1 for each row; both occur.
        test_share: Which share of each class to hold out.
        regularization: Strength of the penalty on the squared weights, in standardised units.
        seed: Which rows are held out.

    Raises:
        ArgumentError: (a ValueError) If labels and rows do not fit, or a class has fewer than two
            rows.
        MissingDependencyError: (an ImportError) Without scikit-learn.
    """
    rows, wanted = _read(activations, labels)
    if not 0 < test_share < 1 or regularization <= 0:
        raise ArgumentError(
            f"test_share must lie between 0 and 1 and regularization above 0, got {test_share!r} "
            f"and {regularization!r}."
        )
    sklearn = _import_sklearn()
    train, test = _split(wanted, test_share, seed)
    scaler = sklearn.preprocessing.StandardScaler().fit(rows[train])
    model = sklearn.linear_model.LogisticRegression(C=1 / regularization, max_iter=2000)
    model.fit(scaler.transform(rows[train]), wanted[train])
    # Back to the units of the activation.
    weight = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - weight @ scaler.mean_)
    right = (rows @ weight + bias > 0) == (wanted == 1)
    return LinearProbe(
        weight=torch.from_numpy(weight.astype(rows.dtype)),
        bias=bias,
        train_accuracy=float(right[train].mean()),
        test_accuracy=float(right[test].mean()),
        n_train=len(train),
        n_test=len(test),
    )


def _read(activations: Any, labels: Any) -> tuple[Any, Any]:
    held = activations.detach().cpu().float() if isinstance(activations, Tensor) else activations
    rows, wanted = np.asarray(held), np.asarray(labels)
    if rows.ndim != 2 or wanted.shape != rows.shape[:1]:
        raise ArgumentError(
            "activations must have shape (n_rows, d_model) and labels one entry a row, got "
            f"{rows.shape} and {wanted.shape}."
        )
    kinds = np.unique(wanted)
    if not np.array_equal(kinds, [0, 1]):
        raise ArgumentError(f"labels must be 0 and 1, and both occur, got {kinds.tolist()}.")
    if min((wanted == kind).sum() for kind in kinds) < 2:
        raise ArgumentError("each class needs at least two rows: one to fit on, one to hold out.")
    return rows, wanted


def _split(wanted: Any, test_share: float, seed: int) -> tuple[Any, Any]:
    """Hold out the same share of both classes, at least a row of each, and leave one of each."""
    draw = np.random.default_rng(seed)
    train: list[Any] = []
    test: list[Any] = []
    for kind in (0, 1):
        rows = draw.permutation(np.flatnonzero(wanted == kind))
        n_test = min(max(1, round(test_share * len(rows))), len(rows) - 1)
        test.append(rows[:n_test])
        train.append(rows[n_test:])
    return np.concatenate(train), np.concatenate(test)


def _import_sklearn() -> Any:
    try:
        for part in ("linear_model", "preprocessing"):
            importlib.import_module(f"sklearn.{part}")
        return importlib.import_module("sklearn")
    except ImportError as error:
        raise MissingDependencyError(
            "probes are fitted by scikit-learn, which is not installed. "
            "pip install 'pellucid-bridge[probes]'"
        ) from error

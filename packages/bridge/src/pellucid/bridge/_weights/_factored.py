"""Products of two matrices, kept apart: W_V W_O of a head is 768 x 768 and of rank 64."""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from pellucid.core import ArgumentError


class FactoredMatrix:
    """The matrix `A @ B`, which is never made unless asked for.

    Leading axes, such as layer and head, are those of a stack of such matrices. What needs linear
    algebra is done on matrices as small as the inner axis, in float32 at least.

    Args:
        A: Of shape (*rest, ldim, mdim).
        B: Of shape (*rest, mdim, rdim); the leading axes of both broadcast.

    Raises:
        ArgumentError: (a ValueError) If the inner axes differ in length or the leading axes do not
            broadcast.
    """

    def __init__(self, A: Float[Tensor, "..."], B: Float[Tensor, "..."]) -> None:  # noqa: N803 - the names its users know
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ArgumentError(
                "the last axis of A must be as long as the last but one of B, got shapes "
                f"{tuple(A.shape)} and {tuple(B.shape)}."
            )
        try:
            lead = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        except RuntimeError as error:
            raise ArgumentError(
                f"the leading axes of A and B do not broadcast: {tuple(A.shape)} and "
                f"{tuple(B.shape)}."
            ) from error
        self.A = A.expand(*lead, *A.shape[-2:])
        self.B = B.expand(*lead, *B.shape[-2:])

    # Sizes.

    @property
    def ldim(self) -> int:
        """How many rows the product has."""
        return self.A.shape[-2]

    @property
    def mdim(self) -> int:
        """How long the inner axis is."""
        return self.A.shape[-1]

    @property
    def rdim(self) -> int:
        """How many columns the product has."""
        return self.B.shape[-1]

    @property
    def shape(self) -> torch.Size:
        """The shape of the product, (*rest, ldim, rdim)."""
        return torch.Size([*self.A.shape[:-2], self.ldim, self.rdim])

    @property
    def ndim(self) -> int:
        """How many axes the product has."""
        return self.A.ndim

    @property
    def has_leading_dims(self) -> bool:
        """Whether this is a stack of matrices."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Both factors."""
        return self.A, self.B

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape={tuple(self.shape)}, mdim={self.mdim})"

    # Products.

    @property
    def AB(self) -> Float[Tensor, "*rest row column"]:  # noqa: N802 - the name its users know
        """The product, as one tensor."""
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "*rest k k"]:  # noqa: N802 - the name its users know
        """The product the other way round, for square matrices; it has the same eigenvalues.

        Raises:
            ArgumentError: (a ValueError) If the matrix is not square.
        """
        if self.ldim != self.rdim:
            raise ArgumentError(f"BA is for square matrices, this one is {self.ldim}x{self.rdim}.")
        return self.B @ self.A

    @property
    def T(self) -> "FactoredMatrix":  # noqa: N802 - the name its users know
        """The transposed matrix, of each matrix of a stack."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    def __matmul__(self, other: Any) -> Any:
        """Multiply from the right: by a vector to a vector, by a matrix to a factored one."""
        if isinstance(other, Tensor):
            if other.ndim == 1:
                return (self.A @ (self.B @ other).unsqueeze(-1)).squeeze(-1)
            made = self.B @ other
            # The shorter of the axes that meet becomes the inner one.
            if self.rdim > self.mdim:
                return FactoredMatrix(self.A, made)
            return FactoredMatrix(self.AB, other)
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        return NotImplemented

    def __rmatmul__(self, other: Any) -> Any:
        """Multiply from the left: by a vector to a vector, by a matrix to a factored one."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 1:
            return ((other @ self.A).unsqueeze(-2) @ self.B).squeeze(-2)
        if self.ldim > self.mdim:
            return FactoredMatrix(other @ self.A, self.B)
        return FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: Any) -> "FactoredMatrix":
        """Multiply by a number, or a tensor of one element."""
        if isinstance(scalar, Tensor):
            if scalar.numel() != 1:
                raise ArgumentError(
                    f"a FactoredMatrix times a tensor of shape {tuple(scalar.shape)} is not "
                    "factored any more. Multiply AB, or one of the factors."
                )
            scalar = scalar.reshape(())
        elif not isinstance(scalar, (int, float)):
            return NotImplemented
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    # Linear algebra.

    @cached_property
    def _reduced(self) -> tuple[Tensor, Tensor, Tensor]:
        # A = Q_A R_A and B = R_B Q_B with orthogonal Q: what is between them is the whole matter.
        a, b = _precise(self.A), _precise(self.B)
        left, upper = torch.linalg.qr(a)
        right, lower = torch.linalg.qr(b.mT)
        return left, upper @ lower.mT, right

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, core, right = self._reduced
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        return left @ u, s, right @ vh.mT

    def svd(
        self,
    ) -> tuple[
        Float[Tensor, "*rest row k"], Float[Tensor, "*rest k"], Float[Tensor, "*rest column k"]
    ]:
        """Return U, S and V with `AB = U diag(S) V^T`, singular values from the largest down.

        There are min(ldim, mdim, rdim) of them; singular vectors are columns, of V as well.
        """
        return self._svd

    @property
    def U(self) -> Float[Tensor, "*rest row k"]:  # noqa: N802 - the name its users know
        """Left singular vectors, as columns."""
        return self._svd[0]

    @property
    def S(self) -> Float[Tensor, "*rest k"]:  # noqa: N802 - the name its users know
        """Singular values, from the largest down."""
        return self._svd[1]

    @property
    def V(self) -> Float[Tensor, "*rest column k"]:  # noqa: N802 - the name its users know
        """Right singular vectors, as columns."""
        return self._svd[2]

    @property
    def Vh(self) -> Float[Tensor, "*rest column k"]:  # noqa: N802 - the name its users know
        """The same as V: not transposed, whatever the name says, which older code relies on."""
        return self._svd[2]

    @property
    def eigenvalues(self) -> Complex[Tensor, "*rest k"]:
        """The mdim eigenvalues of a square matrix that may differ from 0."""
        return torch.linalg.eigvals(_precise(self.BA))

    def norm(self) -> Float[Tensor, "*rest"]:
        """Return the Frobenius norm."""
        return torch.linalg.matrix_norm(self._reduced[1])

    def make_even(self) -> "FactoredMatrix":
        """Return the same matrix with factors whose singular values are alike."""
        u, s, v = self._svd
        root = s.sqrt().unsqueeze(-2)
        return FactoredMatrix(u * root, (v * root).mT)

    def collapse_l(self) -> Float[Tensor, "*rest k column"]:
        """Return the matrix without its left orthogonal factor: diag(S) V^T."""
        _, s, v = self._svd
        return s.unsqueeze(-1) * v.mT

    def collapse_r(self) -> Float[Tensor, "*rest row k"]:
        """Return the matrix without its right orthogonal factor: U diag(S)."""
        u, s, _ = self._svd
        return u * s.unsqueeze(-2)

    # Parts.

    def get_corner(self, k: int = 3) -> Tensor:
        """Return the first k entries along every axis of the product, to look at."""
        return (self[..., :k, :k].AB)[tuple([slice(k)] * (self.ndim - 2))]

    def unsqueeze(self, k: int) -> "FactoredMatrix":
        """Return a stack with one more leading axis of length 1, before axis k.

        Raises:
            ArgumentError: (a ValueError) If that is not among the leading axes.
        """
        n_leading = self.ndim - 2
        if not -n_leading - 3 <= k <= n_leading or k in (-1, -2):
            raise ArgumentError(f"unsqueeze({k}) is not before one of {n_leading} leading axes.")
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    def __getitem__(self, index: Any) -> "FactoredMatrix":
        """Index the product; a number among rows or columns leaves an axis of length 1.

        Raises:
            ArgumentError: (a ValueError) If there are more indices than axes.
        """
        lead, row, column = self._split_index(index if isinstance(index, tuple) else (index,))
        a, b = self.A[(*lead, ..., row, slice(None))], self.B[(*lead, ..., slice(None), column)]
        return FactoredMatrix(a, b)

    def _split_index(self, index: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any, Any]:
        n_given = sum(one is not None and one is not Ellipsis for one in index)
        if n_given > self.ndim:
            raise ArgumentError(
                f"{n_given} indices are too many for a matrix of shape {tuple(self.shape)}."
            )
        if Ellipsis in [one if one is Ellipsis else None for one in index]:
            place = next(i for i, one in enumerate(index) if one is Ellipsis)
            fill = (slice(None),) * (self.ndim - n_given)
            index = (*index[:place], *fill, *index[place + 1 :])
        else:
            index = (*index, *[slice(None)] * (self.ndim - n_given))
        return index[:-2], _keep(index[-2]), _keep(index[-1])


def _keep(index: Any) -> Any:
    if not isinstance(index, int):
        return index
    return slice(index, index + 1 or None)


def _precise(factor: Tensor) -> Tensor:
    return factor.to(torch.promote_types(factor.dtype, torch.float32))

"""The kernels of flash-linear-attention in place of our own chunks, where they compute the same."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, MissingDependencyError
from pellucid.tptt._modes import RecurrentMode

BACKENDS = ("auto", "torch", "fla")

_HALF = (torch.bfloat16, torch.float16)
_WIDEST_HEAD = 256


class Kernels(NamedTuple):
    """The functions that are taken from flash-linear-attention."""

    rule: Callable[..., tuple[Tensor, Tensor]]
    product: Callable[..., tuple[Tensor, Tensor]]


def check_backend(backend: str, mode: RecurrentMode, compat: str | None = None) -> None:
    """Check that a backend is known and can compute a mode.

    Raises:
        ArgumentError: (a ValueError) If it is not known, or cannot.
        MissingDependencyError: (an ImportError) If it is not installed.
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if backend != "fla":
        return
    if not mode.linear or compat is not None:
        kind = f"compat={compat!r}" if mode.linear else "a mode with gelu"
        raise ArgumentError(f"backend='fla' has no kernel for {kind}. Use 'auto' or 'torch'.")
    if not _is_installed():
        raise MissingDependencyError(
            "backend='fla' needs flash-linear-attention. Install pellucid-tptt[fla], or use "
            "backend='auto' or 'torch'."
        )


def takes_kernels(
    backend: str,
    mode: RecurrentMode,
    gate: Float[Tensor, "batch kv_head pos _"],
    *,
    width: int,
    dtype: torch.dtype,
    compat: str | None = None,
) -> bool:
    """Whether kernels of flash-linear-attention shall compute a mode.

    They are for CUDA, half precision, linear modes and one gate for each head. "auto" takes them
    there and nowhere else; not while a graph is compiled, which they would break.

    Args:
        backend: One of `BACKENDS`.
        mode: What is done at each token.
        gate: As it will be given to them.
        width: Features of a head.
        dtype: What they shall compute in.
        compat: See `LinearAttentionOp`.

    Raises:
        ArgumentError: (a ValueError) If "fla" is asked for, and something of this is not so.
        MissingDependencyError: (an ImportError) If it is not installed.
    """
    if backend == "torch" or (backend == "auto" and not _is_on_gpu(gate)):
        return False
    check_backend(backend, mode, compat)
    lacking = {
        f"tensors on a CUDA device, not on {gate.device.type!r}: move the model and its inputs": (
            _is_on_gpu(gate)
        ),
        f"half precision, not {dtype!r}: use linear_precision='bfloat16'": dtype in _HALF,
        "one gate for each head: use gate_granularity='head'": gate.shape[-1] == 1 or width == 1,
        f"heads of {_WIDEST_HEAD} features at most, not {width!r}": width <= _WIDEST_HEAD,
    }
    missing = [what for what, is_there in lacking.items() if not is_there]
    if backend == "auto":
        is_linear = mode.linear and compat is None
        return not missing and is_linear and _is_installed() and not torch.compiler.is_compiling()
    if missing:
        raise ArgumentError(f"backend='fla' needs {missing[0]}, or use backend='auto' or 'torch'.")
    return True


def run_kernels(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head virtual_pos d_head"],
    v: Float[Tensor, "batch kv_head virtual_pos d_head"],
    gate: Float[Tensor, "batch kv_head virtual_pos 1"],
    *,
    state: Float[Tensor, "batch kv_head d_head d_head"] | None,
    order: int,
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head d_head d_head"]]:
    """Do what `delta_rule_chunk` does; arguments and results are its own, the state in float32."""
    groups = q.shape[1] // k.shape[1]
    kernels = _load()

    def arrange(x: Tensor) -> Tensor:
        """Heads behind positions, as many of them as there are queries."""
        return x.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous()

    options: dict[str, Any] = {"scale": 1.0, "output_final_state": True}
    if state is not None:
        options["initial_state"] = state.float().repeat_interleave(groups, dim=1)
    query = q.transpose(1, 2).contiguous()
    key, value, beta = arrange(k), arrange(v), arrange(gate).squeeze(-1)
    if order == 1:
        out, last = kernels.rule(query, key, value, beta, **options)
    else:
        out, last = kernels.product(query, key, value, None, beta, order, **options)
    return out.transpose(1, 2), last[:, ::groups].contiguous()


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("fla") is not None


@functools.cache
def _load() -> Kernels:
    from fla.ops.delta_rule import chunk_delta_rule  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - an extra
    from fla.ops.gated_delta_product import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        chunk_gated_delta_product,
    )

    return Kernels(rule=chunk_delta_rule, product=chunk_gated_delta_product)


def _is_on_gpu(x: Tensor) -> bool:
    return x.is_cuda

"""Inputs such as a layer makes: keys of norm 1, gates between 0 and 1."""

import pytest
import torch
from torch.nn.functional import normalize, silu


def draw_inputs(batch=2, heads=2, kv_heads=2, pos=9, width=4, *, seed=0, head_gate=False):
    """Queries, keys, values and gates in float64."""
    generator = torch.Generator().manual_seed(seed)

    def noise(n_heads, size):
        return torch.randn(batch, n_heads, pos, size, generator=generator, dtype=torch.float64)

    return (
        normalize(silu(noise(heads, width)), dim=-1),
        normalize(silu(noise(kv_heads, width)), dim=-1),
        noise(kv_heads, width),
        torch.sigmoid(2 * noise(kv_heads, 1 if head_gate else width)),
    )


@pytest.fixture(scope="session")
def draw():
    return draw_inputs

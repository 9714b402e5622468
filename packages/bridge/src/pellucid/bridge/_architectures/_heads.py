"""How many heads an attention module has, and where each projection keeps them."""

import dataclasses
from typing import Any

from torch import nn

from pellucid.bridge._architectures._record import Fusion
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._views import Heads, HeadSpan, Interleaved, Span, View
from pellucid.bridge._weights._projections import width_out

_QUERY_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
_STREAMS = ("hidden_size", "n_embd", "d_model", "model_dim", "emb_dim", "dim", "embed_dim")
_WIDTHS = ("head_dim", "d_head", "qk_head_dim", "attention_head_size", "key_value_proj_dim")


def read_width(config: Any) -> int:
    """Return how wide the residual stream is.

    Raises:
        ArchitectureError: If a configuration does not say.
    """
    found = _read(config, _STREAMS)
    if found is None:
        raise ArchitectureError(
            f"{type(config).__name__} does not say how wide the residual stream is. Give it a "
            "hidden_size."
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadCounts:
    """The heads of one attention module.

    Attributes:
        queries: Of queries.
        keys: Of keys and values.
        d_head: Width of one.
    """

    queries: int
    keys: int
    d_head: int


def count_heads(module: nn.Module, config: Any) -> HeadCounts:
    """Return a module's heads as it says itself, else as the configuration says.

    Raises:
        ArchitectureError: If neither says.
    """
    # What a module says of itself holds for its layer; a configuration speaks of most layers.
    queries = _read(module, _QUERY_HEADS) or _read(config, _QUERY_HEADS)
    if queries is None:
        raise ArchitectureError(f"{type(module).__name__} does not say how many heads it has.")
    keys = _read(module, _KEY_HEADS)
    groups = _read(module, ("num_key_value_groups",))
    if keys is None and groups:
        keys = queries // groups
    keys = keys or _read(config, _KEY_HEADS) or queries
    width = _read(module, _WIDTHS) or _read(config, _WIDTHS)
    return HeadCounts(queries=queries, keys=keys, d_head=width or read_width(config) // queries)


def view_projection(module: nn.Module, heads: HeadCounts, which: str) -> tuple[View, int]:
    """Return the view by head of a projection of its own, and how many heads it shows."""
    n_heads = heads.queries if which == "q" else heads.keys
    width = width_out(module)
    if which == "q" and width == 2 * heads.queries * heads.d_head:
        # The second half of each head is a gate on what it gathers: Qwen3-Next.
        return HeadSpan(heads.queries, 0, heads.d_head), heads.queries
    if width is not None and width % heads.d_head == 0:
        # The weight knows best: latent attention and padded heads differ from what is declared.
        n_heads = width // heads.d_head
    return Heads(n_heads), n_heads


def view_latent(
    projection: nn.Module, module: nn.Module, config: Any, which: str
) -> tuple[View, int]:
    """Return the view of keys or values in a projection of a latent, and how many heads it shows.

    Raises:
        ArchitectureError: If neither the module nor the configuration says how wide they are.
    """
    d_key = _read(module, ("qk_nope_head_dim",)) or _read(config, ("qk_nope_head_dim",))
    d_value = _read(module, ("v_head_dim",)) or _read(config, ("v_head_dim",))
    width = width_out(projection)
    if d_key is None or d_value is None or width is None or width % (d_key + d_value):
        raise ArchitectureError(
            f"{type(module).__name__} does not say how wide its keys and values are."
        )
    n_heads = width // (d_key + d_value)
    start, stop = (0, d_key) if which == "k" else (d_key, d_key + d_value)
    return HeadSpan(n_heads, start, stop), n_heads


def view_fused(module: nn.Module, heads: HeadCounts, fusion: Fusion, which: str) -> View:
    """Return the view of queries, keys or values in a fused projection."""
    n_q, n_kv, d = heads.queries, heads.keys, heads.d_head
    if fusion == "spans":
        start, stop, n = {
            "q": (0, n_q * d, n_q),
            "k": (n_q * d, (n_q + n_kv) * d, n_kv),
            "v": ((n_q + n_kv) * d, (n_q + 2 * n_kv) * d, n_kv),
        }[which]
        return Span(start, stop, n)
    if fusion == "heads":
        place = "qkv".index(which)
        return Interleaved(n_q, 3, place, place + 1, n_q)
    if fusion == "groups":
        n_shared = n_q // n_kv
        start, stop = {
            "q": (0, n_shared),
            "k": (n_shared, n_shared + 1),
            "v": (n_shared + 1, n_shared + 2),
        }[which]
        return Interleaved(n_kv, n_shared + 2, start, stop, n_q if which == "q" else n_kv)
    place = "qvk".index(which)
    return Interleaved(4, 3, place, place + 1, n_q)


def _read(holder: Any, names: tuple[str, ...]) -> int | None:
    found = (_read_one(holder, name) for name in names)
    return next((held for held in found if isinstance(held, int) and held > 0), None)


def _read_one(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except (AttributeError, ValueError, RuntimeError):
        # Some configurations refuse to say what differs from layer to layer.
        return None

"""Short names of activations, written out."""

import re

# Several words for one thing, as people write them.
_LAYER_TYPES = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_NAMES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_IN_ATTENTION = frozenset(
    {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"}
)
_IN_MLP = frozenset({"pre", "post", "mid", "pre_linear"})
_COMPACT = re.compile(r"([a-z][a-z_]*?)_?(\d+)([a-z]*\d?[a-z_]*)")


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """Return an activation's full name from a short one.

    Examples:
        >>> get_act_name("resid_pre", 3)
        'blocks.3.hook_resid_pre'
        >>> get_act_name("k6")
        'blocks.6.attn.hook_k'
        >>> get_act_name("scale4ln1")
        'blocks.4.ln1.hook_scale'
        >>> get_act_name("embed")
        'hook_embed'

    Args:
        name: A short name, such as "resid_pre", "q", "pattern" or "k6", or a full one.
        layer: The block, if the activation belongs to one.
        layer_type: The part of the block, such as "attn", "mlp" or "ln1".

    Returns:
        The full name. Whether the model has it is another question.
    """
    is_full = "." in name or name.startswith("hook_")
    if is_full and layer is None and layer_type is None:
        return name
    compact = _COMPACT.fullmatch(name) if layer is None else None
    if compact:
        name, layer, found = compact.groups()
        layer_type = found or layer_type
    layer_type = _LAYER_TYPES.get(layer_type or "", layer_type)
    name = _NAMES.get(name, name)
    if name in _IN_ATTENTION:
        layer_type = "attn"
    elif name in _IN_MLP:
        layer_type = "mlp"
    elif name in ("scale", "normalized") and layer is None and not layer_type:
        return f"ln_final.hook_{name}"
    parts = [f"blocks.{layer}"] if layer is not None else []
    parts += [layer_type] if layer_type else []
    return ".".join([*parts, f"hook_{name}"])

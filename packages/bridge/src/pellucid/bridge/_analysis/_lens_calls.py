"""The logit lens over all forward passes that somebody makes, such as the steps of a sampler."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._analysis._lens import LogitLens
from pellucid.bridge._caches._readout import find_readout
from pellucid.bridge._names._describe import find_part
from pellucid.core import ArgumentError


def trace_lens(model: Any, call: Callable[[], Any], *, k: int = 5) -> list[LogitLens]:
    """Return the lens of every forward pass that a function makes of the original model.

    Whoever samples from a model calls it many times; a denoiser is shown here at work, step by
    step, also one whose texts grow: each lens has the `input_ids` of its pass. The streams of all
    positions are read with the model's own last norm and projection, or, where a record names a
    "readout", with that module and whatever it was given in that pass.

    Args:
        model: A bridge.
        call: Calls the original model; what it returns is dropped.
        k: How many of the best tokens.

    Returns:
        One for each pass, in their order.

    Raises:
        ArchitectureError: (a ValueError) If logits are not made of the last stream in either way.
        ArgumentError: (a ValueError) If k does not lie within the vocabulary.
    """
    if not 1 <= k <= model.cfg.d_vocab_out:
        raise ArgumentError(f"k must lie in 1..{model.cfg.d_vocab_out}, got {k!r}.")
    passes: list[LogitLens] = []
    streams: list[Tensor] = []
    ids: list[Tensor] = []
    n = model.cfg.n_layers
    labels = (*(f"{number}_pre" for number in range(n)), "final_post")

    def finish(read: Callable[[Tensor], Tensor]) -> None:
        if not streams:
            return
        with torch.no_grad():
            best = [read(stream).float().softmax(-1).topk(k, dim=-1) for stream in streams]
        streams.clear()
        tokens, probs = (torch.stack([getattr(b, f) for b in best]) for f in ("indices", "values"))
        given = ids.pop() if ids else None
        passes.append(LogitLens(labels=labels, tokens=tokens, probs=probs, input_ids=given))

    def note(tokens: Tensor, hook: Any) -> None:
        ids[:] = [tokens.clone()]

    def keep(stream: Tensor, hook: Any) -> None:
        streams.append(stream.detach())

    module = find_part(model.original_model, model.adapter.parts.get("readout"))
    readout = find_readout(model) if module is None else None

    def end(stream: Tensor, hook: Any) -> None:
        keep(stream, hook)
        if readout is not None:
            finish(readout)

    hooks: list[Any] = [(("resid_pre", number), keep) for number in range(n)]
    hooks.append((("resid_post", n - 1), end))
    if "embed.hook_in" in model.hook_table():
        hooks.append(("embed.hook_in", note))
    with _watching(module, finish), model.hooks(fwd_hooks=hooks), model.running():
        call()
    return passes


@contextmanager
def _watching(
    module: nn.Module | None, finish: Callable[[Callable[[Tensor], Tensor]], None]
) -> Generator[None]:
    """Hand on what a readout makes of a stream, whenever it has been called."""
    if module is None:
        yield
        return

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        # Whoever wants the logits of some positions says which; a lens shows all.
        rest = {**kwargs, "where": None} if "where" in kwargs else kwargs
        finish(lambda stream: module.forward(stream, *args[1:], **rest))

    handle = module.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

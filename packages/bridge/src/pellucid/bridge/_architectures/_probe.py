"""How a model's modules hand tensors to each other, seen in one small forward pass."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

N_TOKENS = 3


@dataclasses.dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        module: The module.
        taken: Its main input, as it was then; None if that is no tensor.
        given: Its main output, as it was then.
        arguments: Every tensor that it was given, the main input first.
        items: Everything that it returned, in order; one item for a bare tensor.
        is_bare: Whether it returned a bare tensor.
    """

    module: nn.Module
    taken: Tensor | None
    given: Tensor | None
    arguments: tuple[Tensor, ...]
    items: tuple[Any, ...]
    is_bare: bool


class Trace:
    """All calls of one forward pass.

    Args:
        calls: In the order in which they ended.
        writes_in_place: Whether the model wrote into what a module had given.
    """

    def __init__(self, calls: list[Call], *, writes_in_place: bool) -> None:
        self.writes_in_place = writes_in_place
        self.calls = calls
        self._by_module: dict[nn.Module, list[int]] = {}
        for place, call in enumerate(calls):
            self._by_module.setdefault(call.module, []).append(place)

    def first(self, module: nn.Module | None) -> Call | None:
        """Return a module's first call, None if it was not called."""
        places = self._by_module.get(module) if module is not None else None
        return None if not places else self.calls[places[0]]

    def place(self, module: nn.Module) -> int:
        """Return when a module was called first; after all others if it was not."""
        return self._by_module.get(module, [len(self.calls)])[0]

    def has(self, module: nn.Module) -> bool:
        """Say whether a module was called."""
        return module in self._by_module


def trace_forward(model: nn.Module) -> Trace:
    """Run a model once on a few tokens and return its calls.

    Nothing of the model is changed; neither is the global random state, as far as the model is in
    evaluation mode.
    """
    calls: list[Call] = []
    versions: list[tuple[Tensor, int]] = []
    record = _recorder(calls, versions)
    handles = [m.register_forward_hook(record, with_kwargs=True) for m in model.modules()]
    try:
        run_probe(model)
    finally:
        for handle in handles:
            handle.remove()
    # A hook sees a module when it ends; the order that is wanted is that of what it was given.
    return Trace(calls, writes_in_place=any(t._version != version for t, version in versions))


def run_probe(model: Any) -> Tensor:
    """Return the logits of a forward pass on a few tokens, in evaluation mode and no gradients."""
    was_training = {module for module in model.modules() if module.training}
    try:
        model.eval()
        with torch.no_grad():
            output = model(**probe_inputs(model))
    finally:
        for module in was_training:
            module.training = True
    logits = getattr(output, "logits", None)
    return output[0] if logits is None else logits


def probe_inputs(model: Any) -> dict[str, Any]:
    """Return the smallest inputs that a model runs on."""
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    # Who has no configuration has tables all the same.
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    n_known = getattr(text_config, "vocab_size", min(tables, default=N_TOKENS))
    top = max(int(n_known) - 1, 1)
    device = next(model.parameters()).device
    ids = torch.tensor([[5, 6, 7]], device=device).clamp(max=top)[:, :N_TOKENS]
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}
    return {"input_ids": ids}


def _recorder(calls: list[Call], versions: list[tuple[Tensor, int]]) -> Any:
    def record(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        arguments = tuple(a.clone() for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        main = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))
        if main is None:
            main = next((a for a in kwargs.values() if isinstance(a, Tensor)), None)
        items = _list_items(output)
        first = next((item for item in items if isinstance(item, Tensor)), None)
        if first is not None and not first.is_inference():
            versions.append((first, first._version))
        calls.append(
            Call(
                module=module,
                taken=main.clone() if isinstance(main, Tensor) else None,
                given=None if first is None else first.clone(),
                arguments=arguments,
                items=tuple(i.clone() if isinstance(i, Tensor) else None for i in items),
                is_bare=isinstance(output, Tensor),
            )
        )

    return record


def _list_items(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Tensor):
        return (output,)
    if hasattr(output, "values"):
        return tuple(output.values())
    return tuple(output) if isinstance(output, (tuple, list)) else ()


def is_same(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether two tensors hold the same numbers, in whichever shape."""
    if a is None or b is None or a.numel() != b.numel() or a.dtype != b.dtype:
        return False
    return torch.equal(a.flatten(), b.flatten())


def is_sum(total: Tensor | None, *terms: Tensor | None, tolerance: float = 1e-5) -> bool:
    """Say whether a tensor is the sum of others, as far as rounding lets one see.

    Args:
        total: The tensor.
        *terms: The others.
        tolerance: Relative to the largest entry; half precision gets more.
    """
    if total is None or not total.is_floating_point():
        return False
    made = total.float().flatten()
    scale = made.abs().max().clamp(min=1e-6)
    for term in terms:
        if term is None or term.numel() != total.numel():
            return False
        scale = torch.maximum(scale, term.abs().max().float())
        made = made - term.float().flatten()
    if total.dtype not in (torch.float32, torch.float64):
        tolerance = 3e-2
    return bool(made.abs().max() <= tolerance * scale)

"""What weight processing needs to know of a model: found once, before anything is changed."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._heads import read_width
from pellucid.bridge._architectures._norms import NormFormula, find_formula
from pellucid.bridge._architectures._probe import Trace, trace_forward
from pellucid.bridge._engine._plan import Functions, compile_execution
from pellucid.bridge._model._state import text_config
from pellucid.bridge._model._weighing import Weighing
from pellucid.bridge._names._describe import find_part, list_blocks
from pellucid.bridge._names._describe_parts import BlockView
from pellucid.bridge._names._points import HookPoint
from pellucid.bridge._weights._table import WeightSpec
from pellucid.core import ArgumentError

_N_PROBE = (2, 8)


class Ground:
    """A model's facts, and trial runs of it.

    Args:
        bridge: The bridge.
        probe: Token ids of shape (batch, pos) to try the model on; ids drawn from its vocabulary
            if None.
    """

    def __init__(self, bridge: Weighing, probe: Tensor | None = None) -> None:
        self.bridge = bridge
        self.model: Any = bridge.original_model
        self.record = bridge.adapter
        self.config = text_config(bridge.hf_config)
        self.width = read_width(self.config)
        self._probe = probe

    @property
    def weights(self) -> Mapping[str, WeightSpec]:
        """The weights by name, as they are now."""
        return self.bridge.weight_table()

    def blocks(self) -> Iterator[BlockView]:
        """Yield all blocks of all stacks."""
        for stack in self.record.stacks:
            for number, block in enumerate(list_blocks(self.model, stack)):
                yield BlockView(
                    block=block, record=stack.others.get(number, stack.block),
                    name=f"{stack.name}.{number}", layer=number, config=self.config,
                )  # fmt: skip

    def parts(self, ending: str) -> Iterator[tuple[str, Any]]:
        """Yield the parts outside of blocks whose names end so, those that the model has."""
        for name, path in self.record.parts.items():
            module = find_part(self.model, path)
            if name.endswith(ending) and module is not None:
                yield name, module

    def formula(self, norm: nn.Module) -> NormFormula | None:
        """Return what a norm computes, None if it is no formula known."""
        return find_formula(norm, self.width)

    @cached_property
    def paths(self) -> dict[nn.Module, str]:
        """Each module's path in the model."""
        return {module: path for path, module in self.model.named_modules()}

    @cached_property
    def trace(self) -> Trace:
        """One forward pass on a few tokens."""
        return trace_forward(self.model)

    def make_inputs(self, probe: Tensor | None = None) -> dict[str, Any]:
        """Return what the model is tried on.

        Args:
            probe: Token ids of shape (batch, pos); drawn from the vocabulary if None.

        Raises:
            ArgumentError: (a ValueError) If the probe is no batch of token ids.
        """
        if probe is None:
            top = max(int(getattr(self.config, "vocab_size", 8)), 8)
            generator = torch.Generator().manual_seed(0)
            probe = torch.randint(3, top, _N_PROBE, generator=generator)
        if probe.ndim != 2 or probe.is_floating_point():
            raise ArgumentError(
                f"probe must be token ids of shape (batch, pos), got {probe.dtype} of shape "
                f"{tuple(probe.shape)}."
            )
        ids = probe.to(self.bridge.device)
        if getattr(self.bridge.hf_config, "is_encoder_decoder", False):
            return {"input_ids": ids, "decoder_input_ids": ids}
        return {self.bridge.adapter.input_name: ids}

    def log_probs(self) -> Tensor:
        """Return the model's log-probabilities on the probe, (batch, pos, d_vocab), in float32."""
        return self._run(self.make_inputs(self._probe)).float().log_softmax(-1)

    def predict(self) -> Tensor:
        """Return its log-probabilities on drawn tokens, in its own dtype."""
        return self._run(self.make_inputs()).log_softmax(-1)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return activations on drawn tokens by name, those that the model has."""
        table = self.bridge.hook_table()
        resolved = {name: table.resolve(name) for name in names if name in table}
        held: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: HookPoint) -> None:
            held.setdefault(hook.name, value.detach().clone())

        functions = Functions()
        for name in dict.fromkeys(resolved.values()):
            functions.add(name, keep)
        points = {point.name: point for point in self.bridge.hook_points()}
        with compile_execution(functions, table, points):
            self._run(self.make_inputs())
        return {name: held[found] for name, found in resolved.items() if found in held}

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        was_training = [module for module in self.model.modules() if module.training]
        try:
            self.model.eval()
            with torch.no_grad():
                output = self.model(**inputs)
        finally:
            for module in was_training:
                module.training = True
        logits = getattr(output, "logits", None)
        return output[0] if logits is None else logits

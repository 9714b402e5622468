"""What a bridge holds: a model, its table of activations and its hook points."""

from collections.abc import Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._described import read_config
from pellucid.bridge._architectures._infer import infer_architecture
from pellucid.bridge._architectures._record import Architecture
from pellucid.bridge._architectures._registry import find_record
from pellucid.bridge._engine._compiled import run_eagerly
from pellucid.bridge._engine._execution import Enter
from pellucid.bridge._engine._plan import Functions, Plans
from pellucid.bridge._engine._taps import Passing, RowsOf
from pellucid.bridge._names._config import TransformerBridgeConfig
from pellucid.bridge._names._describe import describe_model, find_part, list_blocks
from pellucid.bridge._names._points import HookPoint
from pellucid.bridge._names._table import HookTable


class BridgeState(nn.Module):
    """The parts of a bridge that its methods share.

    Args:
        model: A model of transformers.
        adapter: What it is; found by its class, else by its structure, when omitted.
        tokenizer: Its tokenizer, for inputs that are text.
        config: Its configuration, for modules that hold none.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Architecture | None = None,
        tokenizer: Any = None,
        *,
        config: Any = None,
    ) -> None:
        super().__init__()
        self.original_model: Any = model
        # Found at once there, and not after all that torch looks through for a module.
        self.__dict__["original_model"] = model
        self.hf_config: Any = read_config(model) if config is None else config
        self.training = model.training
        self.adapter = adapter or find_record(model) or infer_architecture(model, self.hf_config)
        self.tokenizer = tokenizer
        self.processor: Any = None
        self.compatibility_mode = False
        if isinstance(config, TransformerBridgeConfig):
            self.cfg = config
        else:
            self.cfg = TransformerBridgeConfig.from_model(model, self.adapter, self.hf_config)
        self._stacks = {s.name: list_blocks(model, s) for s in self.adapter.stacks}
        n_layers = max(map(len, self._stacks.values()))
        specs = describe_model(model, self.adapter, text_config(self.hf_config))
        self._table = HookTable(specs, n_layers)
        # Which points have hooks, so that a run need not look at all of them.
        self._attached: set[str] = set()
        self._points = {name: HookPoint(name, self._attached) for name in self._table}
        aliases = {alias: self._points[name] for alias, name in self._table.aliases.items()}
        self._hook_dict = MappingProxyType({**self._points, **aliases})
        self._modules_by_name = _find_components(self._table)
        # What users compile: all of it, or its blocks.
        self._compilable = (model, *(b for stack in self._stacks.values() for b in stack))
        self._context: ContextVar[tuple[Functions, ...]] = ContextVar("hooks", default=())
        self._plans: Plans = {}
        self._all_names: dict[frozenset[str], list[str]] = {}
        self._undo_boot: list[Any] = []
        self._n_items: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        table: Any = find_part(self.original_model, self.adapter.parts.get("embed"))
        if table is None:
            find = getattr(self.original_model, "get_input_embeddings", None)
            table = self.original_model if find is None else find()
        weight = getattr(table, "weight", None)
        found = (weight if isinstance(weight, Tensor) else next(table.parameters())).device
        if found.type == "meta":
            # Weights that accelerate keeps elsewhere come to where their layer runs.
            found = torch.device(
                getattr(getattr(table, "_hf_hook", None), "execution_device", "cpu")
            )
        return found

    def _enter(self) -> tuple[Enter, ...]:
        """Return what every run with hooks does at its start."""
        return run_eagerly(self._compilable)

    def _first_stack(self) -> Sequence[nn.Module]:
        return next(iter(self._stacks.values()))


def text_config(config: Any) -> Any:
    """Return that part of a configuration that concerns text, if it has several."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _find_components(table: HookTable) -> MappingProxyType[str, nn.Module | None]:
    found: dict[str, nn.Module | None] = {}
    for name, spec in table.items():
        owner, _, place = name.rpartition(".")
        if not owner:
            continue
        tap = spec.tap.tap if isinstance(spec.tap, RowsOf) else spec.tap
        module = None
        if isinstance(tap, Passing) and (
            place == "hook_in" or (place == "hook_out" and tap.is_whole)
        ):
            module = tap.module
        if found.get(owner) is None:
            found[owner] = module
    return MappingProxyType(found)

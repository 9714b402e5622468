"""The metrics of a harness, by split and by loader."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from pellucid.core import UnknownNameError
from pellucid.xlm._building import instantiate
from pellucid.xlm.metrics import NatsPerToken

_GROUPS = ("reported_metrics", "diagnostic_metrics")


class MetricTable(nn.ModuleDict):
    """Wrapped metrics that follow the harness to its device.

    Args:
        wrappers: Split to loader to the wrappers that see its batches.
    """

    def __init__(self, wrappers: Mapping[str, Mapping[str, list[Any]]]) -> None:
        super().__init__()
        self.wrappers = {
            (split, loader): list(found)
            for split, loaders in wrappers.items()
            for loader, found in loaders.items()
        }
        for index, wrapper in enumerate(each for held in self.wrappers.values() for each in held):
            self[str(index)] = wrapper

    @classmethod
    def from_config(cls, cfg: Any, names: Mapping[str, Any]) -> "MetricTable":
        """Build what `reported_metrics` and `diagnostic_metrics` say.

        Args:
            cfg: The whole configuration; both nest split, loader, name.
            names: Split to the names of its loaders; empty for no check of the names.

        Raises:
            UnknownNameError: A metric is for a loader that is not there.
        """
        table: dict[str, dict[str, list[Any]]] = {}
        for key, split, loader, name, node in _nodes(cfg):
            if split in names and loader not in names[split]:
                raise UnknownNameError(f"{split} loader in {key}", loader, names[split])
            named = {"name": node.get("name") or name}
            if not node.get("prefix"):
                named["prefix"] = f"{split}/{loader}"
            wrapper = instantiate(node, f"{key}.{split}.{loader}.{name}", **named)
            table.setdefault(split, {}).setdefault(loader, []).append(wrapper)
        return cls(table)

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]  # no dict's update is meant
        self, split: str, loader: str, batch: Any, out: Any, tokenizer: Any
    ) -> None:
        """Show a batch and what came of it to the metrics of its loader."""
        for wrapper in self.wrappers.get((split, loader), ()):
            wrapper.update(batch, out, tokenizer)

    def collect(self, split: str) -> dict[str, Any]:
        """Return the value of every metric of a split that saw a batch, and start each anew."""
        values: dict[str, Any] = {}
        for (at, _), wrappers in self.wrappers.items():
            for wrapper in wrappers if at == split else ():
                if wrapper.metric.update_called:
                    values[wrapper.log_name] = wrapper.compute()
                wrapper.reset()
        return values

    def per_sample(self, split: str, loader: str) -> dict[str, list[float]]:
        """Return what each sample of the last batch scored, as `metric_NAME`."""
        wrappers = self.wrappers.get((split, loader), ())
        scored = ((wrapper.name, wrapper.computed_value) for wrapper in wrappers)
        return {f"metric_{name}": values for name, values in scored if values is not None}

    def needs_bound(self, split: str, loader: str) -> bool:
        """Say whether a metric of a loader is about the likelihood."""
        wrappers = self.wrappers.get((split, loader), ())
        return any(isinstance(wrapper.metric, NatsPerToken) for wrapper in wrappers)


def _nodes(cfg: Any) -> Iterator[tuple[str, str, str, str, Any]]:
    for key in _GROUPS:
        tree = OmegaConf.select(cfg, key) if isinstance(cfg, DictConfig) else cfg.get(key)
        for split, loaders in (tree or {}).items():
            for loader, metrics in (loaders or {}).items():
                for name, node in (metrics or {}).items():
                    if node is not None:
                        yield key, str(split), str(loader), str(name), node


__all__ = ["MetricTable"]

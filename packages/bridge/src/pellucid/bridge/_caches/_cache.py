"""Cached activations of one run."""

import os
from typing import Any

import torch

from pellucid.bridge._caches._files import CacheFile, StoredActivations, read_about, write_cache
from pellucid.bridge._caches._neurons import NeuronActivations
from pellucid.bridge._caches._states import StateActivations
from pellucid.bridge._errors import CacheFileError
from pellucid.bridge._names._slices import Slice
from pellucid.core import ArgumentError


class ActivationCache(StateActivations, NeuronActivations):
    """Activations by name: canonical, alias, or short with the layer.

    Each tensor is held once, under its canonical name; aliases are looked up. What is not held and
    follows from what is (a head's result from z, a norm's scale from what it takes, ...) is made
    when it is read. Gradients stand under the name with "_grad" after it.

    Examples:
        `cache["blocks.0.attn.hook_pattern"]`, `cache["pattern", 0]`, `cache["resid_post", -1]`.

    Args:
        cache_dict: Canonical name to activation.
        model: The bridge that they come from.
        has_batch_dim: Whether the first axis is that of the batch.
        aliases: Other names of what is held, where there is no model to say.
    """

    def remove_batch_dim(self, batch_size: int | None = None) -> "ActivationCache":
        """Drop the axis of the batch, which must hold one sample; returns the cache itself.

        A second time does nothing. What has no such axis stays as it is.

        Args:
            batch_size: How many samples there are; found out when omitted.

        Raises:
            ArgumentError: (a ValueError) If the batch holds several samples.
        """
        if not self.has_batch_dim:
            return self
        size = self._batch_size() if batch_size is None else batch_size
        if size != 1:
            raise ArgumentError(
                f"the batch holds {size} samples, so its axis cannot be dropped. Choose one: "
                "cache.apply_slice_to_batch_dim(0)."
            )
        names = set(self._batch_names())
        self.cache_dict = {n: v[0] if n in names else v for n, v in self.cache_dict.items()}
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ActivationCache":
        """Return a cache of some samples; of one alone, without the axis of the batch.

        Raises:
            ArgumentError: (a ValueError) If there is no such axis.
        """
        if not self.has_batch_dim:
            raise ArgumentError("the axis of the batch has been dropped already.")
        chosen, size = Slice(batch_slice), self._batch_size()
        has_batch_dim = chosen.mode != "int"

        def choose(held: torch.Tensor) -> torch.Tensor:
            # Position embeddings stand there once for all samples.
            if len(held) == 1 < size:
                return held if has_batch_dim else held[0]
            return chosen.apply(held)

        names = set(self._batch_names())
        made = {n: choose(v) if n in names else v for n, v in self.cache_dict.items()}
        return type(self)(made, self.model, has_batch_dim=has_batch_dim, aliases=self._aliases)

    def to(self, device: torch.device | str) -> "ActivationCache":
        """Move all activations to a device; returns the cache itself."""
        self.cache_dict = {name: held.to(device) for name, held in self.cache_dict.items()}
        return self

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Switch gradients of this thread on or off, everywhere, as `torch.set_grad_enabled` does.

        It is there because users of TransformerLens know it; `torch.no_grad()` is a context, and
        what a cache computes has no gradients of weights in any case.
        """
        torch.set_grad_enabled(mode)

    def logit_lens(self, **kwargs: Any) -> Any:
        """Return the logits that each stream would give; see `accumulated_resid` for arguments.

        Returns:
            Of shape (component, [batch], pos, d_vocab), and labels if asked for.
        """
        from pellucid.bridge._caches._readout import read_out  # noqa: PLC0415 - it reads caches

        made = self.accumulated_resid(**kwargs)
        stack, labels = made if isinstance(made, tuple) else (made, None)
        logits = read_out(self.bridge, stack)
        return logits if labels is None else (logits, labels)

    # On disk.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to a file of safetensors, which appears whole or not at all.

        Activations that share memory are written once.
        """
        write_cache(path, self.cache_dict, self._about())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Any = None,
        *,
        device: torch.device | str = "cpu",
        lazy: bool = False,
    ) -> "ActivationCache":
        """Read a cache that `save` has written.

        Args:
            path: The file.
            model: The bridge that it comes from. Without it names work, and what needs weights is
                refused.
            device: Where to read to.
            lazy: Whether to leave activations in the file and read each one when it is asked for.

        Raises:
            CacheFileError: (a ValueError) If the file is damaged, no cache, of another release, or
                of another model.
        """
        about = read_about(path)
        if model is not None:
            _check_model(about, model, path)
        stored = StoredActivations(path, about, device)
        held: Any = stored if lazy else _read_all(stored, about)
        made = cls(held, model, has_batch_dim=about.has_batch_dim, aliases=about.aliases)
        made._origin = about.model
        return made

    def offload(self, path: str | os.PathLike[str]) -> "ActivationCache":
        """Write the cache to a file and keep it there; returns the cache itself.

        From then on each activation is read when it is asked for, so the file must stay.
        """
        self.save(path)
        self.cache_dict = StoredActivations(path, read_about(path))
        return self

    def _about(self) -> CacheFile:
        aliases = dict(self._aliases)
        if self.model is not None:
            found = self._table.aliases.items()
            aliases = {alias: name for alias, name in found if name in self.cache_dict}
        return CacheFile(
            model=self._origin if self.model is None else _name_of(self.model),
            has_batch_dim=self.has_batch_dim,
            order=list(self.cache_dict),
            same={},
            aliases=aliases,
        )


def _name_of(model: Any) -> str:
    return type(model.original_model).__name__


def _read_all(stored: StoredActivations, about: CacheFile) -> dict[str, torch.Tensor]:
    held: dict[str, torch.Tensor] = {}
    for name in about.order:
        first = about.same.get(name)
        held[name] = stored[name] if first is None else held[first]
    return held


def _check_model(about: CacheFile, model: Any, path: str | os.PathLike[str]) -> None:
    kind, table = _name_of(model), model.hook_table()
    unknown = [name for name in about.order if name.removesuffix("_grad") not in table]
    if about.model != kind or unknown:
        what = f"has no activation {unknown[0]!r}" if unknown else f"is a {kind}"
        raise CacheFileError(
            f"{os.fspath(path)!r} comes from a {about.model}, and the model given {what}."
        )

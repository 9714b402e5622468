"""Edge attribution patching: how much each edge of the graph of heads and MLPs carries."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.bridge._analysis._patch_runs import read_tokens
from pellucid.bridge._analysis._patching import Metric
from pellucid.bridge._engine._gradients import take_gradients
from pellucid.bridge._errors import ArchitectureError
from pellucid.bridge._names._table import HookTable
from pellucid.bridge._weights._writers import bare_tap, list_writers


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeScores:
    """Scores of the edges between what writes to the residual stream and what reads it.

    Attributes:
        scores: Of shape (row, column), 0 where there is no edge.
        exists: Whether there is an edge, of the same shape.
        sources: What writes: "input", heads "a0.h1", MLPs "m0", mixers "mixer0".
        targets: What reads: heads by what they make of it, "a1.h0<q>", MLPs "m1", and "logits".
    """

    scores: Float[Tensor, "row column"]
    exists: Bool[Tensor, "row column"]
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def score(self, source: str, target: str) -> float:
        """Return the score of one edge."""
        return float(self.scores[self.sources.index(source), self.targets.index(target)])

    def top(self, k: int = 10) -> list[tuple[str, str, float]]:
        """Return the k edges whose scores are largest by magnitude: source, target, score."""
        sizes = self.scores.abs().masked_fill(~self.exists, -1.0).reshape(-1)
        best = sizes.topk(min(k, int(self.exists.sum()))).indices.tolist()
        pairs = [divmod(place, len(self.targets)) for place in best]
        return [(self.sources[i], self.targets[j], float(self.scores[i, j])) for i, j in pairs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
    """What reads the stream: an activation, one head of it or all, and which sources it sees."""

    label: str
    name: str
    head: int | None
    n_sources: int
    norm: Any = None
    stream: str | None = None


def edge_attribution_patch(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Any,
    corrupted_cache: Any,
    patching_metric: Metric,
    *,
    attention_mask: Tensor | None = None,
) -> EdgeScores:
    """Return how much patching each edge alone would change a metric, to first order.

    Syed et al. 2023, "Attribution patching outperforms automated circuit discovery". The score of
    an edge is the difference that its source makes to the stream, times the gradient at what its
    target reads, summed over samples and positions. One forward and one backward pass.

    Args:
        model: A bridge.
        corrupted_tokens: The input of the run: ids of shape (batch, pos), or text.
        clean_cache: Activations of another run, of the same shape.
        corrupted_cache: Activations of a run on the corrupted tokens.
        patching_metric: Of the logits, one number; differentiable.
        attention_mask: 0 where a position is padding.

    Raises:
        ArgumentError: (a ValueError) If the metric is not differentiable.
        ArchitectureError: (a ValueError) If it is not known what adds to the stream or reads it.
    """
    tokens = read_tokens(model, corrupted_tokens)
    sources, before, after = _list_sources(model)
    differences = _take_differences(clean_cache, corrupted_cache, model)
    targets = list(_list_targets(model, before, after))
    names = list(dict.fromkeys(target.name for target in targets))
    _, gradients = take_gradients(
        model, tokens, names, patching_metric, attention_mask=attention_mask
    )
    columns: list[Tensor] = []
    for target in targets:
        gradient = gradients[target.name]
        gradient = gradient if target.head is None else gradient[:, :, target.head]
        gradient = _pull_back(gradient.reshape(differences.shape[1:]), target, corrupted_cache)
        columns.append(differences.flatten(1) @ gradient.flatten())
    scores = torch.stack(columns, dim=1)
    seen = torch.tensor([target.n_sources for target in targets], device=scores.device)
    exists = torch.arange(len(sources), device=scores.device)[:, None] < seen
    return EdgeScores(
        scores=scores.masked_fill(~exists, 0.0),
        exists=exists,
        sources=tuple(sources),
        targets=tuple(target.label for target in targets),
    )


def _list_sources(model: Any) -> tuple[list[str], list[int], list[int]]:
    """Return the sources, and for each block how many come before its attention and its MLP."""
    labels = ["input"]
    before: list[int] = []
    after: list[int] = []
    for layer, writers in enumerate(list_writers(model)):
        before.append(len(labels))
        for writer in writers:
            if writer.kind == "mlp":
                after.append(len(labels))
                labels.append(f"m{layer}")
            elif writer.n_heads is None:
                labels.append(f"{'a' if writer.kind == 'attn' else writer.kind}{layer}")
            else:
                labels += [f"a{layer}.h{head}" for head in range(writer.n_heads)]
        if len(after) == layer:
            after.append(len(labels))
    return labels, before, after


def _take_differences(clean: Any, corrupted: Any, model: Any) -> Tensor:
    """Return what each source adds in the clean run less in the corrupted, (source, batch, ...)."""
    parts = [clean["resid_pre", 0] - corrupted["resid_pre", 0]]
    for writer in (writer for block in list_writers(model) for writer in block):
        if writer.kind == "attn" and writer.n_heads is not None:
            held = clean.get_head_results(writer.layer) - corrupted.get_head_results(writer.layer)
            parts += held.unbind(-2)
        else:
            held = clean[writer.name] - corrupted[writer.name]
            parts.append(held.view_as(parts[0]))
    return torch.stack([part.to(parts[0]) for part in parts])


def _list_targets(model: Any, before: list[int], after: list[int]) -> Iterator[_Target]:
    table: HookTable = model.hook_table()
    stack = next(iter(model._stacks))
    is_parallel = model.cfg.parallel_attn_mlp
    for layer, writers in enumerate(list_writers(model)):
        prefix = f"{stack}.{layer}"
        for kind in (writer.kind for writer in writers):
            if kind == "attn":
                yield from _list_heads(table, prefix, layer, before[layer])
            elif kind == "mlp":
                n_sources = before[layer] if is_parallel else after[layer]
                yield _find_mlp(table, prefix, layer, n_sources, is_parallel)
            else:
                raise ArchitectureError(
                    f"what {prefix}.{kind} reads of the stream is not known by edges."
                )
    last = "ln_final.hook_in"
    name = last if last in table else f"{stack}.{len(before) - 1}.hook_out"
    n_sources = 10**9
    yield _Target(label="logits", name=name, head=None, n_sources=n_sources)


def _list_heads(table: HookTable, prefix: str, layer: int, n_sources: int) -> Iterator[_Target]:
    for which in "qkv":
        name = f"{prefix}.attn.hook_{which}_input"
        if name not in table:
            raise ArchitectureError(
                f"heads of {prefix}.attn do not read the stream one by one: their keys and values "
                "are made of a latent."
            )
        for head in range(bare_tap(table, name).n_heads):
            yield _Target(
                label=f"a{layer}.h{head}<{which}>", name=name, head=head, n_sources=n_sources
            )


def _find_mlp(
    table: HookTable, prefix: str, layer: int, n_sources: int, is_parallel: bool
) -> _Target:
    label = f"m{layer}"
    if f"{prefix}.hook_mlp_in" in table:
        name = f"{prefix}.hook_mlp_in"
        return _Target(label=label, name=name, head=None, n_sources=n_sources)
    name = f"{prefix}.mlp.hook_in"
    if name not in table:
        raise ArchitectureError(f"what {prefix}.mlp reads of the stream is not known.")
    shared = f"{prefix}.ln1.hook_in"
    if not is_parallel or shared not in table:
        return _Target(label=label, name=name, head=None, n_sources=n_sources)
    # Attention reads the same norm, so the gradient is taken behind it and brought back through it.
    return _Target(
        label=label, name=name, head=None, n_sources=n_sources,
        norm=bare_tap(table, shared).module, stream=f"{prefix}.hook_in",
    )  # fmt: skip


def _pull_back(gradient: Tensor, target: _Target, corrupted_cache: Any) -> Tensor:
    if target.norm is None:
        return gradient
    with torch.enable_grad():
        stream = corrupted_cache[target.stream].detach().clone().requires_grad_()
        normed = target.norm.forward(stream)
        return torch.autograd.grad(normed, stream, gradient)[0]

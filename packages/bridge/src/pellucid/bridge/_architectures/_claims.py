"""Which of a record's claims hold on a model: tried on a few tokens, not believed.

An activation must occur, must leave the model's output alone when it is put back as it is, and
must be what its name says: the stream between attention and MLP plus what the MLP adds is the
stream after the block, a pattern's rows sum to one, z is pattern times value.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._probe import N_TOKENS, is_sum, run_probe
from pellucid.bridge._architectures._record import Architecture, Block, Fusion, Stack
from pellucid.bridge._engine._plan import Functions, compile_execution
from pellucid.bridge._names._describe import describe_model, list_blocks
from pellucid.bridge._names._points import HookPoint
from pellucid.bridge._names._table import HookTable

_FUSIONS: tuple[Fusion, ...] = ("groups", "spans", "heads", "partitions")
# Of logits, relative to the largest: what is put back is computed in another order on the way.
_ROUNDING = 1e-4
_BLOCK = re.compile(r"^(?P<stack>\w*blocks)\.\d+\.")


def settle_claims(model: nn.Module, record: Architecture, config: Any) -> Architecture:
    """Return a record without what does not hold.

    Args:
        model: A model that it describes.
        record: The record.
        config: The model's configuration, that of its text part if it has several.
    """
    record = _settle_fusion(model, record, config)
    # What is left out takes away what else was seen by; each round leaves out more.
    while false := find_false_claims(model, record, config):
        record = dataclasses.replace(record, omits=(*record.omits, *false))
    return record


def find_false_claims(model: nn.Module, record: Architecture, config: Any) -> tuple[str, ...]:
    """Return patterns of the names under which a record describes what a model does not have."""
    trial = _Trial(model, record, config)
    harmful = trial.find_harmful()
    false = list(harmful)
    trial = _Trial(model, dataclasses.replace(record, omits=(*record.omits, *false)), config)
    held = trial.read(list(trial.table))
    silent = [name for name in trial.table if name not in held]
    silent += [n for n, value in held.items() if not _has_shape(value, trial.table[n].shape)]
    for stack in record.stacks:
        for number in range(len(list_blocks(model, stack))):
            block = stack.others.get(number, stack.block)
            sums = _Sums(trial.table, held, f"{stack.name}.{number}", block)
            false.extend([*sums.find_false(), *_find_false_patterns(sums)])
    known = [name for name in false if name in trial.table or name in harmful]
    return _compress([*known, *silent], record, model)


def _has_shape(value: Tensor, axes: str) -> bool:
    """Say whether a tensor of the probe can have these axes."""
    sizes = {"pos": N_TOKENS, "query_pos": N_TOKENS, "batch": 1}
    named = axes.split()
    return len(named) == value.ndim and all(
        sizes.get(axis, size) == size for axis, size in zip(named, value.shape, strict=True)
    )


class _Trial:
    """Runs of a model with the activations of a record."""

    def __init__(self, model: nn.Module, record: Architecture, config: Any) -> None:
        self._model = model
        self.table = HookTable(describe_model(model, record, config), 1)
        self._points = {name: HookPoint(name) for name in self.table}
        self._logits = run_probe(model)

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return what activations are, those that occur."""
        held: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: HookPoint) -> None:
            held.setdefault(hook.name, value.detach().clone())

        self._run(names, keep)
        return held

    def find_harmful(self) -> list[str]:
        """Return activations that cannot be had, or cannot be put back as they are."""
        whole = [name for name in self.table if self._compiles(name)]
        harmful = [name for name in self.table if name not in set(whole)]
        return [*harmful, *self._narrow(whole)]

    def _narrow(self, names: list[str]) -> list[str]:
        if not names or self._is_harmless(names):
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        return [*self._narrow(names[:half]), *self._narrow(names[half:])]

    def _compiles(self, name: str) -> bool:
        try:
            list(self.table[name].tap.steps(lambda value: value))
        except (RuntimeError, ValueError, TypeError, AttributeError):
            return False
        return True

    def _is_harmless(self, names: list[str]) -> bool:
        def put_back(value: Tensor, hook: HookPoint) -> Tensor:
            return value.clone()

        try:
            logits = self._run(names, put_back)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            return False
        return logits.shape == self._logits.shape and is_sum(
            logits, self._logits, tolerance=_ROUNDING
        )

    def _run(self, names: Sequence[str], function: Callable[..., Any]) -> Tensor:
        functions = Functions()
        for name in names:
            functions.add(name, function)
        with compile_execution(functions, self.table, self._points):
            return run_probe(self._model)


class _Sums:
    """What joins the stream of one block, against the stream itself."""

    def __init__(self, table: HookTable, held: dict[str, Tensor], name: str, block: Block) -> None:
        self._table = table
        self._held = held
        self.name = name
        self.block = block

    def get(self, name: str) -> Tensor | None:
        """Return an activation of the block, None if it has none of this name."""
        full = f"{self.name}.{name}"
        return self._held.get(self._table.resolve(full)) if full in self._table else None

    def find_false(self) -> list[str]:
        """Return names of this block under which something stands that is something else."""
        if self.block.is_post_norm:
            false = self._check_post_norm()
        elif self.get("hook_resid_mid") is None:
            false = self._check_single()
        else:
            false = self._check_middle()
        return [f"{self.name}.{name}" for name in false]

    def _terms(self, *names: str) -> list[Tensor]:
        return [held for name in names if (held := self.get(name)) is not None]

    def _check_post_norm(self) -> list[str]:
        false: list[str] = []
        stream = self.get("hook_resid_pre")
        sums = [("ln1_post", "hook_attn_out"), ("ln_cross", "hook_cross_attn_out")]
        for norm, result in (*sums, ("ln2_post", "hook_mlp_out")):
            added = self.get(result)
            if added is not None and not is_sum(self.get(f"{norm}.hook_in"), stream, added):
                false.append(result)
            stream = self.get(f"{norm}.hook_out") if added is not None else stream
        return false

    def _check_single(self) -> list[str]:
        """See to a block in which attention and MLP read the same stream, or that has but one."""
        results = ("hook_attn_out", "hook_mlp_out")
        terms = self._terms(*results)
        if not terms or is_sum(self.get("hook_resid_post"), self.get("hook_resid_pre"), *terms):
            return []
        return list(results)

    def _check_middle(self) -> list[str]:
        false: list[str] = []
        middle, mixed = self.get("hook_resid_mid"), self.get("hook_attn_out")
        start = self.get("hook_resid_pre")
        if mixed is not None and not is_sum(middle, start, mixed):
            false.append("hook_attn_out")
        second = self.get("hook_resid_mid2")
        if second is not None:
            if not is_sum(second, middle, self.get("hook_cross_attn_out")):
                false.extend(["hook_cross_attn_out", "hook_resid_mid"])
            middle = second
        added = self.get("hook_mlp_out")
        if added is None or not is_sum(self.get("hook_resid_post"), middle, added):
            # Whether the skip connection takes the stream as it is cannot be known either.
            false.extend(["hook_mlp_out", "hook_resid_mid", "hook_resid_mid2"])
        return false


def _find_false_patterns(sums: _Sums) -> list[str]:
    false: list[str] = []
    for part in ("attn", "cross_attn"):
        pattern, scores = sums.get(f"{part}.hook_pattern"), sums.get(f"{part}.hook_attn_scores")
        if pattern is None or scores is None:
            continue
        rows = pattern.float().sum(-1)
        # A sink takes its share of attention without being a key.
        is_whole = bool((rows > 0).all() and (rows < 1 + 1e-2).all())
        if pattern.ndim != 4 or pattern.shape[-1] < pattern.shape[-2] or not is_whole:
            false.extend(f"{sums.name}.{part}.{w}" for w in ("hook_pattern", "hook_attn_scores"))
    return false


def _compress(names: list[str], record: Architecture, model: nn.Module) -> tuple[str, ...]:
    """Return patterns in place of names that stand for every block of a stack."""
    kept = set(names)
    counts = {stack.name: len(list_blocks(model, stack)) for stack in record.stacks}
    patterns: dict[str, None] = {}
    for name in names:
        found = _BLOCK.match(name)
        if found is not None:
            stack, rest = found["stack"], name[found.end() :]
            everywhere = {f"{stack}.{i}.{rest}" for i in range(counts[stack])}
            if everywhere <= kept:
                name = f"{stack}.*.{rest}"
        patterns[name] = None
    return tuple(patterns)


# How a fused projection is fused.


def _settle_fusion(model: nn.Module, record: Architecture, config: Any) -> Architecture:
    stacks = tuple(_settle_stack(model, record, stack, config) for stack in record.stacks)
    return dataclasses.replace(record, stacks=stacks)


def _settle_stack(model: nn.Module, record: Architecture, stack: Stack, config: Any) -> Stack:
    memory: dict[str, Fusion | None] = {}

    def settle(block: Block, number: int) -> Block:
        held = block.attn
        if held is None or held.qkv is None:
            return block
        key = dataclasses.replace(held, extra={})
        if repr(key) not in memory:
            memory[repr(key)] = _find_fusion(model, record, stack, number, config)
        fusion = memory[repr(key)]
        if fusion is not None:
            return dataclasses.replace(block, attn=dataclasses.replace(held, fusion=fusion))
        extra = {**held.extra, "qkv": held.qkv}
        return dataclasses.replace(block, attn=dataclasses.replace(held, qkv=None, extra=extra))

    n_blocks = len(list_blocks(model, stack))
    first = next((i for i in range(n_blocks) if i not in stack.others), 0)
    return dataclasses.replace(
        stack,
        block=settle(stack.block, first),
        others={i: settle(block, i) for i, block in stack.others.items()},
    )


def _find_fusion(
    model: nn.Module, record: Architecture, stack: Stack, number: int, config: Any
) -> Fusion | None:
    """Return the arrangement by which z is pattern times value."""
    prefix = f"{stack.name}.{number}.attn."
    for fusion in _FUSIONS:
        try:
            trial = _Trial(model, _with_fusion(record, stack.name, fusion), config)
            held = trial.read([f"{prefix}{n}" for n in ("v.hook_out", "hook_pattern", "o.hook_in")])
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError):
            continue
        if is_pattern_of(held, prefix):
            return fusion
    return None


def is_pattern_of(held: dict[str, Tensor], prefix: str) -> bool:
    """Say whether z is pattern times value, each value head shared by as many queries as needed."""
    names = [f"{prefix}{n}" for n in ("v.hook_out", "hook_pattern", "o.hook_in")]
    value, pattern, z = (held.get(name) for name in names)
    if value is None or pattern is None or z is None or value.ndim != 4:
        return False
    n_shared = pattern.shape[1] // value.shape[2]
    if n_shared * value.shape[2] != pattern.shape[1] or value.shape[1] != pattern.shape[-1]:
        return False
    shared = value.repeat_interleave(n_shared, dim=2)
    return is_sum(z, torch.einsum("bhqk,bkhd->bqhd", pattern, shared))


def _with_fusion(record: Architecture, name: str, fusion: Fusion) -> Architecture:
    def change(block: Block) -> Block:
        if block.attn is None:
            return block
        return dataclasses.replace(block, attn=dataclasses.replace(block.attn, fusion=fusion))

    stacks = tuple(
        stack
        if stack.name != name
        else dataclasses.replace(
            stack,
            block=change(stack.block),
            others={i: change(block) for i, block in stack.others.items()},
        )
        for stack in record.stacks
    )
    return dataclasses.replace(record, stacks=stacks)

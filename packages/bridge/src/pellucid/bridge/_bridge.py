"""`TransformerBridge`: any transformer, with its activations by name."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._cache import ActivationCache
from pellucid.bridge._caching import CacheWriter
from pellucid.bridge._components import Blocks, Component
from pellucid.bridge._config import TransformerBridgeConfig
from pellucid.bridge._describe import describe_model, list_blocks
from pellucid.bridge._errors import StopAtLayerException
from pellucid.bridge._execution import Execution
from pellucid.bridge._generation import Generation
from pellucid.bridge._infer import infer_architecture
from pellucid.bridge._inputs import Inputs, prepare_inputs
from pellucid.bridge._loss import lm_cross_entropy_loss
from pellucid.bridge._plan import Functions, compile_execution
from pellucid.bridge._points import Direction, HookFunction, HookPoint, LensHandle
from pellucid.bridge._record import Architecture
from pellucid.bridge._registry import find_record
from pellucid.bridge._skipping import count_items, pass_through, place_layer, start_at, stop_before
from pellucid.bridge._table import HookKey, HookSpec, HookTable, NamesFilter
from pellucid.bridge._taps import Passing
from pellucid.bridge._tokens import Tokenization
from pellucid.core import ArgumentError

HookSelector = HookKey | Callable[[str], bool]
HookPair = tuple[HookSelector, HookFunction]

_GATES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")


class TransformerBridge(Tokenization, Generation, nn.Module):
    """A transformer whose activations can be read, changed and differentiated by name.

    No module of the model is replaced or wrapped. A run with hooks installs what it needs on the
    original modules and takes it away afterwards; a run without hooks is the model's own.

    Args:
        model: A model of transformers.
        adapter: What it is; found by its class, else by its structure, when omitted.
        tokenizer: Its tokenizer, for inputs that are text.

    Raises:
        ArchitectureError: If no blocks can be found in the model.
    """

    def __init__(
        self, model: nn.Module, adapter: Architecture | None = None, tokenizer: Any = None
    ) -> None:
        super().__init__()
        self.original_model = model
        self.adapter = adapter or find_record(model) or infer_architecture(model)
        self.tokenizer = tokenizer
        self.processor: Any = None
        self.compatibility_mode = False
        self.cfg = TransformerBridgeConfig.from_model(model, self.adapter)
        hf_config: Any = model.config
        text_config = (
            hf_config.get_text_config() if hasattr(hf_config, "get_text_config") else hf_config
        )
        self._stacks = {s.name: list_blocks(model, s) for s in self.adapter.stacks}
        n_layers = max(map(len, self._stacks.values()))
        self._table = HookTable(describe_model(model, self.adapter, text_config), n_layers)
        # Which points have hooks, so that a run need not look at all of them.
        self._attached: set[str] = set()
        self._points = {name: HookPoint(name, self._attached) for name in self._table}
        self._modules_by_name = _find_components(self._table)
        self._context: ContextVar[tuple[Functions, ...]] = ContextVar("hooks", default=())
        self._n_items: int | None = None

    # Names.

    def hook_table(self) -> HookTable:
        """Return all activations with their shapes and meanings, in the order of a forward pass."""
        return self._table

    def explain(self, name: HookKey) -> HookSpec:
        """Return what is known of one activation.

        Raises:
            HookNameError: (a KeyError) If there is none of this name; near matches are named.
        """
        return self._table[name]

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Every hook point under its canonical name and its aliases."""
        aliases = {alias: self._points[name] for alias, name in self._table.aliases.items()}
        return {**self._points, **aliases}

    def get_hook_point(self, name: str) -> HookPoint | None:
        """Return the hook point of a canonical name or an alias, None if there is none."""
        return self._points[self._table.resolve(name)] if name in self._table else None

    def has_component(self, name: str) -> bool:
        """Say whether a part of the model has this name."""
        return name in self._modules_by_name

    def get_component(self, name: str) -> Component:
        """Return a part of the model, such as "blocks.0.attn".

        Raises:
            ArgumentError: (a ValueError) If there is none of this name.
        """
        if not self.has_component(name):
            raise ArgumentError(f"the model has no part {name!r}. Known are hook_table()'s names.")
        return Component(self, name, self._modules_by_name[name])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            held = self.__dict__
            if "_n_items" not in held:  # Not built yet.
                raise
        if name in held["_stacks"]:
            blocks = held["_stacks"][name]
            return Blocks([Component(self, f"{name}.{i}", b) for i, b in enumerate(blocks)])
        if name in held["_modules_by_name"]:
            return self.get_component(name)
        point = self.get_hook_point(name)
        return getattr(self.original_model, name) if point is None else point

    # Attaching hooks.

    def add_hook(
        self,
        name: HookSelector,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> list[LensHandle]:
        """Attach a function to every activation that a name or predicate selects.

        Args:
            name: A name, an alias, a short name, or a function that is asked about names.
            hook: Called as `fn(tensor, hook=point)`; returns None or a replacement.
            dir: "fwd" for activations, "bwd" for their gradients.
            is_permanent: Whether `reset_hooks` leaves it in place.
            level: A mark by which to remove it.
            prepend: Whether it comes before those attached already.

        Returns:
            What removes each.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
        """
        return [
            self._points[found].add_hook(
                hook, dir=dir, is_permanent=is_permanent, level=level, prepend=prepend
            )
            for found in self._table.select(name)
        ]

    def add_perma_hook(
        self,
        name: HookSelector,
        hook: HookFunction,
        dir: Direction = "fwd",
    ) -> list[LensHandle]:
        """Attach a function that `reset_hooks` leaves in place."""
        return self.add_hook(name, hook, dir=dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: str = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Detach functions from all activations.

        Args:
            clear_contexts: Whether hook points forget what functions kept in their `ctx`.
            direction: "fwd", "bwd" or "both".
            including_permanent: Whether permanent ones go as well.
            level: Only those with this mark.
        """
        for point in self._points.values():
            point.remove_hooks(direction, including_permanent, level)  # pyright: ignore[reportArgumentType] - checked there
            if clear_contexts:
                point.clear_context()

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Generator["TransformerBridge"]:
        """Attach functions while the context is open, in this thread alone.

        Args:
            fwd_hooks: Pairs of a name or predicate and a function.
            bwd_hooks: The same for gradients.
            reset_hooks_end: Whether they are detached at the end.
            clear_contexts: Whether hook points then forget what functions kept in their `ctx`.
        """
        if not reset_hooks_end:
            for pairs, direction in ((fwd_hooks, "fwd"), (bwd_hooks, "bwd")):
                for selector, function in pairs:
                    self.add_hook(selector, function, direction)
            yield self
            return
        functions = Functions()
        for pairs, direction in ((fwd_hooks, "fwd"), (bwd_hooks, "bwd")):
            for selector, function in pairs:
                for name in self._table.select(selector):
                    functions.add(name, function, direction)
        token = self._context.set((*self._context.get(), functions))
        try:
            yield self
        finally:
            self._context.reset(token)
            if clear_contexts:
                for name in functions.forward.keys() | functions.backward.keys():
                    self._points[name].clear_context()

    @contextmanager
    def running(self, step: int | None = None) -> Generator[None]:
        """Keep attached hooks in force on the original model, however it is called.

        Args:
            step: What `hook.step` says meanwhile.
        """
        functions = self._gather()
        if not functions:
            yield
            return
        with compile_execution(functions, self._table, self._points, step=step):
            yield

    def select_names(self, names_filter: NamesFilter = None) -> list[str]:
        """Return the canonical names that a filter admits, without those whose gate is closed.

        Raises:
            HookNameError: (a KeyError) If a key names nothing.
        """
        return self._table.select(names_filter, self._closed_gates())

    # Running.

    def forward(
        self,
        input: Any,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model.

        Args:
            input: Text, a list of texts, token ids of shape (pos) or (batch, pos), or embeddings
                of shape (batch, pos, d_model); with `start_at_layer` the stream before that block.
            return_type: "logits", of shape (batch, pos, d_vocab); "loss", the mean next-token
                cross-entropy in nats; "both"; or None.
            loss_per_token: Whether the loss is that of each position.
            prepend_bos: Whether text begins with the BOS token; as the configuration says if None.
            padding_side: Where shorter texts of a list are padded.
            attention_mask: 0 where a position is padding.
            start_at_layer: The first block to compute; those before are skipped.
            stop_at_layer: The block before which to stop; the stream that enters it is returned.
            **kwargs: Passed to the model.

        Raises:
            ArgumentError: (a ValueError) If the return type is unknown, if a loss is asked for
                and there are no tokens to predict, or if a layer does not exist.
        """
        _check_return_type(return_type)
        inputs = prepare_inputs(
            self, input, prepend_bos=prepend_bos, padding_side=padding_side,
            attention_mask=attention_mask, is_residual=start_at_layer is not None,
        )  # fmt: skip
        execution = self._compile(self._gather(), inputs, start_at_layer, stop_at_layer)
        if execution is None:
            return self._finish(
                self.original_model(**inputs.model, **kwargs), inputs, return_type, loss_per_token
            )
        try:
            with execution:
                output = self.original_model(**inputs.model, **kwargs)
        except StopAtLayerException as stop:
            return stop.layer_output
        return self._finish(output, inputs, return_type, loss_per_token)

    def run_with_hooks(
        self,
        input: Any,
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run the model with functions attached for this run; see `hooks` and `forward`."""
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(input, **kwargs)

    def run_with_cache(
        self,
        input: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        pos_slice: Any = None,
        incl_bwd: bool = False,
        clear_contexts: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """Run the model and keep activations.

        Args:
            input: As in `forward`, and so are the further keywords.
            return_cache_object: Whether to return an `ActivationCache`, or a dictionary that holds
                each activation under its aliases as well.
            remove_batch_dim: Whether to drop the axis of the batch, which must hold one sample.
            names_filter: Which activations: None for all, a name, a list of names, or a function
                that is asked about names.
            device: Where to keep them; where they are if None. The model stays where it is.
            pos_slice: Which positions to keep.
            incl_bwd: Whether to run the output backwards and keep gradients, under name + "_grad".
            clear_contexts: Whether hook points forget what functions kept in their `ctx`.
            **kwargs: As in `forward`.

        Returns:
            What `forward` returns, and the activations.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
            ArgumentError: (a ValueError) If `incl_bwd` is asked for and the output is no scalar.
        """
        names = self.select_names(names_filter)
        names = self._reached(names, kwargs.get("start_at_layer"), kwargs.get("stop_at_layer"))
        writer = CacheWriter(device=device, pos_slice=pos_slice)
        pairs = [(name, writer.keep) for name in names]
        backward = [(name, writer.keep_gradient) for name in names] if incl_bwd else []
        with self.hooks(pairs, backward, clear_contexts=clear_contexts):
            output = self(input, **kwargs)
        if incl_bwd:
            _run_backwards(output)
        writer.check()
        cache = ActivationCache(writer.held, self)
        if remove_batch_dim:
            cache.remove_batch_dim()
        if return_cache_object:
            return output, cache
        return output, _with_aliases(cache.cache_dict, self._table)

    def loss_fn(
        self,
        logits: Tensor,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Return the next-token cross-entropy; see `lm_cross_entropy_loss`."""
        return lm_cross_entropy_loss(logits, tokens, attention_mask, per_token)

    def _gather(self) -> Functions:
        functions = Functions()
        if self._attached:
            functions.add_attached(self._points[name] for name in self._table.order(self._attached))
        for context in self._context.get():
            for name, held in context.forward.items():
                functions.forward.setdefault(name, []).extend(held)
            for name, held in context.backward.items():
                functions.backward.setdefault(name, []).extend(held)
        return functions

    def _compile(
        self, functions: Functions, inputs: Inputs, start: int | None, stop: int | None
    ) -> Execution | None:
        if not functions and start is None and stop is None:
            return None
        further, enter = [], []
        if start is not None or stop is not None:
            blocks = self._single_stack()
            functions = functions.restrict(self._reached(functions.names(), start, stop))
        if start is not None:
            first = place_layer(start, len(blocks), "start_at_layer")
            further.append(start_at(blocks[first], inputs.residual))
            enter.append(pass_through(blocks[:first], self._count_items(blocks)))
        if stop is not None:
            further.append(stop_before(blocks, place_layer(stop, len(blocks), "stop_at_layer")))
        return compile_execution(functions, self._table, self._points, further, enter)

    def _reached(self, names: Sequence[str], start: int | None, stop: int | None) -> list[str]:
        """Return the names that a run of some blocks passes."""
        if start is None and stop is None:
            return list(names)
        n = len(self._single_stack())
        first = 0 if start is None else place_layer(start, n, "start_at_layer")
        last = n if stop is None else place_layer(stop, n, "stop_at_layer")
        kept = []
        for name in names:
            layer = self._table[name].layer
            if layer is None:
                is_before = name.split(".")[0] in ("embed", "pos_embed", "embed_ln", "rotary_emb")
                reached = start is None if is_before else stop is None
            else:
                reached = first <= layer < last
            if reached:
                kept.append(name)
        return kept

    def _single_stack(self) -> list[nn.Module]:
        if len(self._stacks) != 1:
            raise ArgumentError(
                "start_at_layer and stop_at_layer need a model with one stack of blocks, this one "
                f"has {', '.join(self._stacks)}."
            )
        return next(iter(self._stacks.values()))

    def _count_items(self, blocks: list[nn.Module]) -> int:
        if self._n_items is None:
            ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self._n_items = count_items(self.original_model, blocks[0], ids)
        return self._n_items

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return self.original_model.get_input_embeddings().weight.device

    def _closed_gates(self) -> frozenset[str]:
        return frozenset(gate for gate in _GATES if not getattr(self.cfg, gate))

    def _finish(
        self, output: Any, inputs: Inputs, return_type: str | None, loss_per_token: bool
    ) -> Any:
        if return_type is None:
            return None
        logits = output if isinstance(output, Tensor) else _logits_of(output)
        if return_type == "logits":
            return logits
        if inputs.tokens is None:
            raise ArgumentError(
                "a loss needs the tokens to be predicted, and the input is embeddings. Pass text "
                "or token ids, or take the logits and loss_fn(logits, tokens)."
            )
        loss = self.loss_fn(logits, inputs.tokens, inputs.attention_mask, loss_per_token)
        return loss if return_type == "loss" else (logits, loss)


def _find_components(table: HookTable) -> MappingProxyType[str, nn.Module | None]:
    found: dict[str, nn.Module | None] = {}
    for name, spec in table.items():
        owner = name.rpartition(".")[0]
        is_own = isinstance(spec.tap, Passing) and name.endswith((".hook_in", ".hook_out"))
        is_own = is_own and (name.endswith(".hook_in") or spec.tap.is_whole)
        if owner and (owner not in found or found[owner] is None):
            found[owner] = spec.tap.module if is_own else None
    return MappingProxyType(found)


def _with_aliases(held: dict[str, Tensor], table: HookTable) -> dict[str, Tensor]:
    aliases = {a: held[name] for a, name in table.aliases.items() if name in held}
    return {**held, **aliases}


def _check_return_type(return_type: str | None) -> None:
    if return_type not in ("logits", "loss", "both", None):
        raise ArgumentError(
            f"return_type must be 'logits', 'loss', 'both' or None, got {return_type!r}."
        )


def _logits_of(output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    return output[0] if logits is None else logits


def _run_backwards(output: Any) -> None:
    if not isinstance(output, Tensor) or output.numel() != 1 or not output.requires_grad:
        raise ArgumentError(
            "incl_bwd=True runs the output backwards, which must be one number with a gradient. "
            "Ask for return_type='loss', with gradients enabled and without stop_at_layer."
        )
    output.backward()

"""The methods of a bridge that run the model."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._caches._cache import ActivationCache
from pellucid.bridge._engine._caching import CacheWriter
from pellucid.bridge._engine._execution import (
    Enter,
    Execution,
    Step,
    active_execution,
    count_suspended,
)
from pellucid.bridge._engine._plan import Functions, compile_execution
from pellucid.bridge._engine._skipping import (
    count_items,
    pass_through,
    place_layer,
    start_at,
    stop_before,
)
from pellucid.bridge._errors import StopAtLayerException
from pellucid.bridge._model._hooking import Hooking, HookPair
from pellucid.bridge._model._inputs import Inputs, prepare_inputs
from pellucid.bridge._model._loss import label_loss, lm_cross_entropy_loss
from pellucid.bridge._names._table import NamesFilter
from pellucid.core import ArgumentError

_RETURN_TYPES = ("logits", "loss", "both", "predictions", "logits_and_cache", None)
_BEFORE_BLOCKS = ("embed", "token_type_embed", "pos_embed", "embed_ln", "rotary_emb")


class Running(Hooking):
    """Forward passes with and without hooks."""

    def forward(
        self,
        input: Any,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model.

        Args:
            input: Text, a list of texts, token ids of shape (pos) or (batch, pos), or embeddings
                of shape (batch, pos, d_model); with `start_at_layer` the stream before that block.
            return_type: "logits", of shape (batch, pos, d_vocab); "loss", the mean next-token
                cross-entropy in nats; "both"; "predictions", the likeliest words where the input
                has masks, for masked language models; "logits_and_cache", with the model's keys and
                values; or None.
            loss_per_token: Whether the loss is that of each position.
            prepend_bos: Whether text begins with the BOS token; as the configuration says if None.
            padding_side: Where shorter texts of a list are padded.
            attention_mask: 0 where a position is padding.
            labels: The tokens whose loss is wanted, for encoders and encoder-decoders, of shape
                (batch, pos); -100 where there is none. Models that predict the next token take
                theirs from the input.
            start_at_layer: The first block to compute; those before are skipped.
            stop_at_layer: The block before which to stop; the stream that enters it is returned.
            **kwargs: Passed to the model, such as `pixel_values` or `past_key_values`.

        Raises:
            ArgumentError: (a ValueError) If the return type is unknown, if a loss is asked for
                and there are no tokens to predict, or if a layer does not exist.
        """
        if return_type not in _RETURN_TYPES:
            raise ArgumentError(
                f"return_type must be one of {', '.join(map(repr, _RETURN_TYPES))}, got "
                f"{return_type!r}."
            )
        if return_type == "logits_and_cache":
            kwargs["use_cache"] = True
        inputs = prepare_inputs(
            self, input, prepend_bos=prepend_bos, padding_side=padding_side, labels=labels,
            attention_mask=attention_mask, is_residual=start_at_layer is not None, more=kwargs,
        )  # fmt: skip
        execution = self._compile(self._gather(), inputs, start_at_layer, stop_at_layer)
        if execution is None:
            output = self.original_model(**inputs.model)
            return self._finish(output, inputs, return_type, loss_per_token)
        try:
            with execution:
                output = self.original_model(**inputs.model)
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
            pos_slice: Which positions to keep: a number, a slice, (start, stop), or a list.
            incl_bwd: Whether to run the output backwards and keep gradients, under name + "_grad".
            clear_contexts: Whether hook points forget what functions kept in their `ctx`.
            **kwargs: As in `forward`.

        Returns:
            What `forward` returns, and the activations.

        Raises:
            HookNameError: (a KeyError) If a name names nothing.
            ArgumentError: (a ValueError) If `incl_bwd` is asked for and the output is no scalar, or
                the batch of which the axis is to be dropped has several samples.
        """
        names = self.select_names(names_filter)
        names = self._reached(names, kwargs.get("start_at_layer"), kwargs.get("stop_at_layer"))
        writer = CacheWriter(
            device=device, pos_slice=pos_slice, copies=self.adapter.writes_in_place
        )
        functions = Functions(recorder=writer, recorded=frozenset(names))
        functions.depth = count_suspended(self._points)
        if incl_bwd:
            functions.backward = {name: [writer.keep_gradient] for name in names}
        token = self._context.set((*self._context.get(), functions))
        try:
            output = self(input, **kwargs)
        finally:
            self._context.reset(token)
            if clear_contexts:
                self.clear_contexts()
        if incl_bwd:
            _run_backwards(output)
        cache = ActivationCache(writer.finish(), self)
        if remove_batch_dim:
            cache.remove_batch_dim()
        if return_cache_object:
            return output, cache
        held = cache.cache_dict
        return output, {**held, **{a: held[n] for a, n in self._table.aliases.items() if n in held}}

    def loss_fn(
        self,
        logits: Tensor,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """Return the next-token cross-entropy; see `lm_cross_entropy_loss`."""
        return lm_cross_entropy_loss(logits, tokens, attention_mask, per_token)

    def input_to_embed(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, None, Tensor | None]:
        """Return what the first block receives, for a run with `start_at_layer=0`.

        Args:
            input: As in `forward`.
            prepend_bos: As in `forward`.
            padding_side: As in `forward`.
            attention_mask: As in `forward`.

        Returns:
            The stream, of shape (batch, pos, d_model), the tokens, None, and the attention mask.
        """
        inputs = prepare_inputs(
            self, input, prepend_bos=prepend_bos, padding_side=padding_side, labels=None,
            attention_mask=attention_mask, is_residual=False, more={},
        )  # fmt: skip
        execution = self._compile(self._gather(), inputs, None, 0)
        try:
            with execution or compile_execution(Functions(), self._table, self._points):
                self.original_model(**inputs.model)
        except StopAtLayerException as stop:
            return stop.layer_output, inputs.tokens, None, inputs.attention_mask
        raise ArgumentError(f"{type(self.original_model).__name__} has run past its first block.")

    def prepare_multimodal_inputs(self, text: Any, images: Any = None) -> dict[str, Any]:
        """Return what a model of text and images takes, by its processor, on its device.

        Args:
            text: A text or a list of texts.
            images: An image or a list of images, as the processor takes them.

        Raises:
            ArgumentError: (a ValueError) If the bridge has no processor.
        """
        if self.processor is None:
            raise ArgumentError(
                "images need a processor, and this bridge has none. Give it one: "
                "bridge.processor = AutoProcessor.from_pretrained(...)."
            )
        given = {"text": text, **({} if images is None else {"images": images})}
        made = self.processor(**given, return_tensors="pt")
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in made.items()}

    # Some blocks only.

    def _compile(
        self, functions: Functions, inputs: Inputs, start: int | None, stop: int | None
    ) -> Execution | None:
        if start is None and stop is None:
            active = active_execution()
            if not functions and (active is None or active.is_suspended):
                return None
            return compile_execution(
                functions, self._table, self._points, enter=self._enter(), plans=self._plans
            )
        blocks = self._single_stack()
        functions = functions.restrict(self._reached(functions.names(), start, stop))
        first: list[Step] = []
        last: list[Step] = []
        enter: list[Enter] = [*self._enter()]
        if start is not None and inputs.residual is not None:
            number = place_layer(start, len(blocks), "start_at_layer")
            if number == len(blocks):
                raise ArgumentError(f"start_at_layer={start}: the last block is {number - 1}.")
            first.append(start_at(blocks[number], inputs.residual))
            enter.append(pass_through(blocks[:number], self._count_items(blocks)))
        if stop is not None:
            number = place_layer(stop, len(blocks), "stop_at_layer")
            # After the last block, what hooks have made of its output is what is returned.
            (last if number == len(blocks) else first).append(stop_before(blocks, number))
        return compile_execution(functions, self._table, self._points, first, enter, last=last)

    def _reached(self, names: Iterable[str], start: int | None, stop: int | None) -> list[str]:
        """Return the names that a run of some blocks passes."""
        if start is None and stop is None:
            return list(names)
        n = len(self._single_stack())
        first = 0 if start is None else place_layer(start, n, "start_at_layer")
        last = n if stop is None else place_layer(stop, n, "stop_at_layer")
        kept: list[str] = []
        for name in names:
            layer = self._table[name].layer
            if layer is None:
                # A model makes its rotary tables whichever blocks follow.
                is_before = name.split(".")[0] in _BEFORE_BLOCKS
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

    # Results.

    def _finish(
        self, output: Any, inputs: Inputs, return_type: str | None, loss_per_token: bool
    ) -> Any:
        if return_type is None:
            return None
        logits = output if isinstance(output, Tensor) else _logits_of(output)
        if return_type == "logits":
            return logits
        if return_type == "logits_and_cache":
            held = getattr(output, "past_key_values", None)
            # State spaces by themselves have another name for it.
            return logits, getattr(output, "cache_params", None) if held is None else held
        if return_type == "predictions":
            return self._predict(logits, inputs)
        loss = self._loss_of(logits, inputs, loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def _loss_of(self, logits: Tensor, inputs: Inputs, per_token: bool) -> Tensor:
        if inputs.labels is not None:
            return label_loss(logits, inputs.labels.to(logits.device), per_token)
        if not self.predicts_next:
            raise ArgumentError(
                f"{type(self.original_model).__name__} does not predict the token after each of "
                "its input. Pass labels=, the tokens whose loss is wanted."
            )
        if inputs.tokens is None:
            raise ArgumentError(
                "a loss needs the tokens to be predicted, and the input is embeddings. Pass text "
                "or token ids, or take the logits and loss_fn(logits, tokens)."
            )
        mask = inputs.attention_mask
        mask = None if mask is None else mask.to(logits.device)
        return self.loss_fn(logits, inputs.tokens.to(logits.device), mask, per_token)

    def _predict(self, logits: Tensor, inputs: Inputs) -> str | list[str]:
        mask_id = getattr(self.tokenizer, "mask_token_id", None)
        if self.predicts_next or mask_id is None or inputs.tokens is None:
            raise ArgumentError(
                "return_type='predictions' is for masked language models with a tokenizer that has "
                "a mask token. Use generate()."
            )
        rows = [
            self.tokenizer.decode(row[tokens == mask_id].argmax(-1).tolist())
            for row, tokens in zip(logits, inputs.tokens.to(logits.device), strict=True)
        ]
        return rows[0] if len(rows) == 1 else rows

    @property
    def predicts_next(self) -> bool:
        """Whether the logits at each position are those of the token after it in the input."""
        is_masked = type(self.original_model).__name__.endswith("ForMaskedLM")
        is_masked = is_masked or self.adapter.is_masked
        return not (is_masked or getattr(self.hf_config, "is_encoder_decoder", False))


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

"""The generating methods of a bridge."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.bridge._caches._cache import ActivationCache
from pellucid.bridge._engine._caching import CacheWriter, join_steps
from pellucid.bridge._model._decoding import DecodedStep, Sampling, Stopping, decode, stop_tokens
from pellucid.bridge._names._table import NamesFilter
from pellucid.core import ArgumentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOutput:
    """What `generate(output_logits=True)` returns.

    Attributes:
        sequences: Prompt and new tokens, of shape (batch, pos).
        logits: For each step what its tokens were drawn from, of shape (batch, d_vocab).
    """

    sequences: Tensor
    logits: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, ready to be continued.

    Attributes:
        model: Keywords for the model's first forward.
        tokens: What the returned sequences begin with, of shape (batch, pos).
        is_text: Whether it was given as text.
        is_single: Whether it was given as one text or one row.
    """

    model: dict[str, Any]
    tokens: Tensor
    is_text: bool = False
    is_single: bool = False


class Generation:
    """Generation in a loop of our own, which hooks can follow, and in transformers' own."""

    original_model: Any
    tokenizer: Any
    cfg: Any
    hf_config: Any
    device: Any
    hooks: Callable[..., Any]
    running: Callable[..., Any]
    select_names: Callable[..., list[str]]
    encode_batch: Callable[..., Any]
    to_string: Callable[..., Any]

    def generate(
        self,
        input: Any = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        return_type: str = "input",
        verbose: bool = True,
        output_logits: bool = False,
        return_cache: bool = False,
        return_input_tokens: bool = False,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        stop_strings: str | Sequence[str] | None = None,
        stopping_criteria: Any = None,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        **model_inputs: Any,
    ) -> Any:
        """Continue a prompt. Attached hooks act on every step; `hook.step` tells them which.

        Args:
            input: Text, a list of texts, token ids of shape (pos) or (batch, pos), or embeddings of
                shape (batch, pos, d_model).
            max_new_tokens: How many tokens to add at most; 0 returns the prompt.
            stop_at_eos: Whether a row ends with an end token.
            eos_token_id: The end token or tokens; the configuration's, else the tokenizer's.
            do_sample: Whether to draw; else the likeliest token is taken.
            top_k: As in `sample_logits`, and so are those up to `repetition_penalty`.
            top_p: Among what `top_k` leaves.
            temperature: 0 is greedy.
            freq_penalty: For each time that a token has occurred.
            repetition_penalty: For tokens that have occurred.
            use_past_kv_cache: Whether a step computes its own position alone.
            prepend_bos: As in `to_tokens`.
            padding_side: Only "left": on the right, padding would stand amid a row's tokens.
            return_type: "input" for the kind that was given, "str", or "tokens".
            verbose: Whether to show progress on a terminal.
            output_logits: Whether to return a `GenerateOutput`.
            return_cache: Whether to return the activations of all positions as well; they are
                collected on the way.
            return_input_tokens: Whether to return the prompt's tokens as well.
            names_filter: Which activations the cache holds.
            device: Where the cache holds them.
            stop_strings: A row ends once it has generated one of these.
            stopping_criteria: A function, or several, of (tokens, logits) that say for each row
                whether it ends.
            attention_mask: 0 where the prompt's tokens are padding.
            generator: Where randomness comes from; torch's global one if None.
            **model_inputs: Passed to the model's first step, such as `pixel_values`.

        Returns:
            Text or tokens, the prompt included (embeddings: the new tokens alone); with cache or
            input tokens, a tuple of these.

        Raises:
            ArgumentError: (a ValueError) If an option is out of its range, or `stop_at_eos` is set
                and no end token is known.
            RequirementError: (an AssertionError) If text is given or asked for without a tokenizer.
        """
        _check(max_new_tokens, return_type, padding_side)
        sampling = Sampling(
            do_sample=do_sample, top_k=top_k, top_p=top_p, temperature=temperature,
            freq_penalty=freq_penalty, repetition_penalty=repetition_penalty, generator=generator,
        )  # fmt: skip
        sampling.check()
        prompt = self._prepare_prompt(input, prepend_bos, attention_mask, model_inputs)
        stopping = self._stopping(
            stop_at_eos, eos_token_id, stop_strings, stopping_criteria, prompt.tokens.shape[1]
        )
        collector = _Collector(
            self, self.select_names(names_filter) if return_cache else [], device
        )
        tokens, logits = [prompt.tokens], []
        for step in self._steps(
            prompt, sampling, stopping, max_new_tokens,
            use_cache=use_past_kv_cache, collector=collector, verbose=verbose,
        ):  # fmt: skip
            tokens.append(step.tokens[:, None])
            logits.append(step.logits)
        sequences = torch.cat(tokens, dim=1)
        results: list[Any] = [self._render(sequences, return_type, prompt)]
        if output_logits:
            results = [GenerateOutput(sequences=sequences, logits=tuple(logits))]
        if return_cache:
            results.append(collector.finish())
        if return_input_tokens:
            results.append(prompt.tokens)
        return results[0] if len(results) == 1 else tuple(results)

    def generate_stream(
        self,
        input: Any = "",
        max_new_tokens: int = 10,
        max_tokens_per_yield: int = 25,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        prepend_bos: bool | None = None,
        return_type: str = "input",
        use_past_kv_cache: bool = True,
        attention_mask: Tensor | None = None,
        stop_strings: str | Sequence[str] | None = None,
        stopping_criteria: Any = None,
        **sampling_options: Any,
    ) -> Generator[Any]:
        """Yield a continuation in pieces: first the prompt with the first piece, then new tokens.

        Args:
            input: As in `generate`, and so are all whose names are the same.
            max_new_tokens: How many tokens to add at most.
            max_tokens_per_yield: How many new tokens a piece holds.
            stop_at_eos: Whether a row ends with an end token.
            eos_token_id: The end token or tokens.
            prepend_bos: As in `to_tokens`.
            return_type: "input", "str" or "tokens"; texts of several rows come as a list.
            use_past_kv_cache: Whether a step computes its own position alone.
            attention_mask: 0 where the prompt's tokens are padding.
            stop_strings: A row ends once it has generated one of these.
            stopping_criteria: Functions that end rows.
            **sampling_options: `do_sample`, `top_k`, `top_p`, `temperature`, `freq_penalty`,
                `repetition_penalty`, `generator`.

        Raises:
            ArgumentError: (a ValueError) As in `generate`.
        """
        _check(max_new_tokens, return_type, None)
        if max_tokens_per_yield < 1:
            raise ArgumentError(f"max_tokens_per_yield={max_tokens_per_yield} must be at least 1.")
        sampling = Sampling(**sampling_options)
        sampling.check()
        prompt = self._prepare_prompt(input, prepend_bos, attention_mask, {})
        stopping = self._stopping(
            stop_at_eos, eos_token_id, stop_strings, stopping_criteria, prompt.tokens.shape[1]
        )
        held, n_new = [prompt.tokens], 0
        for step in self._steps(
            prompt, sampling, stopping, max_new_tokens,
            use_cache=use_past_kv_cache, collector=_Collector(self, [], None), verbose=False,
        ):  # fmt: skip
            held.append(step.tokens[:, None])
            n_new += 1
            if n_new == max_tokens_per_yield or step.is_last:
                yield self._render(torch.cat(held, dim=1), return_type, prompt)
                held, n_new = [], 0

    def hf_generate(self, input: Any, max_new_tokens: int = 10, **options: Any) -> Any:
        """Generate by transformers' own `generate`, with attached hooks in force.

        Args:
            input: As in `generate`.
            max_new_tokens: How many tokens to add at most.
            **options: `prepend_bos` and `return_type` as in `generate`; all others go to
                transformers' `generate`.

        Returns:
            Text or tokens; what transformers returns if that is more than tokens.
        """
        prepend_bos, return_type = (
            options.pop("prepend_bos", None),
            options.pop("return_type", "input"),
        )
        mask = options.pop("attention_mask", None)
        prompt = self._prepare_prompt(input, prepend_bos, mask, {})
        given = {k: v for k, v in prompt.model.items() if k != "position_ids"}
        with torch.no_grad(), self.running():
            output = self.original_model.generate(**given, max_new_tokens=max_new_tokens, **options)
        return self._render(output, return_type, prompt) if isinstance(output, Tensor) else output

    def _steps(
        self,
        prompt: Prompt,
        sampling: Sampling,
        stopping: Stopping,
        max_new_tokens: int,
        *,
        use_cache: bool,
        collector: "_Collector",
        verbose: bool,
    ) -> Generator[DecodedStep]:
        with torch.no_grad(), _progress(max_new_tokens, shown=verbose) as advance:
            # A run for each step: whoever takes a step from us is not inside of it in between.
            steps = decode(
                self._forward_step(collector), prompt.model, sampling=sampling, stopping=stopping,
                max_new_tokens=max_new_tokens, use_cache=use_cache, closes=collector.is_wanted,
            )  # fmt: skip
            for step in steps:
                advance()
                yield step

    def _forward_step(self, collector: "_Collector") -> Callable[..., Any]:
        def forward(step: int, **inputs: Any) -> Any:
            with torch.no_grad(), collector.watch(inputs), self.running(step=step):
                return self.original_model(**inputs)

        return forward

    def _prepare_prompt(
        self, given: Any, prepend_bos: bool | None, mask: Tensor | None, more: dict[str, Any]
    ) -> Prompt:
        positions: dict[str, Tensor] = {}
        is_text = isinstance(given, (str, list))
        is_single = isinstance(given, str)
        if is_text:
            batch = self.encode_batch(given, prepend_bos, "left", truncate=False)
            given, positions = batch.tokens, batch.positions
            mask = batch.attention_mask if mask is None else mask
        if not isinstance(given, Tensor):
            raise ArgumentError(f"the prompt must be text or a tensor, got {type(given).__name__}.")
        if given.is_floating_point():
            embeds = given if given.ndim == 3 else given[None]
            empty = torch.zeros(len(embeds), 0, dtype=torch.long, device=embeds.device)
            return Prompt(model={"inputs_embeds": embeds, **more}, tokens=empty)
        tokens = (given if given.ndim == 2 else given[None]).to(self.device)
        if mask is not None and mask.shape != tokens.shape:
            raise ArgumentError(
                f"attention_mask has shape {tuple(mask.shape)}, the prompt {tuple(tokens.shape)}."
            )
        rest = {**({} if mask is None else {"attention_mask": mask}), **positions, **more}
        model = {"input_ids": tokens, **rest}
        if getattr(self.hf_config, "is_encoder_decoder", False):
            start = self.hf_config.decoder_start_token_id or 0
            tokens = tokens.new_full((len(tokens), 1), start)
            model["decoder_input_ids"] = tokens
        return Prompt(model=model, tokens=tokens, is_text=is_text, is_single=is_single)

    def _stopping(
        self, stop_at_eos: bool, eos: Any, strings: Any, criteria: Any, n_prompt: int
    ) -> Stopping:
        tokenizer_eos = getattr(self.tokenizer, "eos_token_id", None)
        ends = stop_tokens(eos, self.cfg.eos_token_id, tokenizer_eos) if stop_at_eos else ()
        if stop_at_eos and not ends:
            raise ArgumentError(
                "stop_at_eos is set and no end token is known. Pass eos_token_id=, or "
                "stop_at_eos=False."
            )
        held = list(criteria) if isinstance(criteria, Sequence) else [criteria] if criteria else []
        if not all(callable(criterion) for criterion in held):
            raise ArgumentError(f"stopping_criteria must be functions, got {criteria!r}.")
        texts = [strings] if isinstance(strings, str) else list(strings or ())
        if any(texts):
            held.append(self._stop_at_strings([text for text in texts if text], n_prompt))
        pad = tokenizer_eos if tokenizer_eos is not None else (ends[0] if ends else 0)
        return Stopping(eos=ends, pad=pad, criteria=tuple(held))

    def _stop_at_strings(self, texts: list[str], n_prompt: int) -> Callable[..., Tensor]:
        def has_ended(tokens: Tensor, logits: Tensor) -> Tensor:
            rows = self.to_string(tokens[:, n_prompt:])
            return torch.tensor(
                [any(t in row for t in texts) for row in rows], device=logits.device
            )

        return has_ended

    def _render(self, tokens: Tensor, return_type: str, prompt: Prompt) -> Any:
        wants_text = return_type == "str" or (return_type == "input" and prompt.is_text)
        if not wants_text:
            return tokens
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in tokens.tolist()]
        return texts[0] if prompt.is_single or len(texts) == 1 else texts


class _Collector:
    """Collects activations step by step."""

    def __init__(self, bridge: Any, names: list[str], device: Any) -> None:
        self._bridge = bridge
        self._names = names
        self._device = device
        self._writers: list[CacheWriter] = []
        self._is_stepwise = False
        self.is_wanted = bool(names)

    def watch(self, inputs: dict[str, Any]) -> Any:
        """Return a context in which a step's activations are kept."""
        self._is_stepwise |= inputs.get("past_key_values") is not None
        if not self._names:
            return contextlib.nullcontext()
        copies = self._bridge.adapter.writes_in_place
        writer = CacheWriter(device=self._device, pos_slice=None, copies=copies)
        self._writers.append(writer)
        return self._bridge.recording(self._names, writer)

    def finish(self) -> ActivationCache:
        """Return a cache of all positions."""
        steps = [writer.finish() for writer in self._writers]
        # Without keys and values from before, every step computes all positions, the last one all
        # there are.
        held = (
            join_steps(steps) if self._is_stepwise else {k: v for s in steps for k, v in s.items()}
        )
        return ActivationCache(held, self._bridge)


def _check(max_new_tokens: int, return_type: str, padding_side: str | None) -> None:
    if max_new_tokens < 0:
        raise ArgumentError(f"max_new_tokens={max_new_tokens} must be at least 0.")
    if return_type not in ("input", "str", "tokens"):
        raise ArgumentError(f"return_type must be 'input', 'str' or 'tokens', got {return_type!r}.")
    if padding_side not in (None, "left"):
        raise ArgumentError("prompts are padded on the left; padding_side='right' cannot be.")


@contextlib.contextmanager
def _progress(total: int, *, shown: bool) -> Generator[Callable[[], Any]]:
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415 - for terminals alone

    with tqdm(total=total, unit="token") as bar:
        yield bar.update

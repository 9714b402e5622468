"""Causal language models of transformers, with every access there is."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM

from pellucid.core import (
    ActivationReader,
    ArgumentError,
    Flow,
    HeldStates,
    LMBaseModel,
    LossTextAccessMixin,
    MessageTargets,
    ModelOutput,
    Provides,
    RequirementError,
    SliceKey,
    Targets,
    Template,
)
from pellucid.hf._codec import TextCodec
from pellucid.hf._forward import Forward, Wanted
from pellucid.hf._generation import Decoding
from pellucid.hf._inputs import LMHFTokenInputManager
from pellucid.hf._lm_runs import prefix_of, single_input
from pellucid.hf._loading import (
    check_batch_sizes,
    check_fit,
    name_of,
    resolve_model,
    resolve_tokenizer,
)
from pellucid.hf._logits import TriggerLogits
from pellucid.hf._pace import Paces
from pellucid.hf._prefix import PrefixReport
from pellucid.hf._prompts import encode_targets
from pellucid.hf._rendering import PromptRenderer
from pellucid.hf._trigger_codec import Consistency, check_consistency

_MAX_BATCH_SIZE = 1024

_RESPONSES = {
    "prefill_response_logits": ("require_target_prefill",),
    "response_first_token_logprobs": ("require_first_token_logprobs",),
    "generated_response_ids": ("require_generation",),
    "generated_response_strs": ("require_generation",),
}
_INSIDES = {
    "full_logits": (),
    "input_slices": (),
    "input_trigger_slots": (),
    "full_hidden_states": ("require_hidden_states",),
    "full_attentions": ("require_attentions",),
    "generated_response_logits": ("require_generation",),
}


class LMHFModel(LMBaseModel, TriggerLogits, LossTextAccessMixin):
    """A causal language model of transformers.

    Prompts and templates are texts or conversations. A text is a single user turn under the
    tokenizer's chat template; without one it stands for itself, within the special tokens that the
    tokenizer adds by default. A trigger given as tokens and as text is the same to the model
    wherever `retokenization_mask` is true.

    Neither the model nor the tokenizer that is passed in is changed: during a computation dropout
    is off and weights need no gradient, afterwards all is as it was.

    Args:
        model_name: A name, a path, or a model object; or a bridge, whose hooks then act in every
            pass, and whose activations losses may read by name.
        device: Where to load the model to; CUDA if there is one, else the CPU, when omitted.
        dtype: What to load the weights as; as they are saved when omitted.
        forward_pass_batch_size: How many candidates go through one forward pass at most; halved
            when memory runs out. When None, 1024, and on a CPU the fastest of a few sizes from 16
            to 128, which are timed in the first calls with many candidates of a model that is not
            tiny. The size changes nothing but the last bits of a loss: where runs must repeat to
            the bit, give a number.
        backward_pass_batch_size: The same for passes with a gradient.
        set_model_to_train: Whether to compute in training mode, dropout on and weights with
            gradients, for losses that differentiate with regard to the weights.
        use_prefix_cache: Whether what stands before the trigger is computed once for all candidates
            of a template; `prefix_cache_report` says where it cannot be.
        use_eager_attention: Whether attention patterns can be asked for.
        compile_model: Whether forward passes go through `torch.compile`, which takes minutes for
            the first of each shape, and pays in long runs. The model itself is not changed, and
            generates as it is.
        loaded_model: A model object.
        tokenizer: A fast tokenizer, or the name of one; that of `model_name` when omitted.
        chat_template_kwargs: Passed to `apply_chat_template`.
        consistency: What `retokenization_mask` demands: "full", that the whole input as text has
            the same tokens; "trigger", that the trigger by itself has; "none", nothing.
        **model_kwargs: Passed to `from_pretrained`, such as `revision` or `device_map`.

    Raises:
        ArgumentError: (a ValueError) If no model or no tokenizer is given, if the two do not belong
            together, or if an argument has no meaning beside the others.
        RequirementError: (a TypeError) If the model takes no embeddings, or the tokenizer is slow.
        ModelLoadError: (an OSError) If nothing can be loaded from the name or path.
    """

    _manager_class = LMHFTokenInputManager

    provides: Provides | None = {  # noqa: RUF012 - never changed
        Flow.TEXTS: {
            **_RESPONSES,
            "full_ids": ("require_generation",),
            "full_strs": ("require_generation",),
        },
        Flow.TOKENS: {**_RESPONSES, **_INSIDES, "input_ids": ()},
        Flow.EMBEDS: {**_RESPONSES, **_INSIDES, "input_embeds": ()},
    }
    optional_fields = MappingProxyType({"full_attentions": "use_eager_attention"})

    def __init__(
        self,
        model_name: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        forward_pass_batch_size: int | None = None,
        backward_pass_batch_size: int = 32,
        set_model_to_train: bool = False,
        use_prefix_cache: bool = True,
        use_eager_attention: bool = False,
        compile_model: bool = False,
        loaded_model: Any = None,
        tokenizer: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        consistency: str = "full",
        **model_kwargs: Any,
    ) -> None:
        is_automatic = forward_pass_batch_size is None
        forward_pass_batch_size = _MAX_BATCH_SIZE if is_automatic else forward_pass_batch_size
        check_batch_sizes(forward_pass_batch_size, backward_pass_batch_size)
        if isinstance(model_name, ActivationReader):
            self._reader, model_name = model_name, model_name.original_model
            tokenizer = tokenizer or getattr(self._reader, "tokenizer", None)
        is_loaded = loaded_model is not None or not isinstance(model_name, str)
        if use_eager_attention and not is_loaded:
            model_kwargs["attn_implementation"] = "eager"
        self._model = resolve_model(
            AutoModelForCausalLM,
            model_name,
            loaded_model,
            device=device,
            dtype=dtype,
            model_kwargs=model_kwargs,
        )
        self._tokenizer = resolve_tokenizer(model_name, tokenizer, self._model, model_kwargs)
        check_fit(self._model, self._tokenizer)
        _check_head(self._model)
        if use_eager_attention:
            _check_eager(self._model)
        else:
            self.provides = _without_attentions(type(self).provides)
        if self._reader is not None:
            self.provides = _with_activations(self.provides)
        self._model_name = model_name if isinstance(model_name, str) else name_of(self._model)
        self._embedding_layer = self._model.get_input_embeddings()
        is_paced = is_automatic and self.device.type == "cpu"
        self._paces = Paces(self._model) if is_paced else None
        self._forward_pass_batch_size = forward_pass_batch_size
        self._backward_pass_batch_size = backward_pass_batch_size
        self._set_model_to_train = set_model_to_train
        self._use_prefix_cache = use_prefix_cache
        self._has_attentions = use_eager_attention
        self._consistency: Consistency = check_consistency(consistency)
        self._codec = TextCodec(self._tokenizer)
        self._renderer = PromptRenderer(self._tokenizer, chat_template_kwargs)
        self._forward = Forward(self._model, compile_model=compile_model)

    def set_inputs_from_tokens(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; target responses get their token ids in a copy.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be, if the chat
                template refuses a template, or if one is longer than the model's context.
            ArgumentError: (a ValueError) If a target response has no tokens.
        """
        super().set_inputs_from_tokens(templates, targets)
        if self._use_prefix_cache:
            self._set_token_inputs().share_prefixes(self._make_prefix)

    @property
    def prefix_cache_report(self) -> tuple[PrefixReport, ...]:
        """For each template whether its beginning is computed once, and why not if it is not.

        Empty if `use_prefix_cache` is false.

        Raises:
            InputsNotSetError: Before `set_inputs_from_tokens`.
        """
        return tuple(prefix.report for prefix in self._set_token_inputs().prefixes)

    def set_inputs_from_texts(
        self, templates: Sequence[Template], targets: Targets | None = None
    ) -> None:
        """Prepare templates for a run; target responses get their token ids in a copy.

        Raises:
            TemplateError: If a template or the number of targets is not as it must be.
            ArgumentError: (a ValueError) If a target response has no tokens.
        """
        super().set_inputs_from_texts(
            templates, encode_targets(self._codec, targets, self.vocab_size)
        )

    def invoke_from_tokens(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        *,
        input_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        input_attention_mask: Int[Tensor, "batch pos"] | None = None,
        input_prefix_cache_kwargs: dict[str, Any] | None = None,
        input_slices: dict[str, slice] | None = None,
        require_full_logits: bool = True,
        require_hidden_states: bool = False,
        require_attentions: bool = False,
        require_first_token_logprobs: bool = False,
        require_generation_logits: bool = False,
        held_hidden_states: HeldStates | None = None,
        held_attentions: HeldStates | None = None,
        require_activations: Sequence[str] = (),
        count_backward: bool = False,
        max_new_tokens: int = 128,
        greedy_decode: bool = True,
    ) -> ModelOutput:
        """Run one forward pass over a batch that fits, and generate if that is asked for.

        Responses and their likeliest first tokens are those to the input without its target.

        Args:
            input_ids: Token ids.
            message_targets: Holds the target response; it is appended unless `input_slices` says
                that it has been.
            require_target_prefill: Whether to return the logits that predict the target response.
            require_generation: Whether to generate responses.
            input_embeds: Embeddings instead of token ids.
            input_attention_mask: 0 where a row is padded, on the left; None if no row is.
            input_prefix_cache_kwargs: As the inputs manager gives them: the `prefix` that the
                input, which is whole, begins with.
            input_slices: Where the parts of the input lie.
            require_full_logits: Whether to return the logits of every position.
            require_hidden_states: Whether to return the stream after each block (the last: normed).
            require_attentions: Whether to return attention patterns.
            require_first_token_logprobs: Whether to return the likeliest first tokens.
            require_generation_logits: Whether to return the logits of generated tokens.
            held_hidden_states: Which layers and positions of the stream to return; all when None.
            held_attentions: Which layers and positions of the patterns to return; all when None.
            require_activations: Names of activations to return; of models made of a bridge.
            count_backward: Whether usage statistics count a backward pass as well.
            max_new_tokens: How long a response may grow.
            greedy_decode: Whether to generate the likeliest token each time, else to sample.

        Raises:
            ArgumentError: (a ValueError) Unless exactly one of ids and embeddings is given, if
                there is no target to prefill, or no eager attention to take patterns from.
        """
        self._check_attentions(require_attentions)
        given, mask = single_input(input_ids, input_embeds), input_attention_mask
        appended = (input_slices or {}).get(SliceKey.APPENDED)
        n_prompt = given.shape[1] if appended is None else appended.start
        if require_target_prefill and appended is None:
            given, mask = self._append(given, mask, self._target_row(message_targets))
        return self._invoke(
            given,
            mask,
            n_prompt,
            wanted=Wanted(
                full_logits=require_full_logits,
                prefill=require_target_prefill,
                first_token=require_first_token_logprobs,
                hidden_states=require_hidden_states,
                attentions=require_attentions,
                held_hidden_states=held_hidden_states,
                held_attentions=held_attentions,
                activations=tuple(require_activations),
            ),
            count_backward=count_backward,
            decoding=Decoding(
                wanted=require_generation,
                logits=require_generation_logits,
                max_new_tokens=max_new_tokens,
                greedy=greedy_decode,
            ),
            prefix=prefix_of(input_prefix_cache_kwargs),
        )

    def invoke_from_texts(  # pyright: ignore[reportIncompatibleMethodOverride] - an unknown keyword is a TypeError
        self,
        input_texts: Sequence[Template],
        message_targets: MessageTargets | None = None,
        require_target_prefill: bool = False,
        require_generation: bool = False,
        require_first_token_logprobs: bool = False,
        *,
        require_generation_logits: bool = False,
        max_new_tokens: int = 128,
        greedy_decode: bool = True,
    ) -> ModelOutput:
        """Run the model on texts, each of them a prompt or a conversation.

        Responses, and the likeliest first tokens of one, are those to the prompt without its
        prefilled target.

        Args:
            input_texts: The prompts.
            message_targets: Holds the target response.
            require_target_prefill: Whether to return the logits that predict the target response.
            require_generation: Whether to generate responses.
            require_first_token_logprobs: Whether to return the likeliest first tokens.
            require_generation_logits: Whether to return the logits of generated tokens.
            max_new_tokens: How long a response may grow.
            greedy_decode: Whether to generate the likeliest token each time, else to sample.

        Returns:
            What was asked for. `full_ids` and `full_strs` hold the prompts, and the responses if
            there are any; rows of `full_ids` are padded on the left.

        Raises:
            TemplateError: (a ValueError) If the chat template refuses a prompt.
            ArgumentError: (a ValueError) If a prompt has no tokens or is longer than the context,
                or if there is no target to prefill.
        """
        rows = self._encode_prompts(input_texts)
        target = self._target_row(message_targets).tolist() if require_target_prefill else []
        with self._running(with_grad=torch.is_grad_enabled()):
            predicted = (
                self._predict(rows, target, first=require_first_token_logprobs)
                if target or require_first_token_logprobs
                else {}
            )
            prompts = self._pad(rows, limit=True)
            answers = self._answer(
                prompts.input_ids,
                prompts.mask,
                Decoding(
                    wanted=require_generation,
                    logits=require_generation_logits,
                    max_new_tokens=max_new_tokens,
                    greedy=greedy_decode,
                ),
            )
        if not predicted or answers:
            responses = answers.get("generated_response_ids", [()] * len(rows))
            wholes = [[*row, *map(int, ids)] for row, ids in zip(rows, responses, strict=True)]
            answers["full_ids"] = self._pad(wholes, limit=False).input_ids
            answers["full_strs"] = self._codec.decode(wholes)
        return ModelOutput(**predicted, **answers)


def _check_head(model: Any) -> None:
    if model.get_output_embeddings() is None:
        raise RequirementError(
            f"LMHFModel needs a causal language model, {type(model).__name__} predicts no tokens. "
            "Load it with AutoModelForCausalLM."
        )


def _check_eager(model: Any) -> None:
    used = getattr(model.config, "_attn_implementation", None)
    if used != "eager":
        raise ArgumentError(
            f"use_eager_attention=True, but the model given uses {used!r} attention and is not "
            "changed. Load it with attn_implementation='eager'."
        )


def _with_activations(provides: Provides | None) -> Provides | None:
    if provides is None:
        return None
    return {
        flow: fields if flow is Flow.TEXTS else {**fields, "activations": ()}
        for flow, fields in provides.items()
    }


def _without_attentions(provides: Provides | None) -> Provides | None:
    if provides is None:
        return None
    return {
        flow: {name: options for name, options in fields.items() if name != "full_attentions"}
        for flow, fields in provides.items()
    }

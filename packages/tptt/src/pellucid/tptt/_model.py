"""A pretrained model with linear attention, as a model of transformers."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from pellucid.core import CheckpointError, MissingDependencyError
from pellucid.tptt._checkpoint import (
    ADAPTER,
    WEIGHTS,
    canonical_name,
    find_file,
    load_tptt_safetensors,
    load_weights,
    save_weights,
)
from pellucid.tptt._config import TpttConfig, as_dict
from pellucid.tptt._injection import get_tptt_model, list_liza, set_mag_weight
from pellucid.tptt._states import LCache


class TpttModel(PreTrainedModel):
    """A causal language model whose attention modules have linear attention beside them.

    Args:
        config: What it is made of.
        backbone: The base model to convert, which is changed; loaded by the config's
            `base_model_name` when omitted.
        **kwargs: Given to the base model's `from_pretrained`.

    Attributes:
        backbone: The converted model, with adapters around it if the config has any.
        linear_cache: Shows what its layers remember.

    Raises:
        MissingDependencyError: If the config has adapters and peft is not installed.
    """

    config_class = TpttConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(self, config: TpttConfig, *, backbone: Any = None, **kwargs: Any) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = _find_loader(config).from_pretrained(
                config.base_model_name,
                attn_implementation=config.force_attn_implementation,
                **{"subfolder": config.base_model_subfolder or "", **kwargs},
            )
        if config.base_model_config is None:
            config.base_model_config = as_dict(backbone.config)
        self.linear_cache = LCache()
        self.backbone: Any = self.inject_liza_attention(backbone, config, self.linear_cache)
        if config.lora_config is not None:
            self.backbone = _add_lora(self.backbone, config.lora_config)
        self.generation_config = getattr(backbone, "generation_config", None)

    @property
    def tptt_model(self) -> Any:
        """The converted model, under its newer name."""
        return self.backbone

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Return what the base model returns; no cache is made in training.

        Args:
            input_ids: The tokens.
            attention_mask: Which of them count.
            labels: What to compute the loss of.
            inputs_embeds: Embeddings instead of tokens.
            position_ids: Where they stand.
            past_key_values: A cache of what stands before.
            use_cache: Whether to return one; never in training.
            logits_to_keep: How many of the last positions have logits, or which; 0 for all.
            **kwargs: Given to the base model.
        """
        given: dict[str, Any] = {
            "inputs_embeds": inputs_embeds,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": False if self.training else use_cache,
            "labels": labels,
        }
        # Not every base model takes each of them.
        kwargs |= {name: held for name, held in given.items() if held is not None}
        if isinstance(logits_to_keep, torch.Tensor) or logits_to_keep:
            kwargs["logits_to_keep"] = logits_to_keep
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with the base model's `generate`."""
        return self.backbone.generate(*args, **kwargs)

    def get_input_embeddings(self) -> Any:
        """Return the token embedding."""
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the LM head."""
        return self.backbone.get_output_embeddings()

    @property
    def mag_weight(self) -> float:
        """The share of linear attention in the first layer that has any."""
        return list_liza(self)[0].mag_weight

    def set_mag_weight(self, weight: float) -> None:
        """Set the share of linear attention in all layers, and in the config.

        Raises:
            ArgumentError: (a ValueError) If it is not from 0 to 1.
        """
        set_mag_weight(self, weight)
        self.config.mag_weight = float(weight)

    def merge_lora(self) -> None:
        """Add the adapters' weights to those that they adapt, and drop the adapters."""
        if self.config.lora_config is not None:
            self.backbone = self.backbone.merge_and_unload()
            self.config.lora_config = None

    @staticmethod
    def inject_liza_attention(
        backbone: Any, config: TpttConfig, linear_cache: LCache | None = None
    ) -> Any:
        """Put linear attention into a model, as a config says; the model is changed.

        Raises:
            NoTargetError: (a ValueError) If it has no attention modules of the names given.
        """
        model, _ = get_tptt_model(
            backbone,
            backbone.config,
            target_modules=config.target_modules_names,
            linear_cache=linear_cache,
            operator_mode=config.operator_mode,
            recurrent_config=config.recurrent_config,
            base_scale_attn=config.base_scale_attn,
            mag_weight=config.mag_weight,
            cross_gate=config.cross_gate,
            max_chunk_size=config.max_chunk_size,
            linear_precision=config.linear_precision,
            max_self_attn_length=config.max_self_attn_length,
            padding_side=config.padding_side,
            bidirectional=config.bidirectional,
            pooling_config=config.pooling_config,
            compat=config.compat,
            gate_granularity=config.gate_granularity,
            backend=config.backend,
            use_linear_checkpoint=config.use_linear_checkpoint,
        )
        return model

    def retie_lm_after_load(self, **kwargs: Any) -> None:
        """Make the LM head the token embedding again, if the base model's config says they are one.

        Args:
            **kwargs: `tie_word_embeddings`, to go before the config.
        """
        inner = self.backbone.get_base_model() if _has_adapters(self.backbone) else self.backbone
        if kwargs.get("tie_word_embeddings", inner.config.tie_word_embeddings):
            inner.tie_weights()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - no shards, no push
        self, path: str, *, adapters_only: bool = False, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """Write the config and the weights.

        Args:
            path: A directory, made if it is not there.
            adapters_only: Whether to write the adapters' weights alone; the base model is then
                loaded by its name again.
            state_dict: The weights, where they are not the model's own, as in a Trainer.
            **kwargs: What else a Trainer gives; weights are always written as one safetensors file.

        Raises:
            CheckpointError: (a ValueError) If there are no adapters to write.
        """
        del kwargs
        Path(path).mkdir(parents=True, exist_ok=True)
        self.config.mag_weight = self.mag_weight
        weights = self.state_dict() if state_dict is None else state_dict
        weights = {name.removeprefix("backbone."): value for name, value in weights.items()}
        if adapters_only:
            weights = {name: value for name, value in weights.items() if "lora_" in name}
            if not weights:
                raise CheckpointError("the model has no adapters. Use adapters_only=False.")
        save_weights(weights, Path(path, ADAPTER if adapters_only else WEIGHTS))
        Path(path, WEIGHTS if adapters_only else ADAPTER).unlink(missing_ok=True)
        self.config.save_pretrained(path)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(path)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load what `save_pretrained` wrote, in eval mode.

        Args:
            *args: The directory, or the name of a repository.
            **kwargs: `config`, in place of the one that is saved; `dtype` of the weights; `token`;
                `backbone`, the base model of adapters that were saved alone. Others are given to
                the base model's `from_pretrained`.

        Raises:
            CheckpointError: (a ValueError) If weights are missing, or of other shapes.
        """
        place = str(args[0] if args else kwargs.pop("pretrained_model_name_or_path"))
        config = kwargs.pop("config", None) or TpttConfig.from_pretrained(place)
        token, backbone = kwargs.pop("token", None), kwargs.pop("backbone", None)
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        path = find_file(place, WEIGHTS, token=token)
        if path is None:
            return _load_adapters(cls, config, place, backbone, token, dtype, kwargs)
        base = _find_loader(config).from_config(
            config.read_base(), attn_implementation=config.force_attn_implementation
        )
        base = base.to(_read_dtype(path) if dtype in (None, "auto") else dtype)
        model = cls(config, backbone=base)
        model.retie_lm_after_load()
        missing, unexpected = load_weights(path, model.backbone)
        lost = find_lost(model, missing)
        if lost or unexpected:
            raise CheckpointError(
                f"{str(path)!r} does not fit the model: it lacks {lost!r} and has {unexpected!r} "
                "beside."
            )
        return model.eval()


def _find_loader(config: TpttConfig) -> Any:
    """Return the class of transformers that makes base models for a task."""
    return AutoModelForCausalLM if config.model_task == "causal_lm" else AutoModel


def _load_adapters(
    cls: Any, config: Any, place: str, backbone: Any, token: Any, dtype: Any, kwargs: dict[str, Any]
) -> Any:
    options = kwargs if dtype is None or backbone is not None else {**kwargs, "dtype": dtype}
    model = cls(config, backbone=backbone, **options)
    if load_tptt_safetensors(place, model.backbone, token=token) is None:
        raise CheckpointError(f"{place!r} has neither {WEIGHTS} nor {ADAPTER}.")
    return model.eval()


def find_lost(model: TpttModel, missing: list[str]) -> list[str]:
    """Return the weights that no file holds, under another name neither."""
    named = _named_weights(model)
    loaded = {id(value) for name, value in named if name not in missing}
    return [name for name, value in named if name in missing and id(value) not in loaded]


def _named_weights(model: TpttModel) -> list[tuple[str, torch.Tensor]]:
    named = model.backbone.named_parameters(remove_duplicate=False)
    return [(canonical_name(name), value) for name, value in named]


def _read_dtype(path: Path) -> torch.dtype:
    with safe_open(path, framework="pt") as file:
        dtypes = {file.get_tensor(name).dtype for name in list(file.keys())[:1]}
    return next(iter(dtypes), torch.float32)


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "get_base_model")


def _add_lora(backbone: Any, lora_config: dict[str, Any]) -> Any:
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError("adapters need peft. Install pellucid-tptt[peft].") from error
    return get_peft_model(backbone, LoraConfig(**lora_config))


AutoConfig.register("tptt", TpttConfig, exist_ok=True)
AutoModelForCausalLM.register(TpttConfig, TpttModel, exist_ok=True)

"""Loading a model of transformers, or taking one that is loaded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from pellucid.core import ArgumentError, find_model_source

_CONTEXT_FIELDS = (
    "n_positions", "max_position_embeddings", "max_context_length", "max_length", "seq_length",
    "max_sequence_length",
)  # fmt: skip
# Families that published what they were at in training: beginnings of names, form of the
# revision, labels of the checkpoints.
_CHECKPOINTS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    (
        "EleutherAI/pythia",
        "step{}",
        (0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)),
    ),
    (
        "stanford-crfm/",
        "checkpoint-{}",
        (
            *range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20_000, 100),
            *range(20_000, 401_000, 1000),
        ),
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootOptions:
    """The arguments of `TransformerBridge.boot_transformers`, under the same names."""

    model_name: str | None = None
    hf_config_overrides: dict[str, Any] | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    tokenizer: Any = None
    load_weights: bool = True
    trust_remote_code: bool = False
    model_class: Any = None
    hf_model: Any = None
    device_map: Any = None
    n_devices: int | None = None
    max_memory: dict[Any, Any] | None = None
    n_ctx: int | None = None
    revision: str | None = None
    checkpoint_index: int | None = None
    checkpoint_value: int | None = None
    attn_implementation: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model and what belongs to it.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer, if it has one.
        processor: What makes its inputs of text and images, if it takes images.
        undo: What takes back what was set on a model that was there before.
    """

    model: Any
    tokenizer: Any = None
    processor: Any = None
    undo: tuple[Callable[[], None], ...] = ()


def load_model(options: BootOptions) -> Loaded:
    """Return the model that the options describe.

    Raises:
        ArgumentError: (a ValueError) If they exclude each other or do not fit the model.
    """
    _check(options)
    if options.hf_model is not None:
        return _take(options)
    found = find_model_source(str(options.model_name))
    if found is not None:
        return _take_from_source(options, *found)
    name, revision = str(options.model_name), _choose_revision(options)
    config = _configure(options, name, revision)
    model = _load(options, name, revision, config)
    where = {"revision": revision, "trust_remote_code": options.trust_remote_code}
    tokenizer = options.tokenizer
    if tokenizer is None and _has_file(name, revision, ("tokenizer.json", "tokenizer_config.json")):
        from transformers import AutoTokenizer  # noqa: PLC0415 - costs seconds

        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    processor = None
    if _has_file(name, revision, ("preprocessor_config.json", "processor_config.json")):
        from transformers import AutoProcessor  # noqa: PLC0415 - costs seconds

        processor = AutoProcessor.from_pretrained(name, **where)
    return Loaded(model=model, tokenizer=tokenizer, processor=processor)


def _check(options: BootOptions) -> None:
    if (options.model_name is None) == (options.hf_model is None) and options.hf_model is None:
        raise ArgumentError("give model_name=, a folder or a name on the hub, or hf_model=.")
    if options.device is not None and options.device_map is not None:
        raise ArgumentError("device and device_map exclude each other: say where in one of them.")
    if options.n_devices is not None and options.n_devices < 1:
        raise ArgumentError(f"n_devices={options.n_devices} must be at least 1.")
    chosen = (options.revision, options.checkpoint_index, options.checkpoint_value)
    if sum(one is not None for one in chosen) > 1:
        raise ArgumentError(
            "revision, checkpoint_index and checkpoint_value exclude each other: each says which "
            "version of the model is wanted."
        )
    if options.n_ctx is not None and options.n_ctx < 1:
        raise ArgumentError(f"n_ctx={options.n_ctx} must be at least 1.")


# A model that is loaded already.


def _take(options: BootOptions) -> Loaded:
    model: Any = options.hf_model
    only_for_loading = {
        "hf_config_overrides": options.hf_config_overrides, "model_class": options.model_class,
        "device_map": options.device_map, "n_devices": options.n_devices,
        "max_memory": options.max_memory, "n_ctx": options.n_ctx, "revision": options.revision,
        "checkpoint_index": options.checkpoint_index,
        "checkpoint_value": options.checkpoint_value,
    }  # fmt: skip
    meant = [name for name, held in only_for_loading.items() if held is not None]
    if meant:
        raise ArgumentError(f"{meant[0]} is for loading, and hf_model is loaded already.")
    weight = next(model.parameters(), torch.empty(0))
    if options.dtype is not None and options.dtype != weight.dtype:
        raise ArgumentError(
            f"hf_model has {weight.dtype} and dtype={options.dtype}; the bridge does not change a "
            "model that you pass. Say hf_model.to(dtype) first."
        )
    if options.device is not None and torch.device(options.device).type != weight.device.type:
        raise ArgumentError(
            f"hf_model is on {weight.device} and device={options.device!r}; the bridge does not "
            "move a model that you pass. Say hf_model.to(device) first."
        )
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    undo: tuple[Callable[[], None], ...] = ()
    if options.attn_implementation not in (None, before):
        model.set_attn_implementation(options.attn_implementation)
        undo = (lambda: model.set_attn_implementation(before),)
    return Loaded(model=model, tokenizer=options.tokenizer, undo=undo)


def _take_from_source(options: BootOptions, source: Any, name: str) -> Loaded:
    """Take a model that a package has at hand; it was made for us, so it may be moved."""
    model, tokenizer = source.load(name)
    return _take(
        dataclasses.replace(
            options,
            hf_model=model.to(device=options.device, dtype=options.dtype),
            tokenizer=options.tokenizer or tokenizer,
        )
    )


# A model to load.


def _choose_revision(options: BootOptions) -> str | None:
    index, value = options.checkpoint_index, options.checkpoint_value
    if index is None and value is None:
        return options.revision
    name = str(options.model_name)
    family = next((held for held in _CHECKPOINTS if name.startswith(held[0])), None)
    if family is None:
        known = ", ".join(held[0] for held in _CHECKPOINTS)
        raise ArgumentError(
            f"no checkpoints of {name!r} are known; known are those of {known}. Pass revision=."
        )
    _, form, labels = family
    if index is not None and not -len(labels) <= index < len(labels):
        raise ArgumentError(f"checkpoint_index={index} must be less than {len(labels)}.")
    label = labels[index] if index is not None else value
    if label not in labels:
        near = min(labels, key=lambda held: abs(held - int(label or 0)))
        raise ArgumentError(f"{name!r} has no checkpoint {label}; the nearest is {near}.")
    return form.format(label)


def _configure(options: BootOptions, name: str, revision: str | None) -> Any:
    from transformers import AutoConfig  # noqa: PLC0415 - costs seconds

    config: Any = AutoConfig.from_pretrained(
        name, revision=revision, trust_remote_code=options.trust_remote_code
    )
    for field, held in (options.hf_config_overrides or {}).items():
        if not hasattr(config, field):
            raise ArgumentError(f"{type(config).__name__} has no field {field!r} to override.")
        setattr(config, field, held)
    if options.n_ctx is not None:
        text = config.get_text_config()
        field = next((held for held in _CONTEXT_FIELDS if hasattr(text, held)), None)
        if field is None:
            raise ArgumentError(f"{type(config).__name__} has no field that n_ctx could set.")
        setattr(text, field, options.n_ctx)
    return config


def _load(options: BootOptions, name: str, revision: str | None, config: Any) -> Any:
    kind = options.model_class or _find_class(config)
    dtype = options.dtype or torch.float32
    attention = options.attn_implementation
    chosen = {} if attention is None else {"attn_implementation": attention}
    if not options.load_weights:
        make = getattr(kind, "from_config", None) or kind._from_config
        with torch.random.fork_rng():
            model = make(config, dtype=dtype, **chosen)
        return model.to(options.device or "cpu").eval()
    many = options.n_devices is not None and options.n_devices > 1
    device_map = options.device_map or ("balanced" if many else options.device or "cpu")
    memory = options.max_memory
    if many and memory is None:
        free = [torch.cuda.mem_get_info(number)[0] for number in range(options.n_devices or 0)]
        memory = dict(enumerate(free))
    spread = {"device_map": device_map} if options.device_map is not None or many else {}
    model = kind.from_pretrained(
        name, config=config, revision=revision, dtype=dtype, **chosen, **spread,
        **({} if memory is None else {"max_memory": memory}),
        **({"trust_remote_code": True} if options.trust_remote_code else {}),
    )  # fmt: skip
    return (model if spread else model.to(options.device or "cpu")).eval()


def _find_class(config: Any) -> Any:
    """Return the class that a configuration names, else the one for its kind."""
    import transformers  # noqa: PLC0415 - costs seconds

    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    if getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _has_file(name: str, revision: str | None, files: tuple[str, ...]) -> bool:
    from transformers.utils.hub import cached_file  # noqa: PLC0415 - costs seconds

    return any(
        cached_file(
            name, file, revision=revision,
            _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
        )
        for file in files
    )  # fmt: skip

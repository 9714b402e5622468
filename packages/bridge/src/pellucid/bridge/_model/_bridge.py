"""`TransformerBridge`: any transformer, with its activations by name."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.bridge._architectures._support import check_support, list_models
from pellucid.bridge._model._activation_reading import ActivationReading
from pellucid.bridge._model._analysing import Analysing
from pellucid.bridge._model._boot import BootOptions, load_model
from pellucid.bridge._model._generation import Generation
from pellucid.bridge._model._native import NativeConfig, build_native
from pellucid.bridge._model._processing import Processing
from pellucid.bridge._model._running import Running
from pellucid.bridge._model._tokens import Tokenization
from pellucid.bridge._weights._state_names import StateNames
from pellucid.core import ArgumentError


class TransformerBridge(  # pyright: ignore[reportIncompatibleMethodOverride] - the first two declare what the last one has
    Tokenization, Generation, Running, ActivationReading, Analysing, Processing
):
    """A transformer whose activations can be read, changed and differentiated by name.

    No module of the model is replaced or wrapped. A run with hooks installs what it needs on the
    original modules and takes it away afterwards; a run without hooks is the model's own.

    Args:
        model: A model of transformers.
        adapter: What it is; found by its class, else by its structure, when omitted.
        tokenizer: Its tokenizer, for inputs that are text.
        config: Its configuration, for modules that hold none.

    Raises:
        ArchitectureError: If no blocks can be found in the model.
    """

    @classmethod
    def boot_transformers(
        cls,
        model_name: str | None = None,
        hf_config_overrides: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        tokenizer: Any = None,
        load_weights: bool = True,
        trust_remote_code: bool = False,
        model_class: Any = None,
        hf_model: Any = None,
        device_map: Any = None,
        n_devices: int | None = None,
        max_memory: dict[Any, Any] | None = None,
        n_ctx: int | None = None,
        revision: str | None = None,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        attn_implementation: str | None = None,
    ) -> "TransformerBridge":
        """Load a model of transformers, or take one, and bridge it.

        Args:
            model_name: A folder, a name on the hub, or `SOURCE:NAME` with a source that a package
                registers in `pellucid.model_sources`, such as `zoo:tiny-chat`.
            hf_config_overrides: Fields of the model's configuration.
            device: Where to put the model; a CPU if None. Not with `device_map`.
            dtype: Of its weights; float32 if None. A model given as `hf_model` keeps its own.
            tokenizer: The tokenizer; the model's own if None and it has one.
            load_weights: Whether to load weights; else they are random, the caller's generator
                being left alone.
            trust_remote_code: Whether code that comes with the model may run.
            model_class: The class to load it as; found in its configuration if None.
            hf_model: A model that is loaded already. It is not changed, but for
                `attn_implementation`, which `restore` takes back.
            device_map: As accelerate takes it.
            n_devices: How many devices to spread the model over.
            max_memory: How much of each, as accelerate takes it.
            n_ctx: How many positions the model is to have.
            revision: Which version of the model.
            checkpoint_index: Which of the versions saved in training, counted from 0.
            checkpoint_value: The same by its label, such as the step.
            attn_implementation: "sdpa", "eager" or another one that transformers knows; its own
                choice if None.

        Raises:
            ArgumentError: (a ValueError) If arguments exclude each other or do not fit the model.
            ArchitectureError: (a ValueError) If no blocks can be found in the model.
        """
        options = BootOptions(
            model_name=model_name, hf_config_overrides=hf_config_overrides, device=device,
            dtype=dtype, tokenizer=tokenizer, load_weights=load_weights,
            trust_remote_code=trust_remote_code, model_class=model_class, hf_model=hf_model,
            device_map=device_map, n_devices=n_devices, max_memory=max_memory, n_ctx=n_ctx,
            revision=revision, checkpoint_index=checkpoint_index,
            checkpoint_value=checkpoint_value, attn_implementation=attn_implementation,
        )  # fmt: skip
        loaded = load_model(options)
        bridge = cls(loaded.model, tokenizer=loaded.tokenizer)
        bridge.processor = loaded.processor
        bridge._undo_boot.extend(loaded.undo)
        if model_name is not None:
            bridge.cfg.model_name = model_name
        return bridge

    @classmethod
    def boot_native(
        cls,
        config: NativeConfig,
        tokenizer: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        model_name: str = "native",
    ) -> "TransformerBridge":
        """Make a small decoder with random weights and bridge it.

        Args:
            config: A `TransformerBridgeConfig`, or a dictionary of its fields. With a `seed` the
                weights are drawn from it, and the caller's generator is left alone in any case.
            tokenizer: For inputs that are text.
            device: Where to put it; the configuration's if None.
            dtype: Of its weights; the configuration's if None.
            model_name: What it is called.

        Raises:
            ArgumentError: (a ValueError) If a field's value is not known, or it is a configuration
                of another kind of model.
        """
        model, adapter, cfg = build_native(config, device=device, dtype=dtype)
        cfg.model_name = model_name
        return cls(model, adapter, tokenizer, config=cfg)

    @staticmethod
    def list_supported_models(
        architecture: str | None = None, verified_only: bool = False
    ) -> list[str]:
        """Return well-known models on the hub that a bridge takes; see `check_model_support`.

        Args:
            architecture: Only those of one class, such as "LlamaForCausalLM".
            verified_only: Only those whose class has a record.
        """
        return list_models(architecture, verified_only)

    @staticmethod
    def check_model_support(model_id: str) -> dict[str, Any]:
        """Say whether a bridge takes a model, without downloading anything.

        Args:
            model_id: A folder, or a name on the hub.

        Returns:
            `is_supported`, `architecture_id`, `verified`, `verified_date`, `status`, `suggestion`
            and `error`, always all of them, None where there is nothing to say.
        """
        return check_support(model_id)

    def init_weights(self) -> None:
        """Draw the weights of a native model anew, as its configuration says.

        Raises:
            ArgumentError: (a ValueError) If the model is not a native one.
        """
        initialise = getattr(self.original_model, "init_weights_native", None)
        if initialise is None:
            raise ArgumentError(
                f"init_weights is for native models, this is {type(self.original_model).__name__}."
            )
        initialise()

    def restore(self) -> Any:
        """Detach all functions, take back what booting has set, and return the model as it was."""
        self.reset_hooks(including_permanent=True)
        while self._undo_boot:
            self._undo_boot.pop()()
        return self.original_model

    def close(self) -> None:
        """Restore the model; leaving a `with` block over the bridge does the same."""
        self.restore()

    def __enter__(self) -> "TransformerBridge":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Weights and where they are: the model's own.

    @property
    def n_params_total(self) -> int:
        """How many numbers the model's weights are; shared ones count once."""
        return sum(weight.numel() for weight in self.parameters())

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the model's weights."""
        return self.original_model.parameters(recurse)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the model's weights by the names that the model gives them."""
        return self.original_model.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Return the model's buffers by the names that the model gives them."""
        return self.original_model.named_buffers(prefix, recurse, remove_duplicate)

    def state_dict(self, *args: Any, names: str = "model", **kwargs: Any) -> Any:
        """Return the model's weights and buffers, all of them.

        Args:
            *args: As torch's `state_dict` takes them.
            names: "model" for the names that the model gives them; "transformer_lens" for names
                such as "blocks.0.attn.W_Q", with weights in the shapes that `weight_table` says,
                and what is no such weight by the part of the model that it belongs to.
            **kwargs: As torch's `state_dict` takes them.

        Raises:
            ArgumentError: (a ValueError) If it is not known which names are meant.
        """
        if names == "transformer_lens":
            return self._name_state().export(keep_vars=kwargs.get("keep_vars", False))
        if names != "model":
            raise ArgumentError(f"names must be 'model' or 'transformer_lens', got {names!r}.")
        # A module that holds a bridge asks with a dictionary of its own to be filled.
        if args or kwargs.get("destination") is not None:
            return super().state_dict(*args, **kwargs)
        return self.original_model.state_dict(**kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` returns, under either names or both.

        Args:
            state_dict: The weights and buffers.
            strict: Whether it must have all there are, and nothing else. If not, what is missing
                stays as it is.
            assign: Whether the model takes the tensors themselves, as torch has it.

        Returns:
            The missing and the unexpected keys, as torch has it.

        Raises:
            StateDictError: (a RuntimeError) If it does not fit the model; then nothing is loaded.
        """
        model = self.original_model
        if not state_dict.keys() <= model.state_dict().keys():
            state_dict = self._name_state().translate(state_dict, strict=strict)
        return model.load_state_dict(state_dict, strict=strict, assign=assign)

    def _name_state(self) -> StateNames:
        return StateNames(self.original_model, self._modules_by_name, self.weight_table())

    def to(self, *args: Any, **kwargs: Any) -> "TransformerBridge":
        """Move the model to a device or dtype, as torch's `to` does."""
        kwargs.pop("print_details", None)
        self.original_model.to(*args, **kwargs)
        weight = next(self.parameters(), None)
        if weight is not None:
            self.cfg.device, self.cfg.dtype = str(weight.device), weight.dtype
        return self

    def cuda(self, device: Any = None) -> "TransformerBridge":
        """Move the model to a GPU."""
        return self.to("cuda" if device is None else torch.device("cuda", device))

    def cpu(self) -> "TransformerBridge":
        """Move the model to the CPU."""
        return self.to("cpu")

    def mps(self) -> "TransformerBridge":
        """Move the model to an Apple GPU."""
        return self.to("mps")

    def train(self, mode: bool = True) -> "TransformerBridge":
        """Put the model into training mode, or out of it."""
        self.training = mode
        self.original_model.train(mode)
        return self

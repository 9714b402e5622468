"""Which models a bridge takes."""

from pathlib import Path
from typing import Any

from pellucid.bridge._architectures._registry import known_architectures

# Well-known models by class, for those who look for one to begin with.
_MODELS: dict[str, tuple[str, ...]] = {
    "BertForMaskedLM": ("google-bert/bert-base-uncased", "google-bert/bert-base-cased"),
    "BloomForCausalLM": ("bigscience/bloom-560m", "bigscience/bloom-1b1"),
    "FalconForCausalLM": ("tiiuae/falcon-7b",),
    "GPT2LMHeadModel": (
        "openai-community/gpt2", "openai-community/gpt2-medium", "openai-community/gpt2-large",
        "openai-community/gpt2-xl", "distilbert/distilgpt2",
    ),
    "GPTJForCausalLM": ("EleutherAI/gpt-j-6b",),
    "GPTNeoForCausalLM": ("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-1.3B"),
    "GPTNeoXForCausalLM": (
        "EleutherAI/pythia-14m", "EleutherAI/pythia-70m", "EleutherAI/pythia-160m",
        "EleutherAI/pythia-410m", "EleutherAI/pythia-1b", "EleutherAI/pythia-1.4b",
        "EleutherAI/pythia-2.8b", "EleutherAI/pythia-6.9b", "EleutherAI/gpt-neox-20b",
    ),
    "Gemma2ForCausalLM": ("google/gemma-2-2b", "google/gemma-2-9b"),
    "Gemma3ForCausalLM": ("google/gemma-3-270m", "google/gemma-3-1b-pt"),
    "GemmaForCausalLM": ("google/gemma-2b", "google/gemma-7b"),
    "GptOssForCausalLM": ("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    "LlamaForCausalLM": (
        "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-360M",
    ),
    "MambaForCausalLM": ("state-spaces/mamba-130m-hf", "state-spaces/mamba-1.4b-hf"),
    "MistralForCausalLM": ("mistralai/Mistral-7B-v0.1",),
    "MixtralForCausalLM": ("mistralai/Mixtral-8x7B-v0.1",),
    "OPTForCausalLM": ("facebook/opt-125m", "facebook/opt-1.3b"),
    "Olmo2ForCausalLM": ("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-1124-7B"),
    "Phi3ForCausalLM": ("microsoft/Phi-3-mini-4k-instruct",),
    "PhiForCausalLM": ("microsoft/phi-1", "microsoft/phi-1_5", "microsoft/phi-2"),
    "Qwen2ForCausalLM": ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B"),
    "Qwen3ForCausalLM": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B"),
    "StableLmForCausalLM": ("stabilityai/stablelm-2-1_6b",),
    "T5ForConditionalGeneration": ("google-t5/t5-small", "google-t5/t5-base"),
}  # fmt: skip


def list_models(architecture: str | None = None, verified_only: bool = False) -> list[str]:
    """Return well-known models, of one class or of all, sorted within a class."""
    verified = known_architectures()
    return [
        name
        for kind, names in _MODELS.items()
        if architecture in (None, kind) and (not verified_only or kind in verified)
        for name in names
    ]


def check_support(model_id: str) -> dict[str, Any]:
    """Say whether a bridge takes a model; see `TransformerBridge.check_model_support`."""
    report: dict[str, Any] = dict.fromkeys(
        ("architecture_id", "verified_date", "suggestion", "error")
    )
    kind = next((kind for kind, names in _MODELS.items() if model_id in names), None)
    if kind is None:
        kind, error = _read_class(model_id)
        report["error"] = error
    has_record = kind is not None and kind in known_architectures()
    status = "unknown" if kind is None else "described" if has_record else "inferred"
    if kind is None:
        report["suggestion"] = "Save its configuration to a folder, and ask about that folder."
    elif not has_record:
        report["suggestion"] = (
            "Its parts will be found by its structure; hook_table() shows what was found."
        )
    return {
        **report,
        "model_id": model_id,
        "architecture_id": kind,
        "is_supported": kind is not None,
        "verified": has_record,
        "status": status,
    }


def _read_class(model_id: str) -> tuple[str | None, str | None]:
    """Return the class of a model that is on this machine, or why it cannot be told."""
    from transformers import AutoConfig  # noqa: PLC0415 - costs seconds

    try:
        config: Any = AutoConfig.from_pretrained(model_id, local_files_only=True)
    except (OSError, ValueError) as error:
        where = "folder" if Path(model_id).is_dir() else "model that is on this machine"
        return None, f"{model_id!r} is no {where} with a configuration: {error}".split("\n")[0]
    names = getattr(config, "architectures", None) or []
    if not names:
        return None, f"the configuration of {model_id!r} names no class of models."
    return names[0], None

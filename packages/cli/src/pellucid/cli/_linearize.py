"""Converts a model to linear attention, and measures it before and after."""

import dataclasses
import json
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pellucid import zoo
from pellucid.cli._progress import count, make_console
from pellucid.core import ArgumentError
from pellucid.tptt import (
    TpttConfig,
    TpttModel,
    list_liza,
    load_base_model,
    make_lora_config,
    parse_mode_name,
)

_ZOO = "zoo:"
_PROMPT = 128
_DECODED = 16
_REPEATS = 3
_MAX_TOKENS = 4096
_WINDOW = 256


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is asked for.

    Attributes:
        model: The base model, as text.
        mode: The recurrent mode.
        mag_weight: The share of linear attention.
        targets: How the names of attention modules end.
        chunk_size: Tokens computed at a time.
        lora: Rank of adapters; 0 for none.
        text: A file to measure perplexity on.
    """

    model: str
    mode: str
    mag_weight: float
    targets: tuple[str, ...]
    chunk_size: int
    lora: int
    text: Path | None

    def __post_init__(self) -> None:
        parse_mode_name(self.mode)
        if not 0 <= self.mag_weight <= 1:
            raise ArgumentError(f"--mag-weight must be from 0 to 1, got {self.mag_weight!r}.")


def convert(asked: Conversion, out: Path) -> dict[str, Any]:
    """Convert a model, and write it with what was measured.

    Args:
        asked: What to do.
        out: The directory to write, which appears whole or not at all.

    Returns:
        What `result.json` holds.

    Raises:
        PellucidError: If anything is not as it must be.
    """
    if out.exists():
        raise ArgumentError(f"{str(out)!r} exists already. Name another directory with --out.")
    text = None if asked.text is None else _read(asked.text)
    base, tokenizer = load_base_model(asked.model)
    if list_liza(base):
        raise ArgumentError(
            f"{asked.model!r} has linear attention already. Begin with the model it was made of."
        )
    rows = _rows(asked, text, tokenizer)
    before = _measure(base, base, rows)
    with warnings.catch_warnings():
        # peft asks transformers in a way that it is about to give up
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing", FutureWarning)
        model = TpttModel(_make_config(asked, base), backbone=base).eval()
    after = _measure(model, model.backbone, rows)
    result = {
        **dataclasses.asdict(asked),
        "text": None if asked.text is None else str(asked.text),
        "layers": len(list_liza(model)),
        "before": before,
        "after": after,
    }
    _write(result, model, tokenizer, out)
    return result


def show(result: dict[str, Any], out: Path) -> None:
    """Print what was measured, as a table."""
    before, after = result["before"], result["after"]
    table = Table("", "before", "after", box=None, pad_edge=False)
    for label, key, write in (
        ("parameters", "parameters", count),
        ("trainable", "trainable", count),
        (f"memory of {_PROMPT} tokens, bytes", "memory_bytes", count),
        ("of it linear attention's state", "state_bytes", count),
        ("prefill, tokens/s", "prefill_tokens_per_s", lambda rate: count(round(rate))),
        ("decode, tokens/s", "decode_tokens_per_s", lambda rate: count(round(rate))),
        ("perplexity", "perplexity", lambda value: "-" if value is None else f"{value:.4g}"),
    ):
        table.add_row(label, write(before[key]), write(after[key]))
    console = make_console()
    console.print(f"{result['mode']} in {result['layers']} layers, share {result['mag_weight']:g}")
    console.print(table)
    console.print(f"model: {out}")
    console.print("AutoModelForCausalLM.from_pretrained reads it after import pellucid.tptt.")


def _make_config(asked: Conversion, base: Any) -> TpttConfig:
    targets = asked.targets or None
    lora = make_lora_config(base, asked.lora, attention=targets) if asked.lora else None
    return TpttConfig(
        base.config,
        base_model_name=asked.model,
        target_modules_names=targets,
        force_attn_implementation="sdpa",
        operator_mode=asked.mode,
        mag_weight=asked.mag_weight,
        max_chunk_size=asked.chunk_size,
        lora_config=lora,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"--text {str(path)!r} is not UTF-8 text: {error}.") from error


def _rows(asked: Conversion, text: str | None, tokenizer: Any) -> list[tuple[list[int], int]]:
    """Return rows of tokens, each with how many of its first are not to be predicted."""
    if text is not None:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:_MAX_TOKENS]
        rows = [(ids[at : at + _WINDOW], 1) for at in range(0, len(ids), _WINDOW)]
        rows = [row for row in rows if len(row[0]) > 1]
        if not rows:
            raise ArgumentError(
                f"--text {str(asked.text)!r} has {len(ids)} tokens; give 2 or more."
            )
        return rows
    if not asked.model.startswith(_ZOO):
        return []
    held_out = zoo.questions(asked.model.removeprefix(_ZOO))
    return [_encode(each, tokenizer) for each in held_out if each.split == "held-out"]


def _encode(question: zoo.Question, tokenizer: Any) -> tuple[list[int], int]:
    asked = [{"role": "user", "content": question.question}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(question.answer + tokenizer.eos_token, add_special_tokens=False)
    return before + answer["input_ids"], len(before)


@torch.no_grad()
def _measure(model: Any, inner: Any, rows: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
    sizes = [weight.numel() for weight in model.parameters()]
    trained = [weight.numel() for weight in model.parameters() if weight.requires_grad]
    vocabulary = inner.get_input_embeddings().num_embeddings
    ids = torch.arange(_PROMPT)[None] % vocabulary
    prefill: list[float] = []
    decode: list[float] = []
    remembered: dict[int, tuple[str, torch.Tensor]] = {}
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        cache = model(ids, use_cache=True).past_key_values
        middle = time.perf_counter()
        remembered = _tensors(cache)
        begin_decode = time.perf_counter()
        for _ in range(_DECODED):
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
        decode.append(_DECODED / (time.perf_counter() - begin_decode))
        prefill.append(_PROMPT / (middle - begin))
    return {
        "parameters": sum(sizes),
        "trainable": sum(trained),
        "memory_bytes": sum(_bytes(held) for _, held in remembered.values()),
        "state_bytes": sum(
            _bytes(held) for name, held in remembered.values() if "recurrent_state" in name
        ),
        "prefill_tokens_per_s": max(prefill),
        "decode_tokens_per_s": max(decode),
        "perplexity": _perplexity(model, rows),
    }


def _tensors(cache: Any) -> dict[int, tuple[str, torch.Tensor]]:
    """Return every tensor that a cache holds, once, with the name of what holds it."""
    found: dict[int, tuple[str, torch.Tensor]] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.setdefault(value.data_ptr(), (name, value))
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(name, item)

    for layer in cache.layers:
        for name, value in vars(layer).items():
            visit(name, value)
    return found


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _perplexity(model: Any, rows: Sequence[tuple[list[int], int]]) -> float | None:
    total, tokens = 0.0, 0
    for ids, known in rows:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, known - 1 : -1].float()
        wanted = torch.tensor(ids[known:])
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        tokens += len(wanted)
    return math.exp(total / tokens) if tokens else None


def _write(result: dict[str, Any], model: Any, tokenizer: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        written = json.dumps(result, indent=1, allow_nan=False) + "\n"
        (folder / "result.json").write_text(written, encoding="utf-8")
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

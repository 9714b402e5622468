"""Looks into one run of a model: attention, logit lens, and what speaks for the next token."""

import base64
import dataclasses
import json
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from pellucid.bridge import ActivationCache, ArchitectureError, TransformerBridge
from pellucid.cli._pages import page_template
from pellucid.cli._progress import make_console
from pellucid.cli._rundir import write_whole
from pellucid.cli._visible import visible
from pellucid.core import ArgumentError, find_model_source

_N_SAID = 5
_N_BARS = 20
_MAX_TOKENS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked for.

    Attributes:
        model: The model, as text.
        prompt: What it is given.
        raw: Whether the prompt is taken as it is though the model has a chat template.
        token: The token whose logit is taken apart; the likeliest if None.
        against: The token whose logit is subtracted; the likeliest other one if None.
        report: Where to write the page, if anywhere.
    """

    model: str
    prompt: str
    raw: bool
    token: str | None
    against: str | None
    report: Path | None

    def to_command(self) -> str:
        """Return the command that asks this again."""
        words = ["pellucid", "inspect", self.model, self.prompt]
        words += ["--raw"] if self.raw else []
        for name in ("token", "against", "report"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join(words)


def look(asked: Question) -> dict[str, Any]:
    """Run the model, and return what the page shows.

    Raises:
        PellucidError: If anything is not as it must be.
    """
    if asked.report is not None and asked.report.is_dir():
        raise ArgumentError(f"{str(asked.report)!r} is a directory. Name a file with --report.")
    bridge = _boot(asked.model)
    prompt, is_chat = _render(bridge, asked)
    tokens = bridge.to_tokens(prompt, prepend_bos=False if is_chat else None, truncate=False)
    if not 1 <= tokens.shape[1] <= _MAX_TOKENS:
        raise ArgumentError(
            f"the prompt has {tokens.shape[1]} tokens; from 1 to {_MAX_TOKENS} can be shown."
        )
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(tokens)
        return {
            "model": asked.model,
            "prompt": prompt,
            "n_layers": bridge.cfg.n_layers,
            "d_model": bridge.cfg.d_model,
            "tokens": [_show(text) for text in bridge.to_str_tokens(tokens[0])],
            "next": _say(bridge, logits[0, -1]),
            "command": asked.to_command(),
            "version": version("pellucid-cli"),
            **_read_patterns(cache),
            **_read_lens(bridge, cache),
            **_read_attribution(bridge, cache, logits[0, -1], asked),
        }


def write_page(page: dict[str, Any], path: Path) -> None:
    """Write what was seen as a page that needs nothing but itself."""
    data = {name: page[name] for name in ("tokens", "layers", "lens", "attribution")}
    # In a script no tag may end it; what the browser parses is the same.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page_template("inspect.html.jinja").render(page=page, data=_Raw(text)))


def show(page: dict[str, Any], path: Path | None) -> None:
    """Print what was seen, in short."""
    console = make_console()
    said = ", ".join(f"{one['token']!r} {one['probability']:.1%}" for one in page["next"])
    console.print(f"after {page['tokens'][-1]!r} the model says {said}", markup=False)
    if page["lens"]:
        table = Table("after", "it would say", "how surely", box=None, pad_edge=False)
        lens = page["lens"]
        for label, row, shares in zip(
            lens["rows"], lens["tokens"], lens["probabilities"], strict=True
        ):
            table.add_row(label, repr(row[-1][0]), f"{shares[-1][0]:.1%}")
        console.print(table)
    if page["attribution"]:
        table = Table("part", "adds", box=None, pad_edge=False)
        for part in page["attribution"]["parts"][:8]:
            table.add_row(part["label"], f"{part['score']:+.3f}")
        held = page["attribution"]
        console.print(f"what speaks for {held['token']} over {held['against']}:", markup=False)
        console.print(table)
    for missing in ("no_attention", "no_lens", "no_attribution"):
        if page.get(missing):
            console.print(page[missing], markup=False)
    if path is not None:
        console.print(f"page: {path}", markup=False)


def _boot(model: str) -> Any:
    if find_model_source(model) is None and not Path(model).exists() and model.startswith("."):
        raise ArgumentError(f"there is no {model!r}. Name a directory, zoo:NAME or a hub name.")
    try:
        return TransformerBridge.boot_transformers(model)
    except OSError as error:
        raise ArgumentError(
            f"no model can be loaded from {model!r}. Name a directory that save_pretrained wrote, "
            "a name on the Hugging Face hub, or zoo:NAME."
        ) from error


def _render(bridge: Any, asked: Question) -> tuple[str, bool]:
    """Return the prompt as the model gets it, and whether a chat template has made it."""
    if asked.raw or not getattr(bridge.tokenizer, "chat_template", None):
        return asked.prompt, False
    messages = [{"role": "user", "content": asked.prompt}]
    text: str = bridge.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return text, True


def _say(bridge: Any, logits: Tensor) -> list[dict[str, Any]]:
    shares, ids = logits.float().softmax(-1).topk(min(_N_SAID, len(logits)))
    return [
        {"token": _show(bridge.to_single_str_token(int(i))), "probability": float(share)}
        for share, i in zip(shares, ids, strict=True)
    ]


def _read_patterns(cache: ActivationCache) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    for layer in range(cache.bridge.cfg.n_layers):
        if ("pattern", layer) not in cache:
            continue
        pattern = cache["pattern", layer][0]
        as_bytes = (pattern.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        layers.append(
            {
                "label": str(layer),
                "heads": len(pattern),
                "patterns": base64.b64encode(as_bytes.tobytes()).decode("ascii"),
            }
        )
    missing = "" if layers else "This model has no attention patterns to show."
    return {"layers": layers or None, "no_attention": missing}


def _read_lens(bridge: Any, cache: ActivationCache) -> dict[str, Any]:
    try:
        shares, ids = cache.logit_lens()[:, 0].float().softmax(-1).topk(_N_SAID)
    except ArchitectureError as error:
        return {"lens": None, "no_lens": str(error)}
    words = {int(i): _show(bridge.to_single_str_token(int(i))) for i in ids.unique()}
    rows = ["the embeddings", *(f"block {n}" for n in range(bridge.cfg.n_layers))]
    return {
        "lens": {
            "rows": rows,
            "tokens": [[[words[i] for i in place] for place in row] for row in ids.tolist()],
            "probabilities": [
                [[round(share, 4) for share in place] for place in row] for row in shares.tolist()
            ],
        },
        "no_lens": "",
    }


def _read_attribution(
    bridge: Any, cache: ActivationCache, logits: Tensor, asked: Question
) -> dict[str, Any]:
    best = logits.topk(2).indices.tolist()
    token = best[0] if asked.token is None else bridge.to_single_token(asked.token)
    other = next(i for i in best if i != token)
    other = other if asked.against is None else bridge.to_single_token(asked.against)
    try:
        heads, head_labels = cache.stack_head_results(return_labels=True, pos_slice=-1)
        rest, rest_labels = cache.decompose_resid(mode="mlp", return_labels=True, pos_slice=-1)
        parts = torch.cat([heads, rest])
        scores = cache.logit_attrs(parts, token, other, pos_slice=-1)[:, 0].float()
    except ArchitectureError as error:
        return {"attribution": None, "no_attribution": str(error)}
    labels = [*head_labels, *rest_labels]
    order = scores.abs().argsort(descending=True)[:_N_BARS].tolist()
    return {
        "attribution": {
            "token": _show(bridge.to_single_str_token(token)),
            "against": _show(bridge.to_single_str_token(other)),
            "parts": [_name_part(labels[i], float(scores[i])) for i in order],
        },
        "no_attribution": "",
    }


def _name_part(label: str, score: float) -> dict[str, Any]:
    layer, _, head = label.removeprefix("L").partition("H")
    if layer.isdigit() and head.isdigit():
        return {"label": label, "layer": int(layer), "head": int(head), "score": round(score, 4)}
    number, _, kind = label.partition("_")
    shown = f"MLP {number}" if kind == "mlp_out" else label
    return {"label": shown, "layer": None, "head": None, "score": round(score, 4)}


def _show(text: str) -> str:
    """Return a token with the spaces at its ends to be seen: they tell tokens apart."""
    inner = text.strip(" ")
    before, _, after = text.partition(inner) if inner else (text, "", "")
    return visible("·" * len(before) + inner + "·" * len(after))


class _Raw(str):
    """Text that is not to be escaped again."""

    __slots__ = ()

    def __html__(self) -> str:
        return self

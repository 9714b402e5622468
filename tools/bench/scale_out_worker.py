"""One process of `scale_out.py`: scores candidates, alone or with others of `accelerate launch`.

    python tools/bench/scale_out_worker.py OUT_FILE STEPS

Every process makes the same random Llama and makes steps of GCG on it; the first writes the seconds
that each step's gradients and losses took, and the losses, which do not depend on the number of
processes.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pellucid.core import Targets
from pellucid.hf import LMHFModel, shard_candidates
from pellucid.losses import PrefillCELoss
from pellucid.testing import tiny_tokenizer

N_CANDIDATES, BATCH, TOP_K = 64, 16, 64
START = "! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !"


def make_model() -> LMHFModel:
    """Return the model, the same in every process, ready for triggers."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llama = LlamaForCausalLM(config).eval()
    model = LMHFModel(llama, tokenizer=tokenizer, consistency="none", forward_pass_batch_size=BATCH)
    targets = Targets(target_response_strs=["It was the best of times, it was the worst of times."])
    model.set_inputs_from_tokens(["Tell me {{OPTIMIZED_TRIGGER}} now."], targets)
    return model


def main(out: Path, n_steps: int) -> None:
    """Make steps, and write what they took."""
    torch.set_num_threads(1)
    model, loss = shard_candidates(make_model()), PrefillCELoss()
    draw = torch.Generator().manual_seed(0)
    best = model.encode_trigger(START)[None]
    rows: list[tuple[float, float]] = []
    found: list[float] = []
    for _ in range(n_steps + 1):  # the first is not counted
        began = time.perf_counter()
        topk = model.compute_topk_from_tokens(loss, best, TOP_K).token_ids[0]
        at = torch.randint(0, best.shape[1], (N_CANDIDATES,), generator=draw)
        which = torch.randint(0, topk.shape[1], (N_CANDIDATES,), generator=draw)
        ids = best.repeat(N_CANDIDATES, 1)
        ids[torch.arange(N_CANDIDATES), at] = topk[at, which]
        between = time.perf_counter()
        losses = model.compute_loss_from_tokens(ids, loss)
        best = ids[losses.argmin()][None]
        found.append(float(losses.min()))
        rows.append((between - began, time.perf_counter() - between))
    if os.environ.get("RANK", "0") == "0":
        held = {"rows": rows[1:], "losses": found}
        out.write_text(json.dumps(held), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

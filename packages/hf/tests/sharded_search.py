"""A small greedy search, run by `accelerate launch`; each process saves what it found.

The launcher's `--multi_gpu` is what starts several processes, on CPUs as well.

accelerate launch --multi_gpu --num_processes 2 sharded_search.py DIRECTORY
"""

import json
import sys
from pathlib import Path

import torch

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER, BaseLoss, Targets
from pellucid.hf import LMHFModel, shard_candidates
from pellucid.testing import tiny_llama, tiny_tokenizer

N_STEPS, N_CANDIDATES, N_TRIGGER = 3, 13, 6


class TargetNLL(BaseLoss):
    """Mean negative log-likelihood of the target."""

    require_target_prefill = True

    def __call__(self, prefill_response_logits, target_response_toks):
        picked = prefill_response_logits.log_softmax(dim=-1)[
            :, torch.arange(len(target_response_toks)), target_response_toks
        ]
        return -picked.mean(dim=1)


def prepare():
    """Return a model with two templates, the same in every process."""
    lm = LMHFModel(
        tiny_llama(), tokenizer=tiny_tokenizer(), consistency="none", forward_pass_batch_size=4
    )
    p = OPTIMIZED_TRIGGER_PLACEHOLDER
    targets = Targets(target_response_strs=["Yes, it is.", "No"])
    lm.set_inputs_from_tokens([f"Tell me\n{p} now", f"Why?\n{p}"], targets)
    return lm


def search(lm):
    """Return the losses of each step, the final trigger, and the usage statistics."""
    draw, loss = torch.Generator().manual_seed(0), TargetNLL()
    best = torch.randint(0, 384, (1, N_TRIGGER), generator=draw)
    history = []
    for _ in range(N_STEPS):
        topk = lm.compute_topk_from_tokens(loss, best, 8).token_ids[0]
        at = torch.randint(0, N_TRIGGER, (N_CANDIDATES,), generator=draw)
        which = torch.randint(0, 8, (N_CANDIDATES,), generator=draw)
        ids = best.repeat(N_CANDIDATES, 1)
        ids[torch.arange(N_CANDIDATES), at] = topk[at, which]
        losses = lm.compute_loss_from_tokens(ids, loss, keep_message_dim=True)
        history.append(losses)
        best = ids[losses.mean(dim=0).argmin()][None]
    return {
        "losses": torch.stack(history).tolist(),
        "trigger": best.tolist(),
        "usage": lm.get_usage_stats(),
    }


def main():
    """Search together, then disagree on purpose."""
    lm = shard_candidates(prepare())
    found = search(lm)
    index = lm._shards._index
    try:
        lm.compute_loss_from_tokens(torch.full((2, N_TRIGGER), 3 + index), TargetNLL())
    except ValueError as error:
        found["refused"] = str(error)
    (Path(sys.argv[1]) / f"{index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

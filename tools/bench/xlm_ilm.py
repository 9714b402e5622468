r"""Measure a training step of the family ilm beside xlm-core's, and the memory of its loss.

    uv run python tools/bench/xlm_ilm.py --peer DIRECTORY --out docs/measurements/xlm-ilm.md

Both have the same network, batches of the same examples, AdamW and clipping; each works in a
process and an environment of its own, and they take turns. xlm-core's environment is made in
DIRECTORY if it is not there. The memory is that of the loss alone; the largest size, of which there
are 6.6 GB of logits, is left out by --sizes 2.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio
from xlm import PEER, PEER_PACKAGES

SETTINGS = {
    "star_easy": "star graphs (26 + 8 tokens, 27 ids), batch 64, width 64, 2 layers",
    "text": "texts (126 tokens, 8,007 ids), batch 8, width 128, 2 layers",
}
SIZES = [(4, 256, 16_384), (8, 512, 32_768), (32, 1024, 50_000)]
_PAGE = """# What a training step of ilm costs

Written by `tools/bench/xlm_ilm.py`: processor milliseconds of one thread, medians of {rounds}
rounds of {steps} steps that take turns; a ratio is the median of the rounds' ratios. A step is the
loss, its gradient, clipping and AdamW; a batch is collated from examples. Networks are alike: no
dropout, relu, no mixing of neighbours, untied, no norm before the logits.

The environment of xlm-core is its own:
{versions}.

| setting | step, ms | {peer} | ratio | collating, ms | {peer} | ratio | both, ratio |
|---|---:|---:|---:|---:|---:|---:|---:|
{steps_table}

{settings}

## Memory of the loss

The most bytes allocated at once while logits are made and the loss and all gradients are computed,
by the logits' own size; the weights' gradient is among them. `dense` is a softmax over the whole
row and a gather, without the dense target that xlm-core makes beside it.

| rows x slots x ids | logits, MB | ilm | dense |
|---|---:|---:|---:|
{memory}
"""


def main() -> None:
    options = read_options()
    python = make_environment(options.peer / "xlm-core", PEER_PACKAGES)
    own = Contestant("xlm_ilm_worker.py", OWN_PYTHON, "own")
    peer = Contestant("xlm_ilm_worker.py", python, "peer", environment={"HF_HUB_OFFLINE": "1"})
    versions = peer.read()["versions"]
    own.read()
    rows = [compare(name, own, peer, options) for name in options.settings]
    memory = [weigh(own, size) for size in SIZES[: options.sizes]]
    for contestant in (own, peer):
        contestant.stop()
    page = _PAGE.format(
        rounds=options.rounds,
        steps=options.steps,
        versions=versions,
        peer=PEER,
        steps_table="\n".join(rows),
        settings="\n".join(f"- {name}: {SETTINGS[name]}" for name in options.settings),
        memory="\n".join(memory),
    )
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peer", type=Path, required=True, help="where its environment is, or goes"
    )
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many, smallest first")
    return parser.parse_args()


def compare(name: str, own: Contestant, peer: Contestant, options: argparse.Namespace) -> str:
    """Let both make steps in turn, and return a line of the table."""
    found: dict[str, list[list[float]]] = {"own": [], "peer": []}
    for round_ in range(options.rounds + 1):
        for side, contestant in (("own", own), ("peer", peer)):
            answer = contestant.ask(setting=name, steps=options.steps)
            if round_:  # the first is a warm-up
                found[side].append([answer["step_ms"], answer["collate_ms"]])
    (steps, collating), (peer_steps, peer_collating) = (
        list(zip(*found[side], strict=True)) for side in ("own", "peer")
    )
    whole, peer_whole = ([a + b for a, b in found[side]] for side in ("own", "peer"))
    cells = [
        name,
        f"{statistics.median(steps):.1f}",
        f"{statistics.median(peer_steps):.1f}",
        f"{median_ratio(peer_steps, steps):.2f}x",
        f"{statistics.median(collating):.2f}",
        f"{statistics.median(peer_collating):.2f}",
        f"{median_ratio(peer_collating, collating):.1f}x",
        f"{median_ratio(peer_whole, whole):.2f}x",
    ]
    return "| " + " | ".join(cells) + " |"


def weigh(own: Contestant, size: tuple[int, int, int]) -> str:
    """Return a line of the second table."""
    n_bytes = 4 * size[0] * size[1] * size[2]
    # What takes three times the largest logits would need a larger machine.
    kinds = ("lean", "dense") if size != SIZES[-1] else ("lean",)
    shares: dict[str, Any] = {kind: own.ask(weigh=kind, size=size)["peak"] for kind in kinds}
    found = [
        f"{shares[kind] / n_bytes:.3f}" if kind in shares else "" for kind in ("lean", "dense")
    ]
    cells = (" x ".join(f"{length:,}" for length in size), f"{n_bytes / 1e6:,.0f}", *found)
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

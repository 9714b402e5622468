r"""Measure a training step of the family flexmdm beside xlm-core's.

    uv run python tools/bench/xlm_flexmdm.py --peer DIRECTORY --out docs/measurements/xlm-flexmdm.md

Both have the same network, batches of the same examples, AdamW and clipping; each works in a
process and an environment of its own, and they take turns. xlm-core's environment is made in
DIRECTORY if it is not there.
"""

import argparse
import statistics
from pathlib import Path

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio
from xlm import PEER, PEER_PACKAGES

SETTINGS = {
    "star_easy": "star graphs (26 + 8 tokens, 27 ids), batch 64, width 64, 2 layers",
    "text": "texts (126 tokens, 8,007 ids), batch 8, width 128, 2 layers",
}
_PAGE = """# What a training step of flexmdm costs

Written by `tools/bench/xlm_flexmdm.py`: processor milliseconds of one thread, medians of {rounds}
rounds of {steps} steps that take turns; a ratio is the median of the rounds' ratios. A step is the
loss with its noise, its gradient, clipping and AdamW; a batch is collated from examples. Networks
are alike: no dropout, relu, no mixing of neighbours, untied; linear schedules, expected gaps.

The environment of xlm-core is its own:
{versions}.

| setting | step, ms | {peer} | ratio | collating, ms | {peer} | ratio | both, ratio |
|---|---:|---:|---:|---:|---:|---:|---:|
{steps_table}

{settings}
"""


def main() -> None:
    options = read_options()
    python = make_environment(options.peer / "xlm-core", PEER_PACKAGES)
    own = Contestant("xlm_flexmdm_worker.py", OWN_PYTHON, "own")
    peer = Contestant("xlm_flexmdm_worker.py", python, "peer", environment={"HF_HUB_OFFLINE": "1"})
    versions = peer.read()["versions"]
    own.read()
    rows = [compare(name, own, peer, options) for name in options.settings]
    for contestant in (own, peer):
        contestant.stop()
    page = _PAGE.format(
        rounds=options.rounds,
        steps=options.steps,
        versions=versions,
        peer=PEER,
        steps_table="\n".join(rows),
        settings="\n".join(f"- {name}: {SETTINGS[name]}" for name in options.settings),
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


if __name__ == "__main__":
    main()

"""Compare training steps of every family with those of xlm-core, in turn.

    uv run python tools/bench/xlm_steps.py --peer DIRECTORY --out docs/measurements/xlm-steps.md

Both sides have networks of the same sizes, batches of the same examples, AdamW and clipping; each
works in a process and an environment of its own, which uv makes in DIRECTORY if it is not there.
Rounds of steps take turns, and ratios are taken within a round: above 1 the peer takes longer.
"""

import argparse
import statistics
from pathlib import Path

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio
from xlm import PEER, PEER_PACKAGES

FAMILIES = ("arlm", "mlm", "mdlm", "ilm", "flexmdm")
SETTINGS = {
    "star_easy": "star graphs (26 + 8 tokens, 27 ids), batch 64, width 64, 2 layers, 4 heads",
    "text": "texts (126 tokens, 8,007 ids), batch 8, width 128, 2 layers, 4 heads",
}
GOAL = 1.1
_PAGE = """# What a training step costs, family by family

Written by `tools/bench/xlm_steps.py`: processor milliseconds of one thread, medians of {rounds}
rounds of {steps} steps that take turns with those of {peer}; a ratio is the median of the rounds'
ratios, above 1 where the peer takes longer. A step is the loss with its noise, its gradient,
clipping and AdamW; a batch is collated from examples. Networks are alike: no dropout, relu, no
mixing of neighbours, untied. The goal is {goal} for both together.

The environment of xlm-core is its own:
{versions}.

| family | setting | step | peer | ratio | collating | peer | ratio | both, ratio | |
|---|---|---:|---:|---:|---:|---:|---:|---:|---|
{table}

{settings}

The collator of xlm-core's mdlm for prompts fails (it adds a number and a schedule), so for mdlm
star graphs are whole texts on both sides.
"""


def main() -> None:
    options = read_options()
    python = make_environment(options.peer / "xlm-core", PEER_PACKAGES)
    versions, rows = PEER, list[str]()
    for family in options.families:
        own = Contestant("xlm_steps_worker.py", OWN_PYTHON, "own", family)
        offline = {"HF_HUB_OFFLINE": "1"}
        peer = Contestant("xlm_steps_worker.py", python, "peer", family, environment=offline)
        own.read()
        versions = peer.read()["versions"]
        for name in SETTINGS:
            rows.append(compare(family, name, own, peer, options))
            # What was found stays seen, should a later family break off.
            print(rows[-1], flush=True)
        for contestant in (own, peer):
            contestant.stop()
    page = _PAGE.format(
        rounds=options.rounds,
        steps=options.steps,
        peer=PEER,
        goal=GOAL,
        versions=versions,
        table="\n".join(rows),
        settings="\n".join(f"- {name}: {meaning}" for name, meaning in SETTINGS.items()),
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
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    return parser.parse_args()


def compare(
    family: str, setting: str, own: Contestant, peer: Contestant, options: argparse.Namespace
) -> str:
    """Let both make steps in turn, and return a line of the table."""
    failure = peer.ask(setting=setting, steps=1).get("error")
    if failure is not None:
        return f"| {family} | {setting} | | | | | | | | xlm-core fails: {failure} |"
    found: dict[str, list[dict[str, float]]] = {"own": [], "peer": []}
    for round_ in range(options.rounds + 1):
        for side, contestant in (("own", own), ("peer", peer)):
            answer = contestant.ask(setting=setting, steps=options.steps)
            if round_:  # the first is a warm-up
                found[side].append(answer)
    cells = [family, setting]
    for part in ("step", "collate"):
        ours, theirs = ([each[part] for each in found[side]] for side in ("own", "peer"))
        medians = (f"{statistics.median(times):.2f}" for times in (ours, theirs))
        cells += [*medians, f"{median_ratio(theirs, ours):.2f}"]
    whole, peer_whole = ([sum(each.values()) for each in found[side]] for side in ("own", "peer"))
    ratio = median_ratio(peer_whole, whole)
    cells += [f"{ratio:.2f}", "met" if ratio >= GOAL else "missed"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

"""Compare training steps of families with those of xlm-core, in one run.

    uv run python tools/bench/xlm_steps.py --peer DIRECTORY --out docs/measurements/xlm-steps.md

A step collates a batch, reads it forward and backward, clips, and updates the weights; both sides
have networks of the same sizes, dropout and optimizer, and train on the same texts. Each runs in a
process and an environment of its own (uv makes that of xlm-core in DIRECTORY if it is not there);
blocks of steps take turns, and ratios are taken between neighbours.
"""

import argparse
import statistics
from pathlib import Path

from contestant import OWN_PYTHON, Contestant, make_environment, median_ratio
from xlm import PEER, PEER_PACKAGES
from xlm_steps_worker import SIZES

FAMILIES = ("mdlm",)
STEPS = {"star": 10, "text": 3}
_PAGE = """# What a training step costs

Written by `tools/bench/xlm_steps.py`: milliseconds of processor time of one thread for a step, with
its batch; medians of {blocks} blocks that take turns with those of the peer, {peer}. The ratio
is the median of the ratios of neighbouring blocks: above 1 the peer takes longer.

| family | texts | weights | pellucid, ms | xlm-core, ms | ratio |
|---|---|---:|---:|---:|---:|
{rows}

{texts}

Prompts with suffixes, of which star graphs are made:

| family | pellucid | xlm-core |
|---|---|---|
{suffixes}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare training steps with those of xlm-core.")
    parser.add_argument("--peer", type=Path, required=True, help="where its environment is")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--blocks", type=int, default=15)
    options = parser.parse_args()
    python = make_environment(options.peer / "xlm-core", PEER_PACKAGES)
    rows: list[str] = []
    suffixes: dict[str, str] = {}
    versions = PEER
    for family in FAMILIES:
        for size in SIZES:
            ours = Contestant("xlm_steps_worker.py", OWN_PYTHON, "pellucid", family, size)
            theirs = Contestant("xlm_steps_worker.py", python, "xlm-core", family, size)
            own, peer = ours.read(), theirs.read()
            times = measure((ours, theirs), steps=STEPS[size], blocks=options.blocks)
            versions = ", ".join(peer["versions"])
            weights = f"{own['weights']:,} and {peer['weights']:,}"
            milliseconds = " | ".join(f"{statistics.median(spent):.1f}" for spent in times)
            ratio = median_ratio(times[1], times[0])
            rows.append(f"| {family} | {size} | {weights} | {milliseconds} | {ratio:.2f} |")
            suffixes[family] = f"| {family} | {own['suffixes']} | {peer['suffixes']} |"
    page = _PAGE.format(
        blocks=options.blocks,
        peer=versions,
        rows="\n".join(rows),
        texts=describe_sizes(),
        suffixes="\n".join(suffixes.values()),
    )
    options.out.write_text(page, encoding="utf-8")
    print(page)


def measure(
    contestants: tuple[Contestant, Contestant], *, steps: int, blocks: int
) -> tuple[list[float], list[float]]:
    """Return the milliseconds of a step in each block of either, after one that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for block in range(blocks + 1):
        for contestant, spent in zip(contestants, times, strict=True):
            found = contestant.ask(steps=steps)["ms"]
            if block:
                spent.append(found)
    for contestant in contestants:
        contestant.stop()
    return times


def describe_sizes() -> str:
    """Say what the sizes are."""
    lines = [
        f"{name}: {size['rows']} texts of {size['length']} tokens, of {size['words']:,} words;"
        f" {size['num_layers']} layers of width {size['d_model']}."
        for name, size in SIZES.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

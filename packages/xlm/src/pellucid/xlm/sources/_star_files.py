"""Star graphs as files, for other programs."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from pellucid.core import PellucidError
from pellucid.xlm.sources._source import SPLITS
from pellucid.xlm.sources._star import STAR_LEVELS, StarGraphSource


def generate_star_graphs(
    level: str,
    output_dir: str | Path,
    *,
    seed: int = 42,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Path]:
    """Write the splits of a level as JSON lines with `prompt` and `target`.

    Args:
        level: One of `STAR_LEVELS`.
        output_dir: Where the files go; it is made.
        seed: Of the graphs.
        sizes: Split to its number of graphs; 50,000, 100 and 5,000 where nothing is given.

    Returns:
        Split to file.

    Raises:
        UnknownNameError: There is no such level or split.
    """
    given = dict(sizes or {})
    sources = {
        split: StarGraphSource(level=level, split=split, seed=seed, size=given.get(split))
        for split in {**dict.fromkeys(SPLITS), **given}
    }
    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for split, source in sources.items():
        columns = source.columns()
        rows = zip(columns["prompt"], columns["target"], strict=True)
        lines = [json.dumps({"prompt": prompt, "target": target}) for prompt, target in rows]
        written[split] = directory / f"star_{level}_{split}.jsonl"
        draft = written[split].with_suffix(".partial")
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        draft.replace(written[split])
    return written


def main(argv: list[str] | None = None) -> int:
    """Run the command `generate_star_graphs`."""
    parser = argparse.ArgumentParser(
        prog="generate_star_graphs", description="Write star graphs as JSON lines."
    )
    parser.add_argument("level", help=f"one of {', '.join(STAR_LEVELS)}")
    parser.add_argument("output_dir", type=Path, help="where the files go")
    parser.add_argument("--seed", type=int, default=42, help="of the graphs (42)")
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", type=int, metavar="N", help=f"graphs of the {split} split"
        )
    options = parser.parse_args(argv)
    sizes = {split: getattr(options, split) for split in SPLITS}
    given = {split: size for split, size in sizes.items() if size is not None}
    try:
        written = generate_star_graphs(
            options.level, options.output_dir, seed=options.seed, sizes=given
        )
    except PellucidError as error:
        parser.error(str(error))
    for path in written.values():
        print(path)  # noqa: T201
    return 0

"""The command `xlm-scaffold`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXIT_BAD_INPUT = 2

_DESCRIPTION = """\
Write a new family of language models: modules, configurations, tests, a page, a project.
It works as it is; change its parts one by one."""


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: What stands behind `xlm-scaffold` on the command line.

    Returns:
        The exit code: 0, or 2 for a request that is refused.
    """
    given = _parser().parse_args(arguments)
    # Nobody shall wait for torch who only asks for help.
    from pellucid.core import PellucidError  # noqa: PLC0415
    from pellucid.xlm.scaffold import carry_out  # noqa: PLC0415

    try:
        carry_out(
            given.name,
            output_dir=given.output_dir,
            source=given.source,
            in_tree=given.in_tree,
            dry_run=given.dry_run,
            force=given.force,
        )
    except (PellucidError, OSError) as error:
        print(f"xlm-scaffold: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xlm-scaffold",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of the family and its package, such as my_family")
    parser.add_argument(
        "--output-dir",
        type=Path,
        help="the project's directory (default: a new one of that name here); nothing outside of "
        "it is written",
    )
    parser.add_argument(
        "--from",
        dest="source",
        default="starter",
        metavar="FAMILY",
        help="what to begin with: starter (default), a masked family as small as can be, or any "
        "family that `xlm families` lists, such as arlm or mlm",
    )
    parser.add_argument(
        "--in-tree",
        action="store_true",
        help="add the family to pellucid.families, in the checkout of Pellucid that --output-dir "
        "names (default: here)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, only")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


__all__ = ["main", "run"]

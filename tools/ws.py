"""Check the workspace, plan its test runs, show its layers: `python tools/ws.py --help`.

Standard library only: this runs before anything is installed.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from workspace import axes, declarations, extras, graph, imports, layout, matrix, release, style
from workspace.model import Violation, Workspace, WorkspaceError

Check = Callable[[Workspace], Iterator[Violation]]

CHECKS: tuple[Check, ...] = (
    layout.no_namespace_init,
    layout.required_files,
    layout.names_agree,
    layout.versions_are_plain,
    layout.one_python_floor,
    layout.cache_keys_cover_sources,
    layout.one_tool_configuration,
    layout.modules_say_what_they_hold,
    declarations.sibling_bounds_are_true,
    declarations.entry_points_exist,
    declarations.root_depends_on_every_package,
    declarations.root_installs_what_tests_need,
    declarations.changelog_index_is_complete,
    declarations.directions_are_declared,
    declarations.declared_siblings_are_allowed,
    extras.extras_that_are_named_exist,
    imports.imports_are_declared,
    imports.imports_point_down,
    imports.needs_of_tests_are_declared,
    axes.axes_are_in_the_glossary,
    style.no_future_annotations,
    style.files_are_short,
    style.functions_are_short,
    style.skips_give_reasons,
    style.quarantine_is_listed,
)


def violations(workspace: Workspace) -> list[tuple[str, Violation]]:
    """Return every broken rule by name, with the place where it is broken."""
    found = ((rule.__name__, violation) for rule in CHECKS for violation in rule(workspace))
    with _without_collection():
        return list(dict.fromkeys(found))


@contextmanager
def _without_collection() -> Generator[None]:
    """Trees have no cycles; looking for some while they grow is two thirds of all the work."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check(workspace: Workspace) -> int:
    """Print a line per violation and return the exit status."""
    found = violations(workspace)
    for rule, violation in found:
        print(f"{violation} [{rule}]")
    if found:
        print(f"{len(found)} violations of {len({rule for rule, _ in found})} rules")
        return 1
    print(f"{len(workspace.packages)} packages keep all {len(CHECKS)} rules")
    return 0


def plan(workspace: Workspace, *, changed: str | None, lowest: bool) -> int:
    """Print the matrix as the JSON that a workflow's `strategy` reads."""
    if lowest:
        include = matrix.lowest_rows(workspace)
    else:
        names = set(workspace.by_name) if changed is None else matrix.touched(workspace, changed)
        include = matrix.rows(workspace, names)
    print(json.dumps({"include": include}))
    return 0


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="ws.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="directory of the workspace",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="print a line per broken rule")
    planned = commands.add_parser("matrix", help="print the test runs as JSON")
    planned.add_argument("--changed", metavar="BASE", help="only what changed since this commit")
    planned.add_argument("--lowest", action="store_true", help="only the lowest versions")
    commands.add_parser("graph", help="print the layers, highest first")
    tagged = commands.add_parser("release", help="print the package that a tag releases")
    tagged.add_argument("tag", help="pellucid-NAME-vVERSION")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit status: 1 for violations, 2 for a bad workspace."""
    options = arguments().parse_args(argv)
    try:
        workspace = Workspace.load(options.root.resolve())
        if options.command == "check":
            return check(workspace)
        if options.command == "matrix":
            return plan(workspace, changed=options.changed, lowest=options.lowest)
        if options.command == "graph":
            print(graph.describe(workspace))
            return 0
        print(release.package_of(workspace, options.tag).distribution)
        return 0
    except WorkspaceError as error:
        print(f"ws.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""A request for a family, from what was asked to what is said in the end."""

from collections.abc import Sequence
from pathlib import Path

from pellucid.xlm.scaffold._copying import STARTER, find_source
from pellucid.xlm.scaffold._naming import FamilyName
from pellucid.xlm.scaffold._project import FAMILIES, FAMILIES_DIR, Plan, plan_checkout, plan_project
from pellucid.xlm.scaffold._writing import find_obstacles, write_plan


def carry_out(
    name: str,
    *,
    output_dir: Path | None = None,
    source: str = STARTER,
    in_tree: bool = False,
    dry_run: bool = False,
    force: bool = False,
) -> Plan:
    """Write a family, and print what to run next.

    Args:
        name: Of the family.
        output_dir: The project's directory, or the root of a checkout; nothing outside of it is
            written. A new directory of that name here, or the current one for a checkout, if None.
        source: The family to begin with.
        in_tree: Add it to `pellucid.families` in a checkout of Pellucid.
        dry_run: Print what would be written, and write nothing.
        force: Replace files that are there.

    Returns:
        What was, or would be, written.

    Raises:
        ArgumentError: The name is none, or something stands in the way.
        UnknownNameError: There is no family to begin with of that name.
    """
    begun = find_source(source)
    if in_tree:
        root = output_dir or Path()
        new = FamilyName.of_new(name, directory=root / FAMILIES_DIR / name, parent=FAMILIES)
        plan = plan_checkout(new, begun, root)
    else:
        root = output_dir or Path(name)
        plan = plan_project(FamilyName.of_new(name, directory=root / name), begun, root)
    if dry_run:
        _show(plan, find_obstacles(plan, force=force))
    else:
        write_plan(plan, force=force)
        _tell_what_is_next(plan, name, in_tree=in_tree)
    return plan


def _show(plan: Plan, obstacles: Sequence[str]) -> None:
    print(f"would write to {plan.root}:")  # noqa: T201
    for path in sorted(plan.files):
        print(f"  {path}")  # noqa: T201
    for path in plan.edits:
        print(f"  {path} (one entry)")  # noqa: T201
    if obstacles:
        print(f"would be refused: {'; '.join(sorted(obstacles))}")  # noqa: T201


def _tell_what_is_next(plan: Plan, name: str, *, in_tree: bool) -> None:
    train = f"xlm job_type=train job_name={name} experiment={plan.experiment} debug=overfit"
    if in_tree:
        steps = [
            ("once, for the new entry point", "uv sync --reinstall-package pellucid-families"),
            ("its tests", f"uv run pytest {' '.join(plan.tests)}"),
            ("is anything wrong with it?", f"uv run xlm doctor {name}"),
            ("eight examples by heart", f"uv run {train}"),
        ]
    else:
        steps = [
            ("", f"cd {plan.root}"),
            ("found everywhere then, not here alone", "pip install -e ."),
            ("is anything wrong with it?", f"xlm doctor {name}"),
            ("its tests", "pytest"),
            ("eight examples by heart", train),
        ]
    print(f"{name} is in {plan.root / plan.package}. What to run next:")  # noqa: T201
    for why, command in steps:
        print(f"  {command}" + (f"    # {why}" if why else ""))  # noqa: T201


__all__ = ["carry_out"]

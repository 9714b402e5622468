"""Check an installed package as its user meets it: `python -I check_wheel.py NAME`.

Runs in an environment that holds the package and its dependencies only, hence on the standard
library alone.
"""

import importlib
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution

HEAVY = {
    "accelerate": "accelerate",
    "datasets": "datasets",
    "hydra": "hydra-core",
    "lightning": "lightning",
    "litellm": "litellm",
    "peft": "peft",
    "sentence_transformers": "sentence-transformers",
    "transformers": "transformers",
    "wandb": "wandb",
}
"""Modules that take seconds to import, and the distributions that bring them."""


def stray_files(wheel: Distribution, name: str) -> Iterator[str]:
    """Yield what the wheel installs outside its own leaf of the namespace."""
    own = (f"pellucid/{name}/", f"pellucid_{name}-", "../../../bin/")
    for path in wheel.files or ():
        if not path.as_posix().startswith(own):
            yield path.as_posix()


def undeclared_imports(wheel: Distribution) -> list[str]:
    """Return the heavy modules that are loaded now without being declared by the package."""
    required = [line for line in wheel.requires or () if "extra ==" not in line]
    declared = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in required}
    return [m for m, dist in HEAVY.items() if m in sys.modules and dist not in declared]


def problems(name: str) -> Iterator[str]:
    """Import the package and yield what is wrong with it, a line each."""
    wheel = distribution(f"pellucid-{name}")
    for path in stray_files(wheel, name):
        yield f"installs {path}, which is not its own"
    if f"pellucid/{name}/py.typed" not in {path.as_posix() for path in wheel.files or ()}:
        yield "ships no py.typed"
    started = time.perf_counter()
    importlib.import_module(f"pellucid.{name}")
    print(f"pellucid-{name} {wheel.version}: imported in {time.perf_counter() - started:.1f} s")
    for module in undeclared_imports(wheel):
        yield f"imports {module}, which it does not declare"
    for entry_point in wheel.entry_points:
        try:
            entry_point.load()
        except (ImportError, AttributeError) as error:
            yield f"entry point {entry_point.name!r} does not load: {error}"


def main(name: str) -> int:
    """Print every problem and return the exit status."""
    found = list(problems(name))
    for problem in found:
        print(f"pellucid-{name}: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

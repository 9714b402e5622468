"""Write the licences into a bill of materials, and list them: `python tools/licences.py FILE.json`.

FILE.json is a CycloneDX document, as `uv export --format cyclonedx1.5` writes it. What is installed
here says its licence in its metadata; each component of the document is given it. The list goes to
FILE.md beside it. The exit status is 1 if an installed component says none.

Standard library only.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ELSEWHERE = "not installed here: needed on another platform"
_CLASSIFIER = "License :: "
_GENERIC = {"OSI Approved"}
# The names that older metadata uses for what SPDX has an identifier for.
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-3-clause license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
# What says nothing of itself, looked up by hand.
_KNOWN = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # holds nothing but requirements of NVIDIA's
}
_IDENTIFIER = re.compile(r"[A-Za-z0-9.+-]+")
_LONGEST_NAME = 100
"""Longer ones are texts of licences that somebody put where the name belongs."""


def licence_of(found: Distribution) -> str | None:
    """Return the licence that a distribution says it has, as SPDX where that is known.

    Args:
        found: An installed distribution.
    """
    metadata: Any = found.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    names = list(_classified(metadata.get_all("Classifier") or []))
    if names:
        return " AND ".join(dict.fromkeys(map(_spell, names)))
    name = (metadata.get("License") or "").strip().split("\n")[0]
    if not name or name.lower() == "unknown" or len(name) > _LONGEST_NAME:
        return None
    return _spell(name)


def _classified(classifiers: list[str]) -> Iterator[str]:
    for line in classifiers:
        if line.startswith(_CLASSIFIER):
            name = line.split(" :: ")[-1]
            if name not in _GENERIC:
                yield name


def _spell(name: str) -> str:
    return _SPDX.get(name.lower(), name)


def annotate(document: dict[str, Any]) -> dict[str, str | None]:
    """Give every component of a document its licence.

    Args:
        document: Is changed.

    Returns:
        Licences by name and version; None where one is not known.
    """
    listed: dict[str, str | None] = {}
    for component in document.get("components", []):
        name, version = component["name"], component.get("version", "")
        try:
            licence = licence_of(distribution(name)) or _KNOWN.get(name)
        except PackageNotFoundError:
            licence = ELSEWHERE
        listed[f"{name} {version}".strip()] = licence
        if licence is not None and licence != ELSEWHERE:
            component["licenses"] = [_render(licence)]
    return listed


def _render(licence: str) -> dict[str, Any]:
    if re.search(r" (AND|OR|WITH) ", licence):
        return {"expression": licence}
    key = "id" if _IDENTIFIER.fullmatch(licence) else "name"
    return {"license": {key: licence}}


def table(title: str, listed: dict[str, str | None]) -> str:
    """Return the list in Markdown.

    Args:
        title: What the list is of.
        listed: Licences by name and version.
    """
    rows = [f"| {name} | {licence or 'says none'} |" for name, licence in sorted(listed.items())]
    head = [f"# Licences of what {title} needs", "", "| distribution | licence |", "|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Annotate the documents and write their lists; 1 if a licence is not known."""
    parser = argparse.ArgumentParser(prog="licences.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="+", type=Path, help="CycloneDX documents, which are changed")
    status = 0
    for path in parser.parse_args(argv).file:
        document = json.loads(path.read_text(encoding="utf-8"))
        listed = annotate(document)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        title = document["metadata"]["component"]["name"]
        path.with_suffix(".md").write_text(table(title, listed), encoding="utf-8")
        for name in sorted(name for name, licence in listed.items() if licence is None):
            print(f"{path.name}: {name} says no licence; look it up", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

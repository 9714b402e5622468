"""The `pellucid` command: optimise a trigger, watch it, keep what came of it, go on with it later.

`main` is the entry point. Nothing heavy is imported before the command that needs it runs, so that
asking for help costs no more than starting Python.
"""

from pellucid.cli._app import main, run

__all__ = ["main", "run"]

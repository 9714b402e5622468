"""pellucid.cli."""

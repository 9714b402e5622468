"""pellucid.core."""

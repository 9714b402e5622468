"""pellucid.losses."""

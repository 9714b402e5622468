"""pellucid.hf."""

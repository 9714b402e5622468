"""pellucid.zoo."""

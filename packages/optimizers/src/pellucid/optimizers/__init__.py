"""pellucid.optimizers."""

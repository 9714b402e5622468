"""What `--model` says is read by pellucid-recipes, as it is in YAML and in Python."""

from pellucid.recipes import load_model

__all__ = ["load_model"]

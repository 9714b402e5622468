"""Families of language models for `pellucid.xlm`, independent of each other.

Each is a package of its own: `arlm` writes from left to right, `mlm` fills masks in any order. It
holds a model, a loss, a predictor, collators, metrics and the Hydra configurations that put them
together; the entry-point group `pellucid.families` is how they are found.
"""

__all__: list[str] = []

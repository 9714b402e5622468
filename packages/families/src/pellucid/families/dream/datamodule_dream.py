"""From examples to batches of the family."""

from pellucid.xlm.datamodule import PromptCollator


class DreamPredCollator(PromptCollator):
    """Prompts alone, padded on the left, and what should follow them; see `PromptCollator`."""

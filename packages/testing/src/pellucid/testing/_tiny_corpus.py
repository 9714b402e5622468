"""Plain sentences that tiny tokenizers are trained on, made up by rule."""

import itertools
import random

_WHO = ("the cat", "a dog", "my friend", "the teacher", "our neighbour", "Anna", "Ben", "the robot")
_DOES = ("sees", "likes", "finds", "draws", "follows", "describes", "remembers", "counts")
_WHAT = ("the red house", "a small river", "seven stars", "the old bridge", "blue flowers", "music")
_WHERE = ("in the morning", "near the sea", "at school", "every day", "without a word", "again")
_REPLIES = ("Yes.", "No, thank you!", "Sure, here is the answer:", "I do not know?", "Hello there.")


def sentences(seed: int) -> list[str]:
    """Return a few hundred sentences; the seed decides which, and in what order."""
    chooser = random.Random(seed)
    rows = list(itertools.product(_WHO, _DOES, _WHAT, _WHERE))
    chosen = chooser.sample(rows, 400)
    return [f"{' '.join(row).capitalize()}. {chooser.choice(_REPLIES)}" for row in chosen]

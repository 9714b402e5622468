"""The three ways into a model."""

from enum import StrEnum


class Flow(StrEnum):
    """What a model is given: texts, token ids, or embeddings in the trigger's place."""

    TEXTS = "texts"
    TOKENS = "tokens"
    EMBEDS = "embeds"

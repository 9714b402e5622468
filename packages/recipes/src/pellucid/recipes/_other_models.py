"""Recipes for encoders and classifiers."""

from pellucid.recipes import _papers as papers
from pellucid.recipes._recipe import (
    Access,
    LossPart,
    ModelKind,
    ModelRole,
    RandomStart,
    Recipe,
)
from pellucid.recipes._white_box import GASLITEPLUS_LLM, GCG_ZOU2023, MAC_ZHANG2024

_VECTOR = (LossPart(name="similarity"),)
_ENCODER = ModelKind.ENCODER

GASLITE_BENTOV2024 = Recipe(
    name="gaslite__bentov2024",
    summary="Bring a text's embedding close to a vector, to see how robust a retrieval is.",
    paper=papers.BEN_TOV_2024,
    optimizer="gaslite",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={"num_steps": 100, "n_grad": 50, "n_flip": 20, "n_candidates": 128},
    model_kind=_ENCODER,
)

GASLITEPLUS_ENCODER = Recipe(
    name="gasliteplus_encoder",
    summary="GASLITE made faster: joint flips, a buffer, early stopping.",
    paper=papers.BEN_TOV_2024,
    optimizer="gaslite-plus",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings=GASLITEPLUS_LLM.settings,
    model_kind=_ENCODER,
)

GASLITEPLUS_ENCODER_QUICK = Recipe(
    name="gasliteplus_encoder_quick",
    summary="GASLITE+ with settings for a first look.",
    paper=papers.BEN_TOV_2024,
    optimizer="gaslite-plus",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={
        **GASLITEPLUS_LLM.settings,
        "num_steps": 100,
        "n_grad": 5,
        "n_bulk_flips": 10,
        "n_candidates": 128,
    },
    model_kind=_ENCODER,
)

RASLITEPLUS = Recipe(
    name="rasliteplus",
    summary="GASLITE+ without gradients: random tokens, for the embedding of any encoder.",
    paper=papers.BEN_TOV_2024,
    optimizer="raslite-plus",
    losses=_VECTOR,
    access=Access.BLACK_BOX,
    settings={"num_steps": 1500, "n_flip": 1, "use_random_logits": True},
    model_kind=_ENCODER,
)

GCG_EMB = Recipe(
    name="gcg_emb",
    summary="GCG for the embedding of an encoder.",
    paper=papers.ZOU_2023,
    optimizer="gcg",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings=GCG_ZOU2023.settings,
    model_kind=_ENCODER,
)

RS_EMB = Recipe(
    name="rs_emb",
    summary="Random search for the embedding of any encoder, behind an API, too.",
    paper=papers.ANDRIUSHCHENKO_2024,
    optimizer="random-search",
    losses=_VECTOR,
    access=Access.BLACK_BOX,
    settings={"num_steps": 500, "initial_block_len": 8},
    model_kind=_ENCODER,
    initial_trigger=RandomStart(50),
)

SOFT_PROMPT_ENCODER = Recipe(
    name="soft_prompt_encoder",
    summary="Optimise the embeddings given to an encoder: the bound of any trigger.",
    paper=papers.SCHWINN_2024,
    optimizer="soft-prompt",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={"num_steps": 500, "lr": 1e-3},
    model_kind=_ENCODER,
    differs="Adam, where the paper follows the sign of the gradient.",
)

ADVDECODING_RETRIEVAL_ZHANG2024 = Recipe(
    name="advdecoding_retrieval__zhang2024",
    summary="Grow a trigger that a judge finds fluent, for the embedding of an encoder.",
    paper=papers.ZHANG_COLLIN_2024,
    optimizer="beam-search",
    losses=(LossPart(name="similarity"), LossPart(name="input-fluency")),
    access=Access.BLACK_BOX,
    settings={"num_steps": 30, "beam_size": 30, "branching_factor": 10, "top_k": 10},
    model_kind=_ENCODER,
    roles=(
        ModelRole(argument="util_lm", what="a language model with logits that proposes tokens"),
        ModelRole(argument="judge", what="a language model that is asked whether a text is fluent"),
    ),
)

_RECOVERY = "Recover a prompt from the vector, of an image say, that an encoder gives it"

PROMPT_RECOVERY_WEN2023 = Recipe(
    name="prompt_recovery__wen2023",
    summary=f"{_RECOVERY}.",
    paper=papers.WEN_2023,
    optimizer="pez",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={"num_steps": 3000},
    model_kind=_ENCODER,
    initial_trigger=RandomStart(16),
    differs="Plain gradient descent with weight decay, where the paper uses AdamW.",
)

PROMPT_RECOVERY_GCG = Recipe(
    name="prompt_recovery_gcg",
    summary=f"{_RECOVERY}, by GCG.",
    paper=papers.WEN_2023,
    optimizer="gcg",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={**GCG_ZOU2023.settings, "num_steps": 3000},
    model_kind=_ENCODER,
    initial_trigger=RandomStart(16),
)

PROMPT_RECOVERY_MAC = Recipe(
    name="prompt_recovery_mac",
    summary=f"{_RECOVERY}, by GCG with momentum.",
    paper=papers.WEN_2023,
    optimizer="gcg-plus",
    losses=_VECTOR,
    access=Access.WHITE_BOX,
    settings={**MAC_ZHANG2024.settings, "num_steps": 500},
    model_kind=_ENCODER,
    initial_trigger=RandomStart(16),
)

PROMPT_RECOVERY_ADV_DECODING = Recipe(
    name="prompt_recovery_adv_decoding",
    summary=f"{_RECOVERY}, by beam search.",
    paper=papers.WEN_2023,
    optimizer="beam-search",
    losses=_VECTOR,
    access=Access.BLACK_BOX,
    settings={"num_steps": 30, "beam_size": 96, "branching_factor": 10, "top_k": 10},
    model_kind=_ENCODER,
    roles=(
        ModelRole(argument="util_lm", what="a language model with logits that proposes tokens"),
    ),
)

CLASSIFIER_GCG = Recipe(
    name="classifier_gcg",
    summary="GCG away from the true class of a text classifier.",
    paper=papers.ZOU_2023,
    optimizer="gcg",
    losses=(LossPart(name="misclass-ce"),),
    access=Access.WHITE_BOX,
    settings={**GCG_ZOU2023.settings, "num_steps": 250, "use_retokenize": False},
    model_kind=ModelKind.CLASSIFIER,
)

UAT_CLASSIFIER = Recipe(
    name="uat_classifier",
    summary="One short trigger that brings about a class in many texts (universal).",
    paper=papers.WALLACE_2019,
    optimizer="gcg-plus",
    losses=(LossPart(name="misclass-ce", settings={"targeted": True}),),
    access=Access.WHITE_BOX,
    settings={"num_steps": 500, "n_candidates": 256, "template_batch_size": 5},
    model_kind=ModelKind.CLASSIFIER,
    initial_trigger=RandomStart(5),
    differs="GCG's random candidates, where the paper tries the top tokens of every position.",
)

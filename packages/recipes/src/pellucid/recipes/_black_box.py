"""Recipes that ask a language model for nothing but what it makes of texts."""

from pellucid.recipes import _papers as papers
from pellucid.recipes._recipe import Access, LossPart, ModelRole, Recipe

_RESPONSE = (LossPart(name="prefill-ce"),)
_BLACK = Access.BLACK_BOX
_PROPOSER = ModelRole(
    argument="util_lm",
    what="a language model with logits that proposes tokens; the target itself when omitted",
    is_required=False,
)
_JUDGE = ModelRole(argument="judge", what="a language model that is asked whether a text is fluent")
_PROXY = ModelRole(
    argument="proxy_model", what="a local language model with gradients, similar to the target"
)

PAL_SITAWARIN2024 = Recipe(
    name="pal__sitawarin2024",
    summary="Query a black box with candidates that a proxy proposes and ranks.",
    paper=papers.SITAWARIN_2024,
    optimizer="pal",
    losses=_RESPONSE,
    access=_BLACK,
    settings={
        "num_steps": 500,
        "n_candidates": 128,
        "n_candidates_after_proxy_filter": 32,
        "candidate_oversample_factor": 1.1,
    },
    roles=(_PROXY,),
    differs="The proxy is not fine-tuned in the course of the search.",
)

RAL_SITAWARIN2024 = Recipe(
    name="ral__sitawarin2024",
    summary="PAL without a proxy: query a black box with random single flips.",
    paper=papers.SITAWARIN_2024,
    optimizer="pal",
    losses=_RESPONSE,
    access=_BLACK,
    settings={"num_steps": 500, "n_candidates": 32, "candidate_selection": "random"},
)

QCG_HAYASE2024 = Recipe(
    name="qcg__hayase2024",
    summary="Query a black box with the best of many random flips, as a proxy ranks them.",
    paper=papers.HAYASE_2024,
    optimizer="qcg",
    losses=_RESPONSE,
    access=_BLACK,
    settings={
        "num_steps": 500,
        "n_proxy_candidates": 8192,
        "n_target_candidates": 32,
        "buffer_size": 128,
    },
    roles=(
        ModelRole(
            argument="proxy_model",
            what="a local language model with losses of token ids, similar to the target",
        ),
    ),
)

GCGP_BLACKBOX_HAYASE2024 = Recipe(
    name="gcgp_blackbox__hayase2024",
    summary="Query a black box: probe each position, then search at the best one.",
    paper=papers.HAYASE_2024,
    optimizer="gcg-plus",
    losses=_RESPONSE,
    access=_BLACK,
    settings={
        "num_steps": 500,
        "n_candidates": 32,
        "candidate_selection": "focused",
        "buffer_size": 128,
    },
)

BEAST_SADASIVAN2024 = Recipe(
    name="beast__sadasivan2024",
    summary="Grow a readable trigger by beam search, in a minute.",
    paper=papers.SADASIVAN_2024,
    optimizer="beam-search",
    losses=_RESPONSE,
    access=_BLACK,
    settings={"num_steps": 40, "beam_size": 15, "branching_factor": 15},
    model_options={"use_prefix_cache": False},
    roles=(_PROPOSER,),
)

ADVDECODING_JAILBREAK_ZHANG2024 = Recipe(
    name="advdecoding_jailbreak__zhang2024",
    summary="Grow a trigger that a judge finds fluent, for the response of a language model.",
    paper=papers.ZHANG_COLLIN_2024,
    optimizer="beam-search",
    losses=(LossPart(name="prefill-ce"), LossPart(name="input-fluency")),
    access=_BLACK,
    settings={"num_steps": 30, "beam_size": 10, "branching_factor": 10, "top_k": 10},
    roles=(_PROPOSER, _JUDGE),
)

PRS_ANDRIUSHCHENKO2024 = Recipe(
    name="prs__andriushchenko2024",
    summary="Random search for a response's first token, through any API with log-probabilities.",
    paper=papers.ANDRIUSHCHENKO_2024,
    optimizer="random-search",
    losses=(LossPart(name="first-token-nll"),),
    access=_BLACK,
    settings={"num_steps": 10_000, "n_candidates": 128},
    differs="The paper's prompt is not shipped: templates are yours to give.",
)

RASLITEPLUS_LLM = Recipe(
    name="rasliteplus_llm",
    summary="GASLITE+ without gradients: random tokens, for the response of a language model.",
    paper=papers.BEN_TOV_2024,
    optimizer="raslite-plus",
    losses=_RESPONSE,
    access=_BLACK,
    settings={"num_steps": 200, "n_flip": 1, "use_random_logits": True},
)

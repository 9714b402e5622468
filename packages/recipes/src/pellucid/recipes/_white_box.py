"""Recipes that take gradients of a language model."""

import math

from pellucid.recipes import _papers as papers
from pellucid.recipes._recipe import (
    Access,
    LossPart,
    MiddleLayers,
    ModelRole,
    RandomStart,
    Recipe,
)

_RESPONSE = (LossPart(name="prefill-ce"),)
_WHITE = Access.WHITE_BOX

HOTFLIP_EBRAHIMI2018 = Recipe(
    name="hotflip__ebrahimi2018",
    summary="Flip the one token that lowers the loss most to first order, step by step.",
    paper=papers.EBRAHIMI_2018,
    optimizer="hot-flip",
    losses=_RESPONSE,
    access=_WHITE,
    settings={"num_steps": 500, "use_retokenize": False},
    differs="The paper flips characters of a classifier's input, this flips tokens of a prompt.",
)

AUTOPROMPT_SHIN2020 = Recipe(
    name="autoprompt__shin2020",
    summary="Prompt tuning by gradient-ranked tokens at one random position a step.",
    paper=papers.SHIN_2020,
    optimizer="auto-prompt",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 500,
        "n_candidates": 512,
        "sample_topk": 256,
        "use_retokenize": False,
    },
)

ARCA_JONES2023 = Recipe(
    name="arca__jones2023",
    summary="Audit a model: find a prompt for an output by coordinate ascent.",
    paper=papers.JONES_2023,
    optimizer="arca",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 1000,
        "n_candidates": 32,
        "sample_topk": 32,
        "n_grad_avg": 32,
        "use_retokenize": False,
    },
)

ARCA_REVERSE = Recipe(
    name="arca_reverse",
    summary="Find a prompt that brings about an output without holding any token of it.",
    paper=papers.JONES_2023,
    optimizer="gcg-plus",
    losses=(LossPart(name="prefill-ce", settings={"clamp_min_nll": -math.log(0.6)}),),
    access=_WHITE,
    settings={"num_steps": 500, "n_candidates": 512, "sample_topk": 256},
    initial_trigger=RandomStart(20),
    bans_target_tokens=True,
)

GCG_ZOU2023 = Recipe(
    name="gcg__zou2023",
    summary="Greedy coordinate gradient: the standard white-box search for one prompt.",
    paper=papers.ZOU_2023,
    optimizer="gcg",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 500,
        "n_candidates": 512,
        "sample_topk": 256,
        "sample_n_replace": 1,
        "use_retokenize": True,
    },
)

GCG_MULT_ZOU2023 = Recipe(
    name="gcg_mult__zou2023",
    summary="GCG for one trigger that works in several prompts (universal).",
    paper=papers.ZOU_2023,
    optimizer="gcg",
    losses=_RESPONSE,
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    min_templates=2,
    differs="All prompts count from the first step on; the paper adds them one after the other.",
)

GCG_PERPLEXITY = Recipe(
    name="gcg_perplexity",
    summary="GCG whose triggers the model also finds likely, as a perplexity filter would ask.",
    paper=papers.ZOU_2023,
    optimizer="gcg",
    losses=(LossPart(name="prefill-ce"), LossPart(name="trigger-perplexity")),
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    model_options={"use_prefix_cache": False},
)

_ATTENTION = {"use_eager_attention": True, "use_prefix_cache": False}

GCG_HIJ_BENTOV2025 = Recipe(
    name="gcg_hij__bentov2025",
    summary="GCG whose trigger also draws the attention of what follows it in the prompt.",
    paper=papers.BEN_TOV_2025,
    optimizer="gcg",
    losses=(
        LossPart(name="prefill-ce"),
        LossPart(
            name="attention-enh",
            settings={
                "targeted_layers": MiddleLayers(0.8),
                "src_slc_name": "trigger",
                "dst_slc_name": "input_after",
            },
            weight=100.0,
        ),
    ),
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    model_options=_ATTENTION,
)

ATTN_GCG_WANG2024 = Recipe(
    name="attn_gcg__wang2024",
    summary="GCG whose trigger also draws the attention of the response in the last layer.",
    paper=papers.WANG_2024,
    optimizer="gcg",
    losses=(
        LossPart(name="prefill-ce"),
        LossPart(
            name="attention-enh",
            settings={
                "targeted_layers": (-1,),
                "src_slc_name": "trigger",
                "dst_slc_name": "appended",
            },
            weight=100.0,
        ),
    ),
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    model_options=_ATTENTION,
)

IRIS_HUANG2025 = Recipe(
    name="iris__huang2025",
    summary="GCG that also steers the residual stream of all layers away from a direction.",
    paper=papers.HUANG_2025,
    optimizer="gcg",
    losses=(
        LossPart(name="prefill-ce", weight=0.25),
        LossPart(
            name="steering-activation",
            settings={"steer_away": True, "apply_square": True},
            weight=0.75,
        ),
    ),
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    model_options={"use_prefix_cache": False},
    differs="Direction and responses are yours to give: neither is computed or generated here.",
)

IRIS2 = Recipe(
    name="iris2",
    summary="Steer the middle layer of the residual stream away from a direction, nothing else.",
    paper=papers.HUANG_2025,
    optimizer="gcg",
    losses=(
        LossPart(
            name="steering-activation",
            settings={
                "steer_away": True,
                "apply_square": True,
                "targeted_layers": MiddleLayers(0.0),
            },
        ),
    ),
    access=_WHITE,
    settings={**GCG_ZOU2023.settings, "num_steps": 200},
    model_options={"use_prefix_cache": False},
)

FLRT_DISTILL = Recipe(
    name="flrt_distill",
    summary="Find a prompt under which a model predicts a response as a teacher does.",
    paper=papers.THOMPSON_2024,
    optimizer="gcg",
    losses=(LossPart(name="prefill-distillation"),),
    access=_WHITE,
    settings=GCG_ZOU2023.settings,
    roles=(
        ModelRole(
            argument="teacher_model",
            what="a model of the same tokens, whose logits for the response are imitated",
        ),
    ),
    differs="The teacher reads the template without trigger; there is no fluency term.",
)

MAC_ZHANG2024 = Recipe(
    name="mac__zhang2024",
    summary="GCG with momentum, for few steps.",
    paper=papers.ZHANG_YIHAO_2024,
    optimizer="gcg-plus",
    losses=_RESPONSE,
    access=_WHITE,
    settings={"num_steps": 20, "n_candidates": 256, "sample_topk": 256, "momentum": 0.6},
    aliases=("mac__wang2024",),
)

GBDA_GUO2021 = Recipe(
    name="gbda__guo2021",
    summary="Descend on a distribution over triggers through Gumbel-softmax samples.",
    paper=papers.GUO_2021,
    optimizer="gbda",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 100,
        "lr": 0.3,
        "temp_start": 1.0,
        "temp_end": 1.0,
        "use_lr_schedule": False,
    },
    differs="The paper's terms for fluency and similarity are left out.",
)

PEZ_WEN2023 = Recipe(
    name="pez__wen2023",
    summary="Prompt tuning: descend on embeddings, with gradients at the nearest tokens.",
    paper=papers.WEN_2023,
    optimizer="pez",
    losses=_RESPONSE,
    access=_WHITE,
    settings={"num_steps": 3000},
    initial_trigger=RandomStart(16),
    differs="Plain gradient descent with weight decay, where the paper uses AdamW.",
)

PGD_GEISLER2024 = Recipe(
    name="pgd__geisler2024",
    summary="Projected gradient descent on relaxed one-hot tokens, with an entropy projection.",
    paper=papers.GEISLER_2024,
    optimizer="pgd",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 5000,
        "lr": 0.11,
        "entropy_factor": 0.4,
        "entropy_warmup_steps": 250,
        "grad_clip_norm": 20.0,
        "patience": 100,
    },
    differs="The trigger's length is fixed, and the learning rate is constant.",
)

PROBE_SAMPLING_ZHAO2024 = Recipe(
    name="probe_sampling__zhao2024",
    summary="GCG made faster: a draft model judges most candidates.",
    paper=papers.ZHAO_2024,
    optimizer="probe-sampling-gcg",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 500,
        "n_candidates": 512,
        "sample_topk": 256,
        "sampling_factor": 16.0,
        "reduction_factor": 8.0,
    },
    roles=(ModelRole(argument="draft_model", what="a smaller language model"),),
)

GCGP_PAL_SITAWARIN2024 = Recipe(
    name="gcgp_pal__sitawarin2024",
    summary="GCG with the margin loss of the PAL paper (its GCG++).",
    paper=papers.SITAWARIN_2024,
    optimizer="gcg-plus",
    losses=(LossPart(name="prefill-cw", settings={"cw_margin": 1e-3}),),
    access=_WHITE,
    settings={"num_steps": 500, "n_candidates": 512, "sample_topk": 256},
)

GCGP_WHITEBOX_HAYASE2024 = Recipe(
    name="gcgp_whitebox__hayase2024",
    summary="GCG with a buffer of the best triggers and few candidates a step.",
    paper=papers.HAYASE_2024,
    optimizer="gcg-plus",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 500,
        "n_candidates": 32,
        "sample_topk": 256,
        "buffer_size": 128,
    },
)

GASLITEPLUS_LLM = Recipe(
    name="gasliteplus_llm",
    summary="GASLITE with joint flips and a buffer, for the response of a language model.",
    paper=papers.BEN_TOV_2024,
    optimizer="gaslite-plus",
    losses=_RESPONSE,
    access=_WHITE,
    settings={
        "num_steps": 150,
        "n_grad": 10,
        "n_flip": 20,
        "n_bulk_flips": 20,
        "n_candidates": 256,
        "flip_pos_method": "ordered",
        "decline_n_flip_from_step": 0.5,
        "early_stopping_patience": 30,
        "early_stopping_threshold": 1e-4,
    },
)

SOFT_PROMPT_SCHWINN2024 = Recipe(
    name="soft_prompt__schwinn2024",
    summary="Optimise the embeddings themselves: what a model could do, given any input.",
    paper=papers.SCHWINN_2024,
    optimizer="soft-prompt",
    losses=_RESPONSE,
    access=_WHITE,
    settings={"num_steps": 500, "lr": 1e-3},
    differs="Adam, where the paper follows the sign of the gradient.",
)

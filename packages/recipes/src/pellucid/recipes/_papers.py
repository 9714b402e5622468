"""The papers that the recipes follow."""

from pellucid.recipes._recipe import Paper

ANDRIUSHCHENKO_2024 = Paper(
    title="Jailbreaking Leading Safety-Aligned LLMs with Simple Adaptive Attacks",
    authors=("Andriushchenko", "Croce", "Flammarion"),
    year=2024,
    arxiv="2404.02151",
)
BEN_TOV_2024 = Paper(
    title="GASLITEing the Retrieval: Exploring Vulnerabilities in Dense Embedding-based Search",
    authors=("Ben-Tov", "Sharif"),
    year=2024,
    arxiv="2412.20953",
)
BEN_TOV_2025 = Paper(
    title="Universal Jailbreak Suffixes Are Strong Attention Hijackers",
    authors=("Ben-Tov", "Geva", "Sharif"),
    year=2025,
    arxiv="2506.12880",
)
EBRAHIMI_2018 = Paper(
    title="HotFlip: White-Box Adversarial Examples for Text Classification",
    authors=("Ebrahimi", "Rao", "Lowd", "Dou"),
    year=2018,
    arxiv="1712.06751",
)
GEISLER_2024 = Paper(
    title="Attacking Large Language Models with Projected Gradient Descent",
    authors=("Geisler", "Wollschläger", "Abdalla", "Gasteiger", "Günnemann"),
    year=2024,
    arxiv="2402.09154",
)
GUO_2021 = Paper(
    title="Gradient-based Adversarial Attacks against Text Transformers",
    authors=("Guo", "Sablayrolles", "Jégou", "Kiela"),
    year=2021,
    arxiv="2104.13733",
)
HAYASE_2024 = Paper(
    title="Query-Based Adversarial Prompt Generation",
    authors=("Hayase", "Borevkovic", "Carlini", "Tramèr", "Nasr"),
    year=2024,
    arxiv="2402.12329",
)
HUANG_2025 = Paper(
    title="Stronger Universal and Transferable Attacks by Suppressing Refusals",
    authors=("Huang", "Shah", "Araujo", "Wagner", "Sitawarin"),
    year=2025,
)
JONES_2023 = Paper(
    title="Automatically Auditing Large Language Models via Discrete Optimization",
    authors=("Jones", "Dragan", "Raghunathan", "Steinhardt"),
    year=2023,
    arxiv="2303.04381",
)
SADASIVAN_2024 = Paper(
    title="Fast Adversarial Attacks on Language Models In One GPU Minute",
    authors=("Sadasivan", "Saha", "Sriramanan", "Kattakinda", "Chegini", "Feizi"),
    year=2024,
    arxiv="2402.15570",
)
SCHWINN_2024 = Paper(
    title=(
        "Soft Prompt Threats: Attacking Safety Alignment and Unlearning in Open-Source LLMs "
        "through the Embedding Space"
    ),
    authors=("Schwinn", "Dobre", "Xhonneux", "Gidel", "Günnemann"),
    year=2024,
    arxiv="2402.09063",
)
SHIN_2020 = Paper(
    title=(
        "AutoPrompt: Eliciting Knowledge from Language Models with Automatically Generated Prompts"
    ),
    authors=("Shin", "Razeghi", "Logan IV", "Wallace", "Singh"),
    year=2020,
    arxiv="2010.15980",
)
SITAWARIN_2024 = Paper(
    title="PAL: Proxy-Guided Black-Box Attack on Large Language Models",
    authors=("Sitawarin", "Mu", "Wagner", "Araujo"),
    year=2024,
    arxiv="2402.09674",
)
THOMPSON_2024 = Paper(
    title="FLRT: Fluent Student-Teacher Redteaming",
    authors=("Thompson", "Sklar"),
    year=2024,
    arxiv="2407.17447",
)
WALLACE_2019 = Paper(
    title="Universal Adversarial Triggers for Attacking and Analyzing NLP",
    authors=("Wallace", "Feng", "Kandpal", "Gardner", "Singh"),
    year=2019,
    arxiv="1908.07125",
)
WANG_2024 = Paper(
    title="AttnGCG: Enhancing Jailbreaking Attacks on LLMs with Attention Manipulation",
    authors=("Wang", "Tu", "Mei", "Zhao", "Wang", "Xie"),
    year=2024,
    arxiv="2410.09040",
)
WEN_2023 = Paper(
    title=(
        "Hard Prompts Made Easy: Gradient-Based Discrete Optimization for Prompt Tuning and "
        "Discovery"
    ),
    authors=("Wen", "Jain", "Kirchenbauer", "Goldblum", "Geiping", "Goldstein"),
    year=2023,
    arxiv="2302.03668",
)
ZHANG_COLLIN_2024 = Paper(
    title="Adversarial Decoding: Generating Readable Documents for Adversarial Objectives",
    authors=("Zhang", "Zhang", "Shmatikov"),
    year=2024,
    arxiv="2410.02163",
)
ZHANG_YIHAO_2024 = Paper(
    title="Boosting Jailbreak Attack with Momentum",
    authors=("Zhang", "Wei"),
    year=2024,
    arxiv="2405.01229",
)
ZHAO_2024 = Paper(
    title=(
        "Accelerating Greedy Coordinate Gradient and General Prompt Optimization via Probe Sampling"
    ),
    authors=("Zhao", "Zheng", "Cai", "Do", "Kawaguchi", "Goyal", "Shieh"),
    year=2024,
    arxiv="2403.01251",
)
ZOU_2023 = Paper(
    title="Universal and Transferable Adversarial Attacks on Aligned Language Models",
    authors=("Zou", "Wang", "Carlini", "Nasr", "Kolter", "Fredrikson"),
    year=2023,
    arxiv="2307.15043",
)

"""The tour's second stage: where inside the model the answer changes."""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pellucid import zoo
from pellucid.cli._answers import remove_placeholder
from pellucid.cli._demo import make_request
from pellucid.cli._inspect import Question, look, show, write_page
from pellucid.cli._tour_sections import Grid, Section, Table

_MODEL = "tiny-chat"
_RIGHT, _WRONG = " yellow", " purple"
_ANSWER = "Mira's bicycle is"


def inspect(out: Path, seed: int, console: Console) -> Section:
    """Look at the model as it is about to name a colour, without the trigger and with it.

    Args:
        out: The tour's directory; the trigger is that of its first stage, if that was run.
        seed: Not used: nothing is drawn.
        console: Where to show how it goes.
    """
    del seed
    trigger = _read_trigger(out)
    asked = {"plain": _ask("", out / "inspect" / "plain.html")}
    if trigger is not None:
        asked["trigger"] = _ask(trigger, out / "inspect" / "trigger.html")
    pages: dict[str, dict[str, Any]] = {}
    for name, question in asked.items():
        pages[name] = look(question)
        write_page(pages[name], Path(str(question.report)))
        if name == list(asked)[-1]:
            show(pages[name], question.report)
    last = list(pages)[-1]
    page = pages[last]
    parts = page["attribution"]["parts"]
    best = sorted(parts, key=lambda part: part["score"], reverse=True)
    head = next(part for part in best if part["head"] is not None)
    where = {"plain": "without the trigger", "trigger": "with the trigger"}
    before = pages["plain"]["next"][0]
    figures = [("Without the trigger", f"{before['token'].strip('·')} {before['probability']:.0%}")]
    if trigger is not None:
        after = page["next"][0]
        figures.append(("With it", f"{after['token'].strip('·')} {after['probability']:.0%}"))
    console.print(f"{best[0]['label']} speaks for{_WRONG} the loudest, of heads {head['label']}.")
    return Section(
        said=(
            f"The model has said “{_ANSWER}” and is about to name a colour. What it would say if "
            "it ended after each of its blocks, which parts speak for one colour over the other, "
            "and where the head that speaks the loudest looks."
        ),
        figures=[*figures, ("Loudest head", head["label"])],
        pictures=[
            *(_draw_lens(pages[name], where[name]) for name in pages),
            Table(
                title=f"What adds to the logit of “{_WRONG.strip()}” over “{_RIGHT.strip()}”, "
                + where[last],
                head=("part", "adds"),
                rows=[(part["label"], f"{part['score']:+.3f}") for part in parts[:8]],
            ),
            _draw_pattern(page, head, where[last]),
        ],
        commands=[question.to_command() for question in asked.values()],
        more=("All heads and positions", f"inspect/{last}.html"),
    )


def _read_trigger(out: Path) -> str | None:
    path = out / "optimize" / "result.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["best_trigger"]


def _ask(trigger: str, report: Path) -> Question:
    template = make_request(0).templates[0]
    question = remove_placeholder(template)
    asked = f"{question} {trigger}" if trigger else question
    tokenizer: Any = zoo.load(_MODEL)[1]
    chat = [{"role": "user", "content": asked}]
    prompt: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    # A raw prompt is begun by whoever encodes it.
    prompt = prompt.removeprefix(tokenizer.bos_token) + _ANSWER
    return Question(
        model=f"zoo:{_MODEL}", prompt=prompt, raw=True, token=_WRONG, against=_RIGHT,
        report=report,
    )  # fmt: skip


def _draw_lens(page: dict[str, Any], where: str) -> Grid:
    lens = page["lens"]
    cells = [
        [(tokens[-1][n], probabilities[-1][n]) for n in range(3)]
        for tokens, probabilities in zip(lens["tokens"], lens["probabilities"], strict=True)
    ]
    cells = [[(f"{text} {share:.0%}", share) for text, share in row] for row in cells]
    return Grid(
        title=f"What the model would say after each block, {where}",
        head=["first", "second", "third"], labels=lens["rows"], cells=cells,
    )  # fmt: skip


def _draw_pattern(page: dict[str, Any], head: dict[str, Any], where: str) -> Grid:
    held = page["layers"][head["layer"]]
    tokens: list[str] = page["tokens"]
    whole = torch.frombuffer(bytearray(base64.b64decode(held["patterns"])), dtype=torch.uint8)
    pattern = whole.view(held["heads"], len(tokens), len(tokens))[head["head"]] / 255
    return Grid(
        title=f"Where {head['label']} looks, {where}: rows attend, columns are attended to",
        head=tokens, labels=tokens, is_small=True,
        cells=[[("", round(share, 3)) for share in row] for row in pattern.tolist()],
    )  # fmt: skip

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cli._report import render_report
from pellucid.cli._request import Request, to_config

EVIL = "<script>alert('x')</script>\" onload=\x1b[31m\u202e&amp;"
VOID = {"meta", "link", "br", "img", "input", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and sees that elements nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def render(
    request: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
) -> str:
    asked: dict[str, Any] = {
        "model": "zoo:tiny-chat",
        "templates": ("Where? {{OPTIMIZED_TRIGGER}}",),
        "targets": ("There.",),
        "optimizer": "gcg",
        "loss": "prefill-ce",
        "steps": 3,
        "seed": 5,
    }
    found: dict[str, Any] = {
        "initial_loss": 4.0,
        "best_loss": 2.0,
        "verified_loss": 2.0,
        "tokenization_gap": 0,
        "best_trigger": "up down",
        "best_trigger_tokens": ["up", " down"],
        "goal_reached": False,
        "answer_before": "Here.",
        "answer_initial": "Hm.",
        "answer_after": "Nowhere.",
        "stop_reason": "steps",
        "steps": 2,
        "elapsed_s": 1.5,
        "seed": 5,
        "usage": {"total_tokens": 12345},
    }
    steps = [
        {"step": 1, "loss": 3.0, "best_loss": 3.0, "trigger": "up"},
        {"step": 2, "loss": 2.0, "best_loss": 2.0, "trigger": "up down"},
    ]
    config = to_config(Request(**{**asked, **(request or {})}))
    return render_report(
        json.loads(json.dumps(config)),
        {**found, **(result or {})},
        steps if rows is None else rows,
        Path("runs/one"),
    )


def test_the_page_tells_the_run():
    page = Page(render())
    assert page.open == []
    for told in ("Where?", "There.", "Here.", "Nowhere.", "up down", "12,345", "12.3k", "1.5 s"):
        assert told in page.text
    assert "Goal not reached" in page.text
    assert "Ended after 2 of 3 steps: all steps were made." in page.text
    assert "pellucid optimize --resume runs/one --steps 6" in page.text
    assert "step 2: loss 2, best 2" in page.text
    assert page.tags.count("svg") == 1


def test_the_page_loads_nothing_and_runs_nothing():
    source = render()
    page = Page(source)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert [value for name, value in page.attributes if name in ("src", "href")] == ["data:,"]
    assert not re.search(r"https?:|//\w|@import|url\(", source)
    policy = dict(page.attributes)["content"]
    assert policy is not None
    assert "default-src 'none'" in source


@pytest.mark.parametrize("where", ["trigger", "token", "answer", "template", "target", "model"])
def test_what_others_wrote_is_only_text(where):
    answers = {f"answer_{name}": EVIL for name in ("before", "initial", "after")}
    plain = Page(render())
    page = Page(
        {
            "trigger": lambda: render(
                result={"best_trigger": EVIL},
                rows=[{"step": 1, "loss": 1.0, "best_loss": 1.0, "trigger": EVIL}],
            ),
            "token": lambda: render(result={"best_trigger_tokens": [EVIL]}),
            "answer": lambda: render(result=answers),
            "template": lambda: render(request={"templates": (EVIL + "{{OPTIMIZED_TRIGGER}}",)}),
            "target": lambda: render(request={"targets": (EVIL,)}),
            "model": lambda: render(request={"model": EVIL}),
        }[where]()
    )
    assert set(page.tags) == set(plain.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert('x')</script>\" onload=\\x1b[31m\\u202e&amp;" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_can_stand_in_the_page(text):
    page = Page(
        render(
            request={"templates": (text.replace("{", "") + "{{OPTIMIZED_TRIGGER}}",)},
            result={"best_trigger": text, "best_trigger_tokens": [text], "answer_after": text},
        )
    )
    assert page.open == []
    assert set(page.tags) == set(Page(render()).tags)


def test_several_templates_stand_below_each_other():
    page = Page(
        render(
            request={
                "templates": ("{{OPTIMIZED_TRIGGER}} one", "two {{OPTIMIZED_TRIGGER}}"),
                "targets": ("first", "second"),
            },
            result={
                "answer_before": ["a", "b"],
                "answer_initial": ["c", "d"],
                "answer_after": ["first", None],
            },
        )
    )
    assert page.text.count("Answer with the trigger") == 2
    assert "no answer" in page.text
    assert [value for name, value in page.attributes if value == "reached"] == ["reached"]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"goal_reached": True, "stop_reason": "success"}, "Goal reached"),
        ({"goal_reached": None}, "No target to reach"),
        ({"stop_reason": "interrupted"}, "interrupted with Ctrl-C"),
        ({"stop_reason": "something new"}, "something new"),
        ({"tokenization_gap": 2, "verified_loss": 2.5}, "in 2 places; its loss is then 2.5, not 2"),
        ({"tokenization_gap": 1}, "in 1 place;"),
        ({"verified_loss": None, "tokenization_gap": None}, "could not be computed from text"),
        ({"answer_after": "  "}, "nothing"),
        ({"initial_loss": None}, "unknown"),
        ({"best_trigger_tokens": None}, "up down"),
    ],
)
def test_every_outcome_is_told(result, told):
    assert told in Page(render(result=result)).text


def test_a_run_without_finite_losses_has_no_curve():
    row = {"step": 1, "loss": float("inf"), "best_loss": float("inf"), "trigger": "x"}
    page = Page(render(result={"initial_loss": None, "best_loss": None}, rows=[row]))
    assert "svg" not in page.tags
    assert "No step had a finite loss" in page.text


def test_a_run_at_its_goal_has_nothing_to_go_on_with():
    assert "--resume" not in render(result={"stop_reason": "success"})

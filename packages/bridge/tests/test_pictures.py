"""Figures hold the numbers they were given."""

from typing import Any

import pytest
import torch

from pellucid.bridge import (
    attention_figure,
    attribution_figure,
    logit_lens_figure,
    patching_figure,
)

TOKENS = ["The", " cat", " sat", " sat"]


def matrix(trace: Any) -> torch.Tensor:
    return torch.tensor(trace.z)


def test_attention_is_drawn_head_by_head_and_a_menu_chooses() -> None:
    pattern = torch.rand(3, 4, 4).softmax(-1)
    figure = attention_figure(pattern, TOKENS)
    for number, trace in enumerate(figure.data):
        torch.testing.assert_close(matrix(trace), pattern[number])
        assert trace.visible == (number == 0)
    assert len(set(figure.data[0].x)) == 4
    buttons = figure.layout.updatemenus[0].buttons
    assert [list(b.args[0]["visible"]) for b in buttons] == torch.eye(3).bool().tolist()
    assert not attention_figure(pattern[0], TOKENS).layout.updatemenus


def test_a_grid_is_white_at_zero() -> None:
    grid = torch.randn(2, 4)
    figure = patching_figure(grid, columns=TOKENS, rows=["a", "b"])
    torch.testing.assert_close(matrix(figure.data[0]), grid)
    assert figure.data[0].zmid == 0
    assert list(figure.data[0].y) == ["a", "b"]
    assert list(patching_figure(grid).data[0].x) == ["0", "1", "2", "3"]


def test_a_lens_shows_what_would_be_said() -> None:
    probs, said = torch.rand(2, 4), [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    trace = logit_lens_figure(probs, said, TOKENS).data[0]
    torch.testing.assert_close(matrix(trace), probs)
    assert [list(row) for row in trace.text] == said


@pytest.mark.parametrize(("n_top", "drawn"), [(2, [-5.0, 3.0]), (None, [-5.0, 3.0, 1.0])])
def test_the_largest_contributions_come_first(n_top: int | None, drawn: list[float]) -> None:
    scores = torch.tensor([1.0, -5.0, 3.0], requires_grad=True)
    trace = attribution_figure(scores, ["a", "b", "c"], n_top=n_top).data[0]
    assert list(trace.x) == drawn
    assert list(trace.y)[:2] == ["b", "c"]


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda: attention_figure(torch.rand(2, 3, 3), TOKENS), "tokens has 4 .* 3 positions"),
        (lambda: patching_figure(torch.rand(2, 3), rows=["a"]), "rows has 1 entries"),
        (lambda: patching_figure(torch.rand(2, 3), columns=["a"]), "columns has 1 entries"),
        (lambda: logit_lens_figure(torch.rand(2, 4), [[""] * 4], TOKENS), "predictions has 1"),
        (lambda: attribution_figure(torch.rand(2), ["a"]), "labels has 1 entries"),
    ],
)
def test_labels_that_do_not_fit_are_refused(draw: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        draw()


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match=r"pellucid-bridge\[pictures\]"):
        patching_figure(torch.rand(2, 3))

"""Pictures of what a bridge shows, as figures of plotly.

Every function returns a `plotly.graph_objects.Figure`: show it in a notebook, or write it with
`figure.write_html`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import ArgumentError, MissingDependencyError

_SIGNED = "RdBu"
_SHARE = "Blues"


def attention_figure(
    pattern: Float[Tensor, "head query_pos key_pos"] | Float[Tensor, "query_pos key_pos"],
    tokens: Sequence[str],
    *,
    title: str = "Attention",
) -> Any:
    """Draw attention patterns over the tokens; several heads get a menu to choose from.

    Args:
        pattern: Of one head, or of all heads of a layer.
        tokens: The text of each position.
        title: Stands above.

    Raises:
        ArgumentError: (a ValueError) If there are not as many tokens as positions.
    """
    heads = pattern if pattern.ndim == 3 else pattern[None]
    _check_labels(tokens, heads.shape[-1], "tokens", "positions")
    labels = label_tokens(tokens)
    go = _graph_objects()
    traces = [
        go.Heatmap(
            z=_rows(one),
            x=labels,
            y=labels[-one.shape[0] :],
            colorscale=_SHARE,
            zmin=0,
            zmax=1,
            visible=number == 0,
            hovertemplate="%{y} attends to %{x}: %{z:.3f}<extra></extra>",
        )
        for number, one in enumerate(heads)
    ]
    figure = go.Figure(traces)
    _lay_out(figure, title, "attended to", "attends")
    if len(heads) > 1:
        buttons = [
            {
                "label": f"head {number}",
                "method": "update",
                "args": [{"visible": [other == number for other in range(len(heads))]}],
            }
            for number in range(len(heads))
        ]
        figure.update_layout(updatemenus=[{"buttons": buttons, "x": 1.0, "y": 1.15}])
    return figure


def patching_figure(
    grid: Float[Tensor, "row column"],
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    row_label: str = "layer",
    column_label: str = "position",
    title: str = "Activation patching",
) -> Any:
    """Draw a grid of patching results, white where a patch changed nothing.

    Args:
        grid: What each patch did to the metric.
        rows: A label for each row; numbers when omitted.
        columns: A label for each column; numbers when omitted.
        row_label: What rows are.
        column_label: What columns are.
        title: Stands above.

    Raises:
        ArgumentError: (a ValueError) If there are not as many labels as rows or columns.
    """
    names = [
        [str(number) for number in range(size)] if given is None else list(given)
        for given, size in zip((rows, columns), grid.shape, strict=True)
    ]
    _check_labels(names[0], grid.shape[0], "rows", "rows of the grid")
    _check_labels(names[1], grid.shape[1], "columns", "columns of the grid")
    hover = f"{row_label} %{{y}}, {column_label} %{{x}}: %{{z:.4g}}<extra></extra>"
    across = names[1] if columns is None else label_tokens(names[1])
    figure = _graph_objects().Figure(
        _graph_objects().Heatmap(
            z=_rows(grid), x=across, y=names[0], colorscale=_SIGNED, zmid=0, hovertemplate=hover
        )
    )
    _lay_out(figure, title, column_label, row_label)
    return figure


def logit_lens_figure(
    probabilities: Float[Tensor, "row pos"],
    predictions: Sequence[Sequence[str]],
    tokens: Sequence[str],
    *,
    rows: Sequence[str] | None = None,
    title: str = "Logit lens",
) -> Any:
    """Draw what each layer would predict after each token, and how surely.

    Args:
        probabilities: Of the likeliest token, a row a layer, between 0 and 1.
        predictions: That token, for each row and position.
        tokens: The text of each position.
        rows: A label for each row; numbers when omitted.
        title: Stands above.

    Raises:
        ArgumentError: (a ValueError) If labels and probabilities do not fit.
    """
    names = [str(n) for n in range(len(probabilities))] if rows is None else list(rows)
    _check_labels(names, probabilities.shape[0], "rows", "layers")
    _check_labels(tokens, probabilities.shape[1], "tokens", "positions")
    _check_labels(predictions, probabilities.shape[0], "predictions", "layers")
    figure = _graph_objects().Figure(
        _graph_objects().Heatmap(
            z=_rows(probabilities),
            x=label_tokens(tokens),
            y=names,
            text=[list(row) for row in predictions],
            texttemplate="%{text}",
            colorscale=_SHARE,
            zmin=0,
            zmax=1,
            hovertemplate="after %{x}, layer %{y}: %{text} with %{z:.3f}<extra></extra>",
        )
    )
    _lay_out(figure, title, "token", "layer")
    return figure


def attribution_figure(
    scores: Float[Tensor, " row"],
    labels: Sequence[str],
    *,
    n_top: int | None = 20,
    title: str = "Direct logit attribution",
) -> Any:
    """Draw what each part contributes as bars, the largest first.

    Args:
        scores: What each part contributes, of either sign.
        labels: What each part is.
        n_top: How many to draw, by size; all if None.
        title: Stands above.

    Raises:
        ArgumentError: (a ValueError) If there are not as many labels as scores.
    """
    _check_labels(labels, len(scores), "labels", "scores")
    values = scores.detach().float().cpu()
    order = values.abs().argsort(descending=True)[:n_top].tolist()
    figure = _graph_objects().Figure(
        _graph_objects().Bar(
            x=[float(values[i]) for i in order],
            y=[labels[i] for i in order],
            orientation="h",
            marker={"color": [float(values[i]) for i in order], "colorscale": _SIGNED, "cmid": 0},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )
    )
    _lay_out(figure, title, "contribution to the logit", "")
    return figure


def label_tokens(tokens: Sequence[str]) -> list[str]:
    """Return a label for each token that no other has: its text, spaces shown, and its position."""
    shown = [text.replace(" ", "·").replace("\n", "↵") for text in tokens]
    return [f"{text} <sub>{place}</sub>" for place, text in enumerate(shown)]


def _lay_out(figure: Any, title: str, x_title: str, y_title: str) -> None:
    figure.update_layout(
        title=title,
        xaxis={"title": x_title, "type": "category"},
        yaxis={"title": y_title, "type": "category", "autorange": "reversed"},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
        template="plotly_white",
    )


def _rows(values: Tensor) -> list[list[float]]:
    return values.detach().to("cpu", torch.float32).tolist()


def _check_labels(labels: Sequence[Any], n: int, what: str, of: str) -> None:
    if len(labels) != n:
        raise ArgumentError(f"{what} has {len(labels)} entries, and there are {n} {of}.")


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError(
            "pictures are drawn by plotly, which is not installed. "
            "pip install 'pellucid-bridge[pictures]'"
        ) from error
    return plotly.graph_objects

"""The options of `pellucid linearize`."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli._waiting import abortable, waiting

LINEARIZE_EPILOG = (
    "[dim]Example[/dim]  pellucid linearize zoo:tiny-chat --out runs/linear\n\n"
    "[dim]Train it then[/dim]  python -m pellucid.tptt.train --model zoo:tiny-chat "
    "--data zoo:questions --out runs/trained"
)


def linearize(
    model: Annotated[
        str, typer.Argument(help="zoo:NAME, a directory, or a name on the Hugging Face hub.")
    ],
    *,
    out: Annotated[
        Path, typer.Option(help="Directory for the converted model; it must not exist yet.")
    ],
    mode: Annotated[
        str,
        typer.Option(
            help="What linear attention computes: delta_rule[_GATE][_gelu] or "
            "delta_product[_ORDER][_GATE][_gelu][_r|_c], GATE being k, v or kv."
        ),
    ] = "delta_rule",
    mag_weight: Annotated[
        float, typer.Option(help="Share of linear attention: 0 is the model as it was, 1 has none.")
    ] = 0.5,
    target: Annotated[
        list[str] | None,
        typer.Option(
            show_default="attn, self_attn, attention",
            help="How the names of attention modules end; may be given several times.",
        ),
    ] = None,
    chunk_size: Annotated[
        int, typer.Option(help="Tokens that linear attention computes at a time.", min=1)
    ] = 64,
    lora: Annotated[
        int, typer.Option(help="Rank of adapters on the projections; 0 for none.", min=0)
    ] = 0,
    text: Annotated[
        Path | None,
        typer.Option(
            show_default="the zoo's held-out questions, for its models",
            help="A text file that perplexity is measured on, before and after.",
        ),
    ] = None,
) -> None:
    """Give a model linear attention beside its own, and say what that changes.

    Writes the converted model, and result.json with parameters, the size of what
    it remembers, tokens per second, and perplexity before and after. A model that
    was only converted has not learnt to use linear attention: train it then.
    """
    with abortable(), waiting("converting the model"):
        from pellucid.cli import _linearize  # noqa: PLC0415

        asked = _linearize.Conversion(
            model=model,
            mode=mode,
            mag_weight=mag_weight,
            targets=tuple(target or ()),
            chunk_size=chunk_size,
            lora=lora,
            text=text,
        )
        result = _linearize.convert(asked, out)
    _linearize.show(result, out)

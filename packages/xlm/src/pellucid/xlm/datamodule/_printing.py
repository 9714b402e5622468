"""Showing a batch to people."""

from collections.abc import Mapping
from typing import Any

from pellucid.xlm.contracts import IGNORED


def print_batch(
    batch: Mapping[str, Any], split: str, tokenizer: Any, dataloader_name: str = ""
) -> None:
    """Print the first row of a batch, as the network reads it and as it should answer.

    Args:
        batch: With `input_ids`, and maybe `target_ids`; what is ignored there is left out.
        split: Of the loader.
        tokenizer: Decodes ids.
        dataloader_name: Of the loader.
    """
    print(f"{split}/{dataloader_name}: {len(batch['input_ids'])} rows")  # noqa: T201
    for name in ("input_ids", "target_ids"):
        rows = batch.get(name)
        if rows is not None:
            shown = [id_ for id_ in rows[0].tolist() if id_ != IGNORED]
            print(f"  {name}: {tokenizer.decode(shown)}")  # noqa: T201

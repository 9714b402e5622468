"""Activations on disk, and probes fitted on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.bridge import ActivationStore, TransformerBridge, fit_probe, store_activations
from pellucid.testing import tiny_llama

NAMES = ["blocks.0.hook_resid_post", ("z", 1)]
PROMPTS = [f"{word} is number {n}" for n in range(12) for word in ("Apple", "The old harbour")]


@pytest.fixture
def bridge(tokenizer: Any) -> TransformerBridge:
    return TransformerBridge(tiny_llama(), tokenizer=tokenizer)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_rows_are_those_of_single_runs(bridge: Any, tmp_path: Path, batch_size: int) -> None:
    store = store_activations(
        bridge, PROMPTS, NAMES, tmp_path / "held", batch_size=batch_size, progress=False
    )
    assert list(store) == ["blocks.0.hook_resid_post", bridge.explain(("z", 1)).name]
    assert (store.prompts, store.position) == (PROMPTS, -1)
    for name in store:
        alone = [bridge.run_with_cache(text)[1][name][0, -1] for text in PROMPTS]
        found = torch.from_numpy(np.array(store[name]))
        torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-4)
        assert isinstance(store[name], np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["held"]
    again = ActivationStore(tmp_path / "held")
    assert np.array_equal(again[name], store[name])


def test_a_store_that_fails_leaves_nothing(bridge: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a' has .* tokens"):
        store_activations(
            bridge,
            [*PROMPTS, "a"],
            NAMES,
            tmp_path / "x",
            position=-4,
            batch_size=4,
            progress=False,
        )
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_store_are_refused(bridge: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        store_activations(bridge, PROMPTS, NAMES, tmp_path)
    with pytest.raises(ValueError, match="no store of activations"):
        ActivationStore(tmp_path)
    with pytest.raises(ValueError, match="at least one prompt"):
        store_activations(bridge, [], NAMES, tmp_path / "x")
    store = store_activations(bridge, PROMPTS, NAMES[:1], tmp_path / "held", progress=False)
    with pytest.raises(KeyError, match=r"stored are blocks\.0\.hook_resid_post"):
        store["blocks.1.hook_resid_post"]
    (tmp_path / "held" / "0.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match="cannot be read"):
        store["blocks.0.hook_resid_post"]
    (tmp_path / "held" / "about.json").write_text(json.dumps({"prompts": []}))
    with pytest.raises(ValueError, match="no store of activations"):
        ActivationStore(tmp_path / "held")


def planted(n: int, shift: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of noise, those of label 1 moved along a direction."""
    draw = torch.Generator().manual_seed(1)
    direction = torch.randn(8, generator=draw)
    direction /= direction.norm()
    labels = torch.arange(n) % 2
    rows = torch.randn(n, 8, generator=draw) + shift * labels[:, None] * direction
    return rows * torch.linspace(0.1, 10, 8), labels, direction


def test_a_probe_finds_what_was_planted() -> None:
    rows, labels, _ = planted(400, 6.0)
    probe = fit_probe(rows, labels)
    assert probe.test_accuracy > 0.95
    assert (probe.n_train, probe.n_test) == (300, 100)
    assert float((probe.predict(rows) == labels).float().mean()) > 0.95
    torch.testing.assert_close(probe.direction.norm(), torch.tensor(1.0))
    middle = rows[labels == 1].mean(0) - rows[labels == 0].mean(0)
    assert float(probe.direction @ middle) > 0


def test_a_probe_finds_nothing_where_nothing_is() -> None:
    rows, labels, _ = planted(400, 0.0)
    assert 0.35 < fit_probe(rows, labels).test_accuracy < 0.65


def test_scores_are_the_log_odds_of_the_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rows, labels, _ = planted(60, 1.0)
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    probe = fit_probe(rows, labels, test_share=0.01)
    held_out = [i for i in range(60) if i in _held_out(rows, labels, probe)]
    kept = [i for i in range(60) if i not in held_out]
    scaled = rows[kept]
    mean, scale = scaled.mean(0), scaled.std(0, correction=0)
    plain = LogisticRegression(max_iter=2000).fit((scaled - mean) / scale, labels[kept])
    expected = plain.decision_function(((rows - mean) / scale).numpy())
    torch.testing.assert_close(
        probe.scores(rows), torch.from_numpy(expected), atol=1e-3, rtol=1e-3, check_dtype=False
    )


def _held_out(rows: Any, labels: Any, probe: Any) -> set[int]:
    from pellucid.bridge._analysis._linear_probe import _split

    return set(_split(labels.numpy(), 0.01, 0)[1].tolist())


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [([0] * 6, "both occur"), ([0, 1, 2] * 2, "both occur"), ([0, 1], "one entry a row"),
     ([0, 0, 0, 0, 0, 1], "at least two rows")],
)  # fmt: skip
def test_labels_that_cannot_be_learnt_are_refused(labels: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fit_probe(torch.randn(6, 3), labels)


@pytest.mark.parametrize("options", [{"test_share": 0.0}, {"test_share": 1}, {"regularization": 0}])
def test_settings_without_meaning_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        fit_probe(torch.randn(6, 3), [0, 1] * 3, **options)

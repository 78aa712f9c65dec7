"""The models of a folder of folds, which answer together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dongu
from conftest import WORDS
from dongu.cli.main import run as run_command
from dongu.errors import InputError, UsageError
from dongu.export.folder import export
from dongu.judge.ranking import sigmoid, softmax
from dongu.use.ensemble import mean_logits

TEXTS = ["a bad b", "good", "b c a good bad a"]


@pytest.mark.crash
def test_folds_answer_with_the_mean_of_their_probabilities(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = ({"text": f"{WORDS[i % 7]} {WORDS[i % 5]}", "label": "abc"[i % 3]} for i in range(30))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--model", tiny_model(), "--max-steps", "3", "--lr", "0.01", "--threads", "1", "--out", str(out)]
    assert run_command(["train", str(data), *flags, "--folds", "3"]) == 0
    together = dongu.load(out)
    alone = [dongu.load(out / f"fold-{k}") for k in (1, 2, 3)]
    said = [[list(row["probabilities"].values()) for row in each.predict(TEXTS)] for each in (together, *alone)]
    assert np.ptp(said[1:], axis=0).max() > 1e-3  # the models differ
    assert np.allclose(said[0], np.mean(said[1:], axis=0), atol=1e-6)
    capsys.readouterr()
    assert run_command(["predict", str(out), TEXTS[0], "--json"]) == 0
    shown = list(json.loads(capsys.readouterr().out)["probabilities"].values())
    assert np.allclose(shown, said[0][0], atol=1e-6)
    with pytest.raises(UsageError, match="is not a run, and has no data of its own"):
        together.evaluate_own()
    with pytest.raises(UsageError, match="a graph is of one model"):
        export(out, tmp_path / "onnx")
    summary = json.loads((out / "folds.json").read_text(encoding="utf-8"))
    del summary["pooled"]
    (out / "folds.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(InputError, match="not all folds are finished"):
        dongu.load(out)


@pytest.mark.parametrize("names", [["../elsewhere"], ["fold-1/../.."], [], ["fold-9"]])
def test_a_summary_leads_to_no_other_folder(tmp_path: Path, names: list[Any]) -> None:
    (tmp_path / "out/fold-1").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/folds.json").write_text(json.dumps({"folds": names, "pooled": {}}), encoding="utf-8")
    with pytest.raises(InputError, match="its runs are not there"):
        dongu.load(tmp_path / "out")


def test_the_mean_of_sure_answers_is_finite() -> None:
    logits = torch.tensor([[[120.0, -120.0]], [[-2.0, 90.0]], [[0.5, 0.25]]], dtype=torch.float64)
    for task, probability in (("single-label", softmax), ("multi-label", sigmoid)):
        mean = mean_logits(logits, task).numpy()  # type: ignore[arg-type]
        assert np.allclose(probability(mean), np.mean([probability(each.numpy()) for each in logits], axis=0))
        assert np.isfinite(mean).all()
    assert torch.equal(mean_logits(logits, "regression"), logits.mean(0))

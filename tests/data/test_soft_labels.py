"""Soft labels: a share for each class. They are learnt as they are, and measured against the class of the largest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dongu
from dongu.cli.main import run as run_command
from dongu.config import make_config
from dongu.data.examples import TextData, read_examples
from dongu.data.sources import read_source
from dongu.doctor.checkup import check_up
from dongu.errors import DataError, UsageError

TEXTS = [f"the film word{i} was {('good', 'bad', 'not')[i % 3]}" for i in range(24)]
SHARES = [[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.25, 0.25, 0.5]] * 8
NAMES = ["joy", "fear", "calm"]
FORMS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str]]] = {
    "lists": ([{"text": t, "label": s} for t, s in zip(TEXTS, SHARES, strict=True)], {}, ["0", "1", "2"]),
    "named": (
        [{"text": t, "label": s} for t, s in zip(TEXTS, SHARES, strict=True)],
        {"label_names": "joy,fear,calm"},
        NAMES,
    ),
    "as text": ([{"text": t, "label": str(s)} for t, s in zip(TEXTS, SHARES, strict=True)], {}, ["0", "1", "2"]),
    "columns": (
        [{"text": t, **dict(zip(NAMES, s, strict=True))} for t, s in zip(TEXTS, SHARES, strict=True)],
        {"label_column": "joy+fear+calm"},
        NAMES,
    ),
    "objects": (
        [{"text": t, "cats": dict(zip(NAMES, s, strict=True))} for t, s in zip(TEXTS, SHARES, strict=True)],
        {"label_column": "cats.joy+cats.fear+cats.calm"},
        ["cats.joy", "cats.fear", "cats.calm"],
    ),
}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: str, **options: Any) -> TextData:
    config = make_config(options)
    return read_examples(read_source(path, config), config)


@pytest.mark.parametrize("form", FORMS)
def test_shares_are_read(form: str, tmp_path: Path) -> None:
    rows, options, names = FORMS[form]
    data = read(write(tmp_path, rows), **options)
    assert (data.task, list(data.label_names)) == ("single-label", names)
    assert "a share for each class" in data.form.said
    for part in data.splits.values():
        wanted = np.array([SHARES[i] for i in part.ids], np.float32)
        assert np.array_equal(np.stack([*part.columns.values()], -1), wanted)
        assert part.targets is not None
        assert np.array_equal(part.targets, wanted.argmax(-1))


def test_the_loss_is_that_of_the_shares(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path, FORMS["named"][0])
    options: dict[str, Any] = {"model": tiny_model(), "label_names": "joy,fear,calm", "batch_size": 30, "max_steps": 1}
    loop = dongu.Loop(path, **options)
    rows = loop.train_updates.rows(0)
    part = loop.data.splits["train"]
    with torch.no_grad():
        inputs = loop.tokenizer([part.texts[0][i] for i in rows], padding=True, return_tensors="pt")
        logits = loop.model(**inputs).logits
    truth = torch.tensor([SHARES[part.ids[i]] for i in rows])
    loss = next(iter(loop)).loss
    assert loss == pytest.approx(float(F.cross_entropy(logits, truth)), abs=1e-5)
    hard = float(F.cross_entropy(logits, truth.argmax(-1)))
    assert abs(loss - hard) > 1e-3
    assert next(iter(dongu.Loop(path, micro_batch_size=4, **options))).loss == pytest.approx(loss, abs=1e-6)


def test_a_run_and_what_it_is_asked(
    tiny_model: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, options, _ = FORMS["columns"]
    path = write(tmp_path, data)
    dongu.train(path, model=tiny_model(), out="run", max_steps=2, batch_size=8, device="cpu", **options)
    assert run_command(["evaluate", "run"]) == 0
    hard = [{"text": row["text"], "joy+fear+calm": max(NAMES, key=row.get)} for row in data]  # type: ignore[arg-type]
    one_hot = [
        {**row, **{name: float(name == best["joy+fear+calm"]) for name in NAMES}}
        for row, best in zip(data, hard, strict=True)
    ]
    for rows in (data, hard, one_hot):
        assert run_command(["evaluate", "run", write(tmp_path, rows, "new.jsonl")]) == 0
    assert run_command(["verify", "run"]) == 0
    capsys.readouterr()
    assert run_command(["eject", "run"]) == 2
    assert "soft labels" in capsys.readouterr().err
    config = make_config({"model": "not/here", **options})
    assert not [found for found in check_up(read_source(path, config), config).findings if found.severity == "error"]


def test_rows_with_other_numbers(tmp_path: Path) -> None:
    rows = FORMS["lists"][0]
    for wrong in ([0.7, 0.7, 0.1], [0.5, 0.5], [1.5, -0.5, 0.0], ["joy", 0.5, 0.5]):
        path = write(tmp_path, [*rows, {"text": "one more", "label": wrong}])
        with pytest.raises(DataError, match="are not 3 numbers that sum to one") as caught:
            read(path)
        assert caught.value.where == f"{path}:25"
        assert "--bad-rows" in caught.value.hint
        data = read(path, bad_rows="drop=5%")
        assert [row.where for row in data.dropped] == [f"{path}:25"]
        assert sum(map(len, data.splits.values())) == 24
    path = write(tmp_path, [*rows, {"text": "one more", "label": None}])
    assert read(path, unlabelled="drop").left_out == 1
    with pytest.raises(DataError, match="holds a number that is not a label"):
        read(write(tmp_path, [{"text": text, "label": [0.9, 0.9]} for text in TEXTS]))


def test_other_splits_may_have_one_class_each(tmp_path: Path) -> None:
    """By its name, or as a list without a fraction."""
    write(tmp_path, FORMS["named"][0], "train.jsonl")
    write(tmp_path, [{"text": "one", "label": [0, 1, 0]}, {"text": "two", "label": [1, 0, 0]}], "validation.jsonl")
    write(tmp_path, [{"text": "one", "label": "calm"}, {"text": "two", "label": "joy"}], "test.jsonl")
    data = read(str(tmp_path), label_names="joy,fear,calm")
    assert {name: part.targets.tolist() for name, part in data.splits.items() if part.targets is not None} == {
        "train": [0, 1, 2] * 8,
        "validation": [1, 0],
        "test": [2, 0],
    }
    assert data.unused_columns == ()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"label_names": "a,b"}, "3 shares a row, and 2 names"),
        ({"rare": "join=2"}, "--rare: soft labels"),
        ({"class_weights": "balanced"}, "--class-weights: soft labels"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, UsageError), match=what):
        read(write(tmp_path, FORMS["lists"][0]), **options)


def test_the_positive_class_of_two(tmp_path: Path) -> None:
    path = write(
        tmp_path, [{"text": text, "a": 0.25 * (i % 4), "b": 1 - 0.25 * (i % 4)} for i, text in enumerate(TEXTS)]
    )
    data = read(path, label_column="a+b", positive="a")
    assert data.label_names == ("b", "a")
    assert list(data.splits["train"].columns) == ["a+b: a", "a+b: b"]

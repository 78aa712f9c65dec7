"""The model card: valid for the Hub whatever the names are, and saying what results.json says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, metadata_eval_result
from huggingface_hub.repocard import metadata_load

import dongu
from dongu.export.card import write_card
from dongu.text import template

HOSTILE = (
    "plain",
    "a\n---\nlicense: mit\n---\n",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "![x](http://x.invalid/y.png) **bold**",
    "{{ jinja }} {% raw %}",
    "a: b # c\t& *anchor",
    "döngü 循環 \U0001f501",
    "\u202egnp.exe\u2028\x85\x1b[31m",
    "\"quoted\" 'twice'",
)
NAMES = ("a: |\n---\n# title", "'\"", "-", "data set <b>", "döngü", "{{x}}", "? - [", "\u2028---\u2028")
REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def data_of(card: str) -> Any:
    """The front matter, as `huggingface_hub` reads it."""
    return ModelCard(card).data


def problems(card: str) -> list[str]:
    """What the Hub's documented rules for a card's front matter have against it."""
    data = data_of(card).to_dict()
    found = [f"no {key}" for key in ("library_name", "pipeline_tag", "tags", "model-index") if not data.get(key)]
    if "base_model" in data and not REPOSITORY.fullmatch(data["base_model"]):
        found.append("base_model is no id of a model")
    found += [f"dataset {name!r}" for name in data.get("datasets", []) if not REPOSITORY.fullmatch(name)]
    found += [f"{key} is no list of words" for key in ("tags", "metrics") if not all(map(_is_word, data[key]))]
    for model in data["model-index"]:
        found += [] if _is_word(model["name"]) else ["a model without a name"]
        for result in model["results"]:
            found += [f"no {key} in {result}" for key in ("task", "dataset", "metrics") if not result.get(key)]
            words = [result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]]
            words += [metric["type"] for metric in result["metrics"]]
            found += [f"{word!r} is no word" for word in words if not _is_word(word)]
            values = [metric["value"] for metric in result["metrics"]]
            found += [f"{value!r} is no number" for value in values if not math.isfinite(value)]
    return found


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def entry(value: float, low: float = 0.25, high: float = 0.75) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "baseline": 0.1}


def results(**more: Any) -> dict[str, Any]:
    metrics = {"loss": entry(1.5), "accuracy": entry(0.5), "macro_f1": entry(0.125, math.nan, math.nan)}
    return {"best_step": 3, "steps": 9, "metric": "accuracy", "validation": metrics, **more}


def loop_of(data: Any, tiny_model: Callable[..., str], **options: Any) -> dongu.Loop:
    return dongu.Loop(data, model=tiny_model(), device="cpu", engine="plain", **options)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def test_names_from_the_data_end_nothing(tiny_model: Callable[..., str]) -> None:
    rows = [{"text": f"word{i % 10} film", "label": HOSTILE[i % 10]} for i in range(100)]
    weights = dict.fromkeys(HOSTILE[:3], 2.0)
    loop = loop_of(rows, tiny_model, class_weights=weights)
    per_class = [{"split": "validation", "class": name, "rows": 1} for name in loop.metrics.label_names]
    headings = None
    for name in NAMES:
        loop.data = type(loop.data)(**{**vars(loop.data), "name": name})
        card = write_card(loop, results(per_class=per_class), "1")
        data = data_of(card)
        assert problems(card) == []
        assert data.to_dict().get("license") is None
        assert data.model_name == data.eval_results[0].dataset_name == " ".join(name.splitlines())
        text = card.split("\n---\n", 2)[1]
        found = [line for line in re.sub(r"`+[^\n]*?`+", "", text).splitlines() if line.startswith("#")]
        assert len(found) == 6
        assert headings in (None, found[1:])
        headings = found[1:]
    answers = section(card, "What it answers").splitlines()
    assert len(answers) == len(HOSTILE), "a line a label"
    assert "- `<script>alert(1)</script>`, 10.0% of the training rows" in answers
    assert "- ``` `code` ``more`` ```, 10.0% of the training rows" in answers
    assert "fewer than 30 rows of validation" in section(card, "Limits")
    weighed = [line for line in card.splitlines() if line.startswith("| `--class-weights` |")]
    assert len(weighed) == 1
    assert weighed[0].endswith(" |")
    assert len(re.findall(r"(?<!\\)\|", weighed[0])) == 3


def test_its_template_is_compiled_once(tiny_model: Callable[..., str]) -> None:
    loop = loop_of([{"text": f"word{i}", "label": i % 2} for i in range(20)], tiny_model)
    write_card(loop, results(), "1")
    compiled = template.cache_info().misses
    write_card(loop, results(), "1")
    assert template.cache_info().misses == compiled


def test_the_hub_reads_what_was_written(tiny_model: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"text": f"word{i % 3} film " * (1 + i % 9), "label": f"class{i % 3}"} for i in range(60)]
    loop = loop_of(rows, tiny_model, max_length=8)
    undefined = {"validation": {**results()["validation"], "macro_f1": entry(math.nan)}, "test": {"loss": entry(2.0)}}
    path = tmp_path / "README.md"
    path.write_text(write_card(loop, results(**undefined), "1"), encoding="utf-8")
    card = ModelCard.load(path)

    def expected(split: str, metric: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="text-classification",
            task_name="single-label",
            dataset_type="data",
            dataset_name="data",
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric} (95% interval 0.2500 to 0.7500)",
            metric_value=value,
            metric_args={"level": 0.95, "low": 0.25, "high": 0.75},
        )

    written = [
        expected("validation", "loss", 1.5),
        expected("validation", "accuracy", 0.5),
        expected("test", "loss", 2.0),
    ]
    assert data_of(str(card)).eval_results == written, "an undefined value is left out"
    assert data_of(str(ModelCard(str(card)))).eval_results == written
    metadata = metadata_load(path)
    assert metadata is not None
    assert "base_model" not in metadata, "a folder of this machine is nothing on the Hub"
    made = metadata_eval_result(
        model_pretty_name="data",
        task_pretty_name="single-label",
        task_id="text-classification",
        metrics_pretty_name=written[0].metric_name or "",
        metrics_id="loss",
        metrics_value=1.5,
        dataset_pretty_name="data",
        dataset_id="data",
        dataset_split="validation",
    )
    [model], [own] = metadata["model-index"], made["model-index"]
    assert model["name"] == own["name"]
    first, other = model["results"][0], own["results"][0]
    assert (first["task"], first["dataset"]) == (other["task"], other["dataset"])
    assert {**first["metrics"][0], "args": None, "verified": None} == {
        **other["metrics"][0],
        "args": None,
        "verified": None,
    }
    data = section(str(card), "Data").splitlines()
    lengths = loop.splits["train"].tokens
    assert f"| train | 54 | {lengths.lengths.mean():.1f} | {lengths.truncated.mean():.1%} |" in data
    assert "Validation was held out of the training rows; which rows depends on the seed." in data
    limits = section(str(card), "Limits")
    assert f"It reads 8 tokens of a text. {int(lengths.truncated.sum())} training rows had more" in limits
    assert "only on the rows that chose its step" not in limits
    assert "only on the rows that chose its step" in write_card(loop, results(), "1")
    assert str(tmp_path.parent.parent) not in path.read_text(encoding="utf-8"), "nothing of this machine"


@pytest.mark.parametrize(
    ("hub_name", "model", "expected"),
    [
        ("glue:mrpc", "minilm", ("nyu-mll/glue", "mrpc", "sentence-transformers/all-MiniLM-L6-v2")),
        ("owner/name", "bert-base-uncased", ("owner/name", None, "bert-base-uncased")),
        ("owner/name:de", "owner/model", ("owner/name", "de", "owner/model")),
    ],
)
def test_names_on_the_hub(
    hub_name: str,
    model: str,
    expected: tuple[Any, ...],
    tiny_model: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dongu.export.card.find_model", lambda name: name)
    loop = loop_of([{"text": f"word{i % 2}", "label": str(i % 2)} for i in range(40)], tiny_model)
    loop.data = type(loop.data)(**{**vars(loop.data), "hub_name": hub_name})
    loop.config = loop.config.model_copy(update={"model": model})
    card = write_card(loop, results(), "1")
    assert problems(card) == []
    data = data_of(card)
    assert (data.datasets[0], data.eval_results[0].dataset_config, data.base_model) == expected
    assert data.eval_results[0].dataset_type == expected[0]
    assert f"](https://huggingface.co/datasets/{expected[0]})" in section(card, "Data")


def test_numbers_and_several_labels(tiny_model: Callable[..., str]) -> None:
    numbers = [{"text": f"word{i % 5}", "label": i % 5 + 0.5} for i in range(40)]
    card = write_card(loop_of(numbers, tiny_model), results(), "1")
    mean = np.mean([float(found) for found in re.findall(r"mean over the training rows is ([\d.]+)\.", card)])
    assert section(card, "What it answers").startswith("A number, `label`, whose mean")
    assert 1.5 < mean < 3.5
    sets: list[Mapping[str, Any]] = [{"text": f"word{i % 3}", "label": ["a", "b"][: i % 3]} for i in range(40)]
    card = write_card(loop_of(sets, tiny_model), results(threshold=0.375), "1")
    assert "each where its probability is at least 0.375." in section(card, "What it answers")
    assert problems(card) == []

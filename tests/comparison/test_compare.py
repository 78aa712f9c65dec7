"""`dongu compare`: what is said of finished runs, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import WORDS, computed
from dongu.cli.main import run
from dongu.comparison.pairs import seed_difference
from dongu.comparison.sides import FinishedRun, Side
from dongu.judge.answers import Evaluation
from dongu.judge.intervals import verdict
from dongu.judge.metrics import MetricSet, metric_value
from dongu.judge.paired import holm, mcnemar


def text_of(row: int) -> str:
    return " ".join([WORDS[row * 7 % 60], WORDS[row * 11 % 60], f"word{row % 2}"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Iterator[dict[str, Path]]:
    """Three runs of one data set, `low`, `high` and `more`, which differ in learning rate and metric."""
    import dongu

    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(folder / "cache"))
        for split, rows in {"train": range(64), "validation": range(64, 104), "test": range(104, 154)}.items():
            lines = [json.dumps({"text": text_of(row), "label": f"class{row % 2}"}) for row in rows]
            (folder / "data").mkdir(exist_ok=True)
            (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        options: dict[str, Any] = {"model": tiny_model(), "max_steps": 8, "eval_steps": 8, "threads": 1}
        made = {}
        for name, more in {"low": {"lr": 1e-5}, "high": {"lr": 1e-2}, "more": {"lr": 2e-3, "metric": "f1"}}.items():
            out = str(folder / name)
            made[name] = dongu.train(str(folder / "data"), **options, **more, out=out).path  # type: ignore[arg-type]
        yield made


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A run that a test may damage."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(runs[name], tmp_path / name))

    return copy


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run(["compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_two_runs_for_a_machine(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, runs["low"], runs["high"])
    assert (found["split"], found["rows"], found["metric"]) == ("test", 50, "accuracy")
    assert found["differs"] == {"learning-rate": [1e-5, 1e-2]}
    results = [
        json.loads((runs[name] / "results.json").read_text(encoding="utf-8"))["test"] for name in ("low", "high")
    ]
    assert [entry["metrics"] for entry in found["runs"]] == results
    [pair] = found["pairs"]
    for name in ("accuracy", "f1", "loss"):
        assert pair["differences"][name]["value"] == pytest.approx(
            results[1][name]["value"] - results[0][name]["value"], abs=1e-6
        )
    lines = [
        [json.loads(line) for line in (runs[name] / "predictions/test.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("low", "high")
    ]
    right = [[line["prediction"] == line["label"] for line in side] for side in lines]
    only = [row for row, (one, two) in enumerate(zip(*right, strict=True)) if two and not one]
    assert pair["rows"]["only_second"] == len(only) > 0
    assert sum(pair["rows"].values()) == 50
    assert pair["differences"]["accuracy"]["p"] == mcnemar(pair["rows"]["only_first"], len(only))
    for example in pair["examples"]["only_second"]:
        assert example["id"] in only
        assert example["label"] == lines[0][example["id"]]["label"] == example["answers"][1] != example["answers"][0]
        assert example["texts"] == [text_of(104 + example["id"])]


def test_two_runs_for_a_person(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(runs["low"]), str(runs["high"]), "--split", "validation"]) == 0
    shown = capsys.readouterr().out
    assert f"A  {runs['low']}, best at step 8 of 8" in shown
    assert "learning-rate  1e-05  0.01" in shown
    assert "validation, 40 rows" in shown
    assert "B is better than A by " in shown
    assert " points of accuracy; 95% interval " in shown
    assert "only B is right, 3 of 19 rows:" in shown
    assert "  class0; A says class1, B says class0" in shown


def test_three_runs_against_the_first(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, runs["low"], runs["high"], runs["more"])
    assert [pair["run"] for pair in found["pairs"]] == [str(runs["high"]), str(runs["more"])]
    for name in ("accuracy", "f1", "loss"):
        alone = [pair["differences"][name]["p_alone"] for pair in found["pairs"]]
        assert [pair["differences"][name]["p"] for pair in found["pairs"]] == pytest.approx(holm(alone))
    assert found["differs"]["metric"] == [None, None, "f1"]
    assert run(["compare", *(str(runs[name]) for name in ("low", "high", "more"))]) == 0
    assert "corrected for 2 comparisons (Holm)" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_what_is_read_back_is_what_was_answered(task: Any, tmp_path: Path) -> None:
    """Answers read from predictions/ have the metrics that the evaluation had, whatever the task."""
    from dongu.model.loss import row_losses
    from dongu.run.folder import RunFolder
    from dongu.run.predictions import prediction_lines, read_answers

    random = np.random.default_rng(6)
    names = ("a", "b", "c") if task == "multi-label" else ("score",)
    metrics = MetricSet.of(task, names)
    logits = random.normal(size=(30, len(names))).astype(np.float32) * 3
    drawn = (random.random((30, 3)) < 0.5) if task == "multi-label" else random.normal(size=30)
    targets = drawn.astype(np.float32)
    losses = row_losses(task, logits, targets)
    values = {"loss": float(losses.mean()), **computed(metrics, logits, targets, 0.3)}
    evaluation = Evaluation("test", np.arange(30), logits, targets, losses, values, 0.3, task)
    folder = RunFolder(tmp_path)
    folder.write_predictions("test", prediction_lines(evaluation, metrics))
    record = {"label_names": names, "options": {"task": task}, "data": {"test": {"rows": 30}}, "metrics": metrics.names}
    results = {"threshold": 0.3, "test": verdict(evaluation, metrics, None, 0)}
    answers = read_answers(folder, "test", record, results)
    for name, value in values.items():
        assert metric_value(answers, name) == pytest.approx(value, abs=1e-9)
    assert answers.right.sum() < 30


# --- refused


def test_runs_that_cannot_be_compared(
    runs: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, other = runs["low"], copied("high")
    assert "one run alone" in refused(capsys, low)
    assert "is given twice" in refused(capsys, low, runs["high"], low.parent / "." / "low")
    assert "it has no run.json" in refused(capsys, low, tmp_path / "nothing")
    assert "holds several runs, and is not a run itself" in refused(capsys, low, tmp_path)
    assert "has no metrics of train" in refused(capsys, low, other, "--split", "train")

    change(other / "run.json", lambda record: record["data"]["test"].update(texts="0"))
    said = refused(capsys, low, other)
    assert f"its test has other rows than that of {low}: {low.parent / 'data'} has changed since" in said
    change(other / "run.json", lambda record: record["options"].update(data="/other"))
    said = refused(capsys, low, other)
    assert "its test (/other, " in said
    assert f"is not that of {low}" in said
    assert "train both on the same DATA" in said
    change(other / "run.json", lambda record: record["options"].update(text_columns=["title"]))
    assert f"rows are identified by their texts: it reads title, and {low} text" in refused(capsys, low, other)
    change(other / "run.json", lambda record: record["data"]["train"].update(texts="1", rows=7))
    found = compared(capsys, low, other, "--split", "validation")
    assert found["split"] == "validation"
    assert found["differs"]["train"][1] == "7 rows, sha256 1", "other train rows are a difference, and no obstacle"

    change(other / "run.json", lambda record: record.update(label_names=["no", "yes"]))
    assert "has other labels" in refused(capsys, low, other)
    change(other / "run.json", lambda record: record["options"].update(task="regression"))
    assert "its task is regression" in refused(capsys, low, other)

    (other / "results.json").unlink()
    assert f"dongu resume {other}" in refused(capsys, low, other)


def test_damaged_predictions(
    runs: dict[str, Path], copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    low, other = runs["low"], copied("high")
    (other / "MANIFEST.json").unlink()  # which sees all of it by itself
    path = other / "predictions" / "test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()

    def says(*content: str) -> str:
        path.write_text("\n".join(content) + "\n", encoding="utf-8")
        return refused(capsys, low, other)

    assert "has 49 rows, and run.json says 50" in says(*lines[:-1])
    assert "test.jsonl:3: is not JSON" in says(*lines[:2], "{", *lines[3:])
    assert "test.jsonl:50: holds no JSON object" in says(*lines[:-1], "[]")
    assert "holds no predictions of a single-label task" in says(*lines[:-1], "{}")
    first = json.loads(lines[0])
    turned = {**first, "prediction": "class0" if first["prediction"] == "class1" else "class1"}
    assert "row 0: the prediction is not that of the probabilities" in says(json.dumps(turned), *lines[1:])
    turned = {**first, "label": "class0" if first["label"] == "class1" else "class1"}
    assert "does not belong to results.json: its " in says(json.dumps(turned), *lines[1:])
    swapped = [json.dumps({**json.loads(line), "id": 49 - i}) for i, line in enumerate(lines)]
    assert f"has other rows or labels than that of {low}" in says(*swapped)
    path.unlink()
    assert "test.jsonl: is missing" in refused(capsys, low, other)

    change(other / "results.json", lambda results: results["test"]["loss"].update(low="0.1"))
    assert "is damaged: it holds no interval of loss on test" in refused(capsys, low, other)
    change(other / "results.json", lambda results: results["test"].pop("loss"))
    assert "says nothing of test that could be compared" in refused(capsys, low, other)


def test_a_metric_of_the_users_own_is_left_out(
    copied: Callable[[str], Path], runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its function is in a file of the user's, and neither `compare` nor `evaluate` has that."""
    from dongu.use.saved import SavedModel

    own = copied("high")
    (own / "MANIFEST.json").unlink()
    change(own / "run.json", lambda record: record.update(metric="kappa", metrics=[*record["metrics"], "kappa"]))
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    change(
        own / "results.json", lambda results: results.update(metric="kappa", test={**results["test"], "kappa": entry})
    )
    found = compared(capsys, own, runs["low"])
    assert found["metric"] == "f1"
    assert "kappa" not in found["pairs"][0]["differences"]
    assert SavedModel.open(own, device="cpu").metrics.main == "accuracy"


# --- recipes: folders of several seeds


@pytest.fixture(scope="module")
def recipes(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str], runs: dict[str, Path]
) -> dict[str, Path]:
    """The same data learnt by two recipes with the seeds 42 to 44, by the second with 50 and 51 too; and held out."""
    folder = tmp_path_factory.mktemp("recipes")
    data = str(runs["low"].parent / "data")
    options = ["--model", tiny_model(), "--max-steps", "2", "--threads", "1", "--device", "cpu"]
    asked = {
        "slow": [data, "--lr", "1e-5", "--seeds", "3"],
        "fast": [data, "--lr", "1e-2", "--seeds", "3"],
        "later": [data, "--lr", "1e-2", "--seeds", "2", "--seed", "50"],
        "held slow": [f"{data}/train.jsonl", "--lr", "1e-5", "--seeds", "2"],
        "held fast": [f"{data}/train.jsonl", "--lr", "1e-2", "--seeds", "2"],
        "held later": [f"{data}/train.jsonl", "--lr", "1e-2", "--seeds", "2", "--seed", "50"],
    }
    for name, more in asked.items():
        assert run(["train", *more, *options, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in asked}


def values_of(recipe: Path, split: str, name: str) -> list[float]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(recipe.glob("seed-*/results.json"))]
    return [results[split][name]["value"] for results in found]


def test_two_recipes(recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    found = compared(capsys, recipes["slow"], recipes["fast"])
    assert (found["split"], found["rows"], found["metric"]) == ("test", 50, "accuracy")
    assert found["differs"] == {"learning-rate": [1e-5, 1e-2]}
    [pair] = found["pairs"]
    for name in ("accuracy", "loss"):
        slow, fast = (np.array(values_of(recipes[recipe], "test", name)) for recipe in ("slow", "fast"))
        difference = pair["differences"][name]
        assert [*difference["by_seed"].values()] == pytest.approx((fast - slow).tolist(), abs=1e-12)
        assert difference["value"] == pytest.approx((fast - slow).mean(), abs=1e-12)
        reach = 4.302652729911275 * (fast - slow).std(ddof=1) / 3**0.5  # Student's t, two degrees of freedom
        assert difference["low"] <= difference["value"] - reach + 1e-9, "rows add to it, if all seeds move alike"
        assert difference["high"] >= difference["value"] + reach - 1e-9
    assert found["recipes"][1]["metrics"]["accuracy"]["mean"] == pytest.approx(fast.mean()) or name == "loss"
    assert run(["compare", str(recipes["slow"]), str(recipes["fast"])]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^(B is better than A by .* of accuracy in the mean of its seeds|no difference in accuracy)", said, re.M
    )
    assert "of 3 seeds" in said
    assert "seeds 42, 43, 44" in said

    unpaired = compared(capsys, recipes["slow"], recipes["later"])["pairs"][0]["differences"]["loss"]
    assert unpaired["by_seed"] is None
    means = [np.mean(values_of(recipes[recipe], "test", "loss")) for recipe in ("slow", "later")]
    assert unpaired["value"] == pytest.approx(means[1] - means[0])


def test_recipes_whose_seeds_hold_rows_out(recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    found = compared(capsys, recipes["held slow"], recipes["held fast"])
    assert (found["split"], found["rows"]) == ("validation", None)
    assert len(found["pairs"][0]["differences"]["loss"]["by_seed"]) == 2
    assert "the seeds are not those of" in refused(capsys, recipes["held slow"], recipes["held later"])
    assert "is not that of" in refused(capsys, recipes["fast"], recipes["held fast"], "--split", "validation")


def test_recipes_that_cannot_be_compared(
    recipes: dict[str, Path], runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert "and dongu compare takes two such folders" in refused(capsys, recipes["slow"], runs["low"])
    assert "is given twice" in refused(capsys, recipes["slow"], recipes["slow"])
    single = Path(shutil.copytree(recipes["fast"], tmp_path / "single"))
    change(single / "seeds.json", lambda summary: summary.update(seeds=[42]))
    assert "has fewer than two finished runs" in refused(capsys, recipes["slow"], single)


def test_the_interval_of_recipes_holds_the_truth() -> None:
    """In 95% of the cases, with three seeds, paired or not, when the seeds are all that is uncertain."""
    chance = np.random.default_rng(5)

    def recipe(values: np.ndarray, first_seed: int) -> Side:
        results = [{"test": {"loss": {"value": value}}} for value in values]
        runs = tuple(FinishedRun(Path(), {}, result) for result in results)
        return Side(Path(), runs, tuple(first_seed + i for i in range(len(runs))))

    for first_seed in (42, 50):
        held = 0
        for _ in range(600):
            seeds = chance.normal(0, 2, 3) * (first_seed == 42)  # what both recipes have of a seed
            one, two = (recipe(seeds + chance.normal(mean, 1, 3), seed) for mean, seed in ((0, 42), (0.7, first_seed)))
            found = seed_difference(one, two, "test", "loss", None)
            held += found.low <= 0.7 <= found.high
        assert 0.93 < held / 600 < 0.98


def test_the_interval_of_recipes_stays_within_the_metric() -> None:
    sides = []
    for values in ((0.1, 0.9), (0.95, 0.3)):
        results = [{"test": {"accuracy": {"value": value}}} for value in values]
        sides.append(Side(Path(), tuple(FinishedRun(Path(), {}, result) for result in results), (42, 43)))
    one, two = sides
    found = seed_difference(one, two, "test", "accuracy", None)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_rows_count_once_in_the_interval_of_recipes() -> None:
    """Three seeds, and rows that each recipe answers in its own way: equal recipes are told apart in about 5%."""
    chance, shown = np.random.default_rng(6), 0
    for _ in range(300):
        base = chance.normal(1.2, 1, 200)
        losses = [
            np.logaddexp(0, -(base + chance.normal(0, 0.6, 200) + chance.normal(0, 0.8, (3, 200)))) for _ in range(2)
        ]
        sides = [
            Side(
                Path(),
                tuple(FinishedRun(Path(), {}, {"test": {"loss": {"value": v}}}) for v in side.mean(1)),
                (1, 2, 3),
            )
            for side in losses
        ]
        moved = [side - side.mean(1, keepdims=True) for side in losses]
        shown += seed_difference(sides[0], sides[1], "test", "loss", (moved[0], moved[1])).shown(None)
    assert 3 <= shown <= 21, "it was 1 of 300 with the rows' noise counted twice"


def test_seeds_are_told_to_name_one(
    runs: dict[str, Path], copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tmp_path / "seeds"
    shutil.copytree(runs["high"], parent / "seed-42")
    (parent / "seeds.json").write_text("{}", encoding="utf-8")
    said = refused(capsys, runs["low"], parent)
    assert "holds one run per seed" in said
    assert f"give one of them: {parent}/seed-42; " in said
    assert "dongu compare takes two such folders" in said


def test_data_that_are_gone_or_others_cost_the_texts_alone(
    copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = copied("low"), copied("high")
    data = Path(json.loads((low / "run.json").read_text(encoding="utf-8"))["options"]["data"])
    whole = compared(capsys, low, high)
    elsewhere = Path(shutil.copytree(data, tmp_path / "data"))
    change(low / "run.json", lambda record: record["options"].update(data=str(elsewhere)))
    assert compared(capsys, low, high)["pairs"] == whole["pairs"]
    change(high / "run.json", lambda record: record["options"].update(data=str(elsewhere)))
    rows = (elsewhere / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (elsewhere / "test.jsonl").write_text("\n".join(rows[::-1]) + "\n", encoding="utf-8")
    for reason in ("holds other rows now", "no such file or folder"):
        assert run(["compare", str(low), str(high)]) == 0
        shown = capsys.readouterr().out
        assert reason in next(line for line in shown.splitlines() if line.startswith("without texts: "))
        assert "says class" in shown
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_it_needs_no_torch(runs: dict[str, Path]) -> None:
    program = (
        "import sys\nfrom dongu.cli.main import run\n"
        f"code = run(['compare', {str(runs['low'])!r}, {str(runs['high'])!r}, '--json'])\n"
        "print(*({'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_permutations_of_the_runs_agree(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    values = {}
    for one, two in permutations(("low", "high"), 2):
        values[one, two] = compared(capsys, runs[one], runs[two])["pairs"][0]
    there, back = values["low", "high"], values["high", "low"]
    assert there["differences"]["f1"]["value"] == -back["differences"]["f1"]["value"]
    assert there["rows"]["only_first"] == back["rows"]["only_second"]


def test_one_run_twice(
    copied: Callable[[str], Path], runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(runs["low"]), str(copied("low"))]) == 0
    said = capsys.readouterr().out
    assert "A and B answer every row alike, to the last digit; they are one run twice" in said
    assert "no difference in" not in said


def test_rows_that_are_held_out_otherwise(
    tiny_model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advice is not to train on one DATA where both did."""
    import dongu

    rows, (first, other, again) = tmp_path / "rows.jsonl", [tmp_path / name for name in ("first", "other", "again")]
    rows.write_text("".join(json.dumps({"text": text_of(i), "label": f"class{i % 2}"}) + "\n" for i in range(60)))
    options: dict[str, Any] = {"model": tiny_model(), "max_steps": 1, "threads": 1}
    for out, more in ((first, {}), (other, {"seed": 7}), (again, {"validation": 0.3})):
        dongu.train(str(rows), **options, **more, out=str(out), quiet=True)
    said = refused(capsys, first, other)
    assert f"its validation has other rows of {rows} than that of {first}: --seed is 7, and 42 there\n" in said
    assert "give both the same --seed" in said
    assert "same DATA" not in said
    assert "--validation is 0.3, and not set there" in refused(capsys, first, again)
    rows.write_text(rows.read_text().replace("word1", "word2"))
    shutil.rmtree(other)
    dongu.train(str(rows), **options, out=str(other), quiet=True)
    assert f"{rows} has changed since" in refused(capsys, first, other)

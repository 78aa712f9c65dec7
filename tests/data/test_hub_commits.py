"""Models and data of the Hub, from a stand-in: which commit a run is made of, and what a refusal is called."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import dongu
from conftest import cut_off_in_step
from dongu.cli.main import run as run_command
from dongu.data.sources import read_source
from dongu.doctor.lengths import load_plain_tokenizer
from dongu.eject.script import eject
from dongu.errors import DataError, InputError, ModelError, UsageError
from dongu.export.hub import check_access
from dongu.model.load import load_tokenizer
from dongu.model.place import pin_model
from hub_standin import READER, TOKEN, Fault, Hub, standing_in

MODEL, DATA = "owner/tiny", "owner/rows"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with standing_in(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two states of a model, and two of a data set."""
    place = tmp_path_factory.mktemp("published")
    first, second = Path(tiny_model()), place / "second"
    shutil.copytree(first, second)
    weights = load_file(second / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, second / "model.safetensors", {"format": "pt"})
    for name, words in {"old": "film", "new": "story"}.items():
        (place / name).mkdir()
        rows = [json.dumps({"text": f"word{i % 2} {words} {i}", "label": f"class{i % 2}"}) for i in range(20)]
        (place / name / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"first": first, "second": second, "old": place / "old", "new": place / "new"}


@pytest.fixture
def published(hub: Hub, folders: dict[str, Path]) -> Hub:
    hub.publish(f"models/{MODEL}", folders["first"])
    hub.publish(f"datasets/{DATA}", folders["old"])
    return hub


def move(hub: Hub, folders: dict[str, Path]) -> None:
    """`main` is another commit now."""
    hub.publish(f"models/{MODEL}", folders["second"])
    hub.publish(f"datasets/{DATA}", folders["new"])


def train(out: Path, *arguments: str) -> dict[str, Any]:
    assert run_command(["train", *arguments, "--max-steps", "2", "--device", "cpu", "--out", str(out)]) == 0
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.crash
@pytest.mark.found("hub-commit")
def test_a_repeated_run_is_made_of_the_same_commits(
    published: Hub, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = train(tmp_path / "one", DATA, "--model", MODEL)
    first = {"model": published.revisions[f"models/{MODEL}"]["main"]}
    first["data"] = published.revisions[f"datasets/{DATA}"]["main"]
    assert record["commits"] == first
    assert (record["options"]["model"], record["options"]["data"]) == (MODEL, DATA)
    move(published, folders)
    assert train(tmp_path / "other", DATA, "--model", MODEL)["commits"].items().isdisjoint(first.items())
    again = train(tmp_path / "two", "--config", str(tmp_path / "one/run.json"))
    assert again["commits"] == first
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two", "other")]
    assert logs[0] == logs[1] != logs[2]
    capsys.readouterr()
    assert run_command(["verify", str(tmp_path / "one")]) == 0, capsys.readouterr().out
    script = eject(str(tmp_path / "one"))
    for line in (
        f'DATA_COMMIT = "{first["data"]}"',
        f'MODEL_COMMIT = "{first["model"]}"',
        "load_dataset(*HUB, revision=DATA_COMMIT)",
        "AutoTokenizer.from_pretrained(MODEL, revision=MODEL_COMMIT, ",
        "    MODEL, revision=MODEL_COMMIT, **settings, ",
    ):
        assert line in script

    # The commits are gone, here and there: it is said, and nothing else is trained on.
    shutil.rmtree(constants.HF_HUB_CACHE)
    del published.folders[first["model"]]
    assert run_command(["train", "--config", str(tmp_path / "one/run.json"), "--out", str(tmp_path / "three")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-2] == f"dongu: error: --model {MODEL}@{first['model']}: has no revision {first['model']} on the Hub"
    assert not (tmp_path / "three").exists()


@pytest.mark.crash
@pytest.mark.found("hub-commit")
def test_a_stopped_run_goes_on_with_its_commits(published: Hub, folders: dict[str, Path], tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", DATA, "--model", MODEL)
    with cut_off_in_step(2):
        dongu.train(DATA, model=MODEL, max_steps=2, device="cpu", save_steps=1, out=str(tmp_path / "cut"))
    move(published, folders)
    published.asked.clear()
    assert run_command(["resume", str(tmp_path / "cut")]) == 0
    assert not [path for path in published.asked if MODEL in path], "all is in the cache"
    assert json.loads((tmp_path / "cut/run.json").read_text(encoding="utf-8"))["commits"] == whole["commits"]
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


@pytest.mark.found("hub-commit")
def test_verify_says_that_the_starting_weights_are_others(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folders["first"], model)
    record = train(tmp_path / "run", str(folders["old"]), "--model", str(model))
    assert record["commits"] == {}
    shutil.copy(folders["second"] / "model.safetensors", model)
    capsys.readouterr()
    assert run_command(["verify", str(tmp_path / "run")]) == 1
    inputs = next(line for line in capsys.readouterr().out.splitlines() if " inputs " in line)
    assert f"the weights of --model {model} have changed since the start" in inputs


@pytest.mark.found("hub-commit")
def test_a_revision_is_pinned_by_its_name(hub: Hub, folders: dict[str, Path]) -> None:
    tagged = hub.publish(f"models/{MODEL}", folders["first"], revision="v1")
    rows = hub.publish(f"datasets/{DATA}", folders["old"], revision="v1")
    move(hub, folders)
    assert pin_model(f"{MODEL}@v1") == f"{MODEL}@{tagged}"
    assert pin_model(f"{MODEL}@{tagged}") == f"{MODEL}@{tagged}"
    assert load_plain_tokenizer(f"{MODEL}@v1")[1] == 64
    source = read_source(f"{DATA}@v1")
    assert (source.name, source.hub_name, source.place) == ("rows", DATA, f"{DATA}@{rows}")
    assert source.splits["train"].columns["text"][0] == "word0 film 0"
    assert read_source(DATA).splits["train"].columns["text"][0] == "word0 story 0"
    for ask in (lambda: pin_model(f"{MODEL}@v9"), lambda: read_source(f"{DATA}@v9")):
        with pytest.raises(InputError, match="has no revision v9 on the Hub"):
            ask()


REFUSALS: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing there", {"name": "owner/nothing"}, "is no {noun} on the Hub, or a private one", "check the name"),
    ("nothing there", {"name": "owner/nothing", "token": TOKEN}, "your token has no access to", "check the name"),
    (
        "gated, no token",
        {"gated": True},
        "is gated, and there is no token",
        "accept the terms at {page}; then `hf auth",
    ),
    (
        "gated, no access",
        {"gated": True, "token": READER},
        "your token has no access to it",
        "accept the terms at {page}",
    ),
    ("bad token", {"token": "hf_wrong"}, "the Hub does not take the token (401)", "`hf auth login`, or set HF_TOKEN"),
    ("too many", {"fault": (429,)}, "the Hub takes no more requests for now (429)", "try again in some minutes"),
    ("long wait", {"fault": (429, {"Retry-After": "900"})}, "no more requests", "try again in some minutes"),
    ("down", {"fault": (503,)}, "the Hub has failed (503, 4 times)", "try again later"),
    ("cut", {"fault": (0,)}, "the Hub cut the connection (4 times)", "does not"),
    ("forbidden", {"fault": (403,)}, "the Hub refuses (403: not now)", "check what your token may do"),
    ("no network", {"address": "http://127.0.0.1:9"}, "the Hub is out of reach", "check the network"),
]


@pytest.mark.found("hub-refusals")
@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize(("_case", "how", "what", "hint"), REFUSALS)
def test_a_refusal_is_told_as_what_it_is(
    kind: str, _case: str, how: dict[str, Any], what: str, hint: str, published: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    name = how.get("name", MODEL if kind == "model" else DATA)
    if how.get("gated"):
        published.gated = {f"models/{name}", f"datasets/{name}"}
    if "token" in how:
        monkeypatch.setenv("HF_TOKEN", how["token"])
    if "fault" in how:
        status, headers = (*how["fault"], {})[:2]
        published.faults = [Fault("", status, headers=headers)]
    if "address" in how:
        monkeypatch.setattr(constants, "ENDPOINT", how["address"])
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", how["address"])
    with pytest.raises(ModelError if kind == "model" else DataError) as caught:
        _ = pin_model(name) if kind == "model" else read_source(name)
    page = f"{published.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
    noun = "model" if kind == "model" else "data set"
    assert what.format(noun=noun) in caught.value.what
    assert hint.format(page=page) in caught.value.hint
    assert "network" not in caught.value.hint or _case in ("cut", "no network")
    assert len(str(caught.value).splitlines()) == 2
    assert len(published.asked) == 4 * (_case in ("too many", "down", "cut")) or len(published.asked) <= 2


@pytest.mark.found("hub-refusals")
@pytest.mark.parametrize(
    "fault",
    [(429, 1, {"Retry-After": "0"}), (503, 2, {}), (0, 1, {})],
    ids=["too many requests", "a failure", "a cut connection"],
)
def test_what_passes_is_asked_again(
    fault: tuple[int, int, dict[str, str]], published: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, times, headers = fault
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    asking: list[tuple[Callable[[], Any], str]] = [
        (lambda: pin_model(MODEL), f"models/{MODEL}"),
        (lambda: read_source(DATA), f"datasets/{DATA}"),
        (lambda: check_access("owner/name"), "whoami"),
    ]
    if not status:  # after an answer, huggingface_hub asks for files again by itself
        asking.append((lambda: load_tokenizer(MODEL), f"{MODEL}/resolve"))
    for ask, path in asking:
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        published.faults = [Fault(path, status, times, headers)]
        ask()
        assert published.faults[0].times == 0, path


@pytest.mark.found("hub-refusals")
def test_the_cache_is_used_where_the_hub_is_out_of_reach(
    published: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    caplog.set_level(logging.WARNING, "dongu")
    pinned, rows = pin_model(MODEL), read_source(DATA)
    load_tokenizer(pinned)
    for status in (503, 429, 0):
        published.faults = [Fault("", status)]
        caplog.clear()
        assert pin_model(MODEL) == pinned
        load_tokenizer(pinned)
        again = read_source(DATA)
        assert (again.splits, again.place) == (rows.splits, rows.place)
        lines = [record.getMessage() for record in caplog.records if record.name == "dongu"]
        assert len(lines) == 2
        assert all(line.startswith("the Hub is out of reach (") for line in lines)
        assert pinned.partition("@")[2] in lines[0]

    caplog.clear()
    published.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert pin_model(MODEL) == pinned
    load_tokenizer(MODEL)
    assert read_source(DATA).place == rows.place
    with pytest.raises(ModelError, match="is not in the cache"):
        pin_model("owner/other")
    with pytest.raises(DataError, match="is not to be had"):
        read_source(f"{DATA}@{'0' * 40}")
    assert published.asked == []
    assert not [record for record in caplog.records if record.name == "dongu"]


@pytest.mark.found("hub-refusals")
def test_a_push_says_why_it_is_not_let_in(published: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    published.faults = [Fault("", 503)]
    with pytest.raises(UsageError, match=r"the Hub has failed \(503, 4 times\)"):
        check_access("owner/name")

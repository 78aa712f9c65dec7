"""Pushing to the Hub, to a stand-in of it on this machine: asked for, allowed, and never at the cost of the run."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from test_card import data_of, problems

from dongu.cli.main import run as run_command

TOKEN = "hf_test"
NAME = "owner/reviews"


class Hub(ThreadingHTTPServer):
    """What `huggingface_hub` asks for when it makes a repository and uploads small files to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.made: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.refuses = ""  # the path of a request that gets a 403

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"})
        elif hub.refuses and hub.refuses in path:
            self._send(403, {"error": "You are not allowed"})
        elif path == "/api/whoami-v2":
            self._send(200, {"type": "user", "name": "owner"})
        elif path == "/api/repos/create":
            hub.made = json.loads(body)
            self._send(200, {"url": f"{hub.address}/{NAME}", "name": NAME})
        elif path == "/api/validate-yaml":
            errors = [{"message": problem} for problem in problems(json.loads(body)["content"])]
            self._send(400 if errors else 200, {"errors": errors, "warnings": []})
        elif path == f"/api/models/{NAME}/preupload/main":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._send(200, {"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        elif path == f"/api/models/{NAME}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._send(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.address}/{NAME}/commit/0"})
        else:
            self._send(404, {"error": path})

    def _send(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with us logged in to it."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def trained(tiny_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The arguments of a short run but for --out, and a finished run of them, to be read only."""
    folder = tmp_path_factory.mktemp("hub")
    rows = [json.dumps({"text": f"word{i % 2} film", "label": f"class{i % 2}"}) for i in range(40)]
    (folder / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    arguments = ["train", str(folder / "data.jsonl"), "--model", tiny_model(), "--max-steps", "2", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DONGU_CACHE", str(folder / "cache"))
        assert run_command([*arguments, "--out", str(folder / "run")]) == 0
    return arguments, folder / "run"


def test_train_pushes_what_it_has_saved(
    trained: tuple[list[str], Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, _ = trained
    assert run_command([*arguments, "--out", str(tmp_path / "run"), "--push-to-hub", NAME]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"pushed to {hub.address}/{NAME}"
    model = tmp_path / "run" / "model"
    card = hub.files.pop("README.md").decode()
    assert hub.files == {path.name: path.read_bytes() for path in model.iterdir() if path.name != "README.md"}
    assert f'pipeline("text-classification", model="{NAME}")' in card, "its lines run where it is read"
    assert card.replace(f'model="{NAME}")', 'model=".")  # this folder') == (model / "README.md").read_text("utf-8")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hub.files)
    assert (hub.made["name"], hub.made["organization"]) == ("reviews", "owner")
    assert hub.made.get("visibility") == "private" or hub.made.get("private") is True
    assert hub.asked.index("/api/whoami-v2") < hub.asked.index("/api/repos/create")
    assert "push_to_hub" not in (tmp_path / "run" / "run.json").read_text(encoding="utf-8"), "a recipe pushes nothing"
    ModelCard.load(model / "README.md").validate()
    assert hub.asked.count("/api/validate-yaml") == 2


def test_push_later_and_for_everybody(
    trained: tuple[list[str], Path], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = trained
    assert run_command(["push", str(run), NAME, "--public"]) == 0
    assert capsys.readouterr().out == f"pushed to {hub.address}/{NAME}\n"
    assert hub.made.get("visibility") == "public" or hub.made.get("private") is False
    assert hub.files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()


def test_license_language_and_graphs(
    trained: tuple[list[str], Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained[1], tmp_path / "run")
    (run / "onnx" / "onnx").mkdir(parents=True)
    (run / "onnx" / "onnx" / "model.onnx").write_bytes(b"a graph")
    assert run_command(["push", str(run), NAME, "--license", "apache-2.0", "--language", "en", "tr"]) == 0
    data, local = (
        data_of(text) for text in (hub.files["README.md"].decode(), (run / "model/README.md").read_text("utf-8"))
    )
    assert (data.license, data.language) == ("apache-2.0", ["en", "tr"])
    assert data.eval_results == local.eval_results
    assert hub.files["onnx/model.onnx"] == b"a graph", "where transformers.js looks for it"
    hub.asked.clear()
    for arguments, said in {
        ("--license", "A b"): "`A b` is not one",
        ("--language", "Turkish"): "`Turkish` is not one",
    }.items():
        assert run_command(["push", str(run), NAME, *arguments]) == 2
        assert said in capsys.readouterr().err
    assert hub.asked == []


def test_a_failure_keeps_the_run_and_says_how_to_go_on(
    trained: tuple[list[str], Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, _ = trained
    hub.refuses = "/commit/"
    out = tmp_path / "run"
    assert run_command([*arguments, "--out", str(out), "--push-to-hub", NAME]) == 6
    what, hint = capsys.readouterr().err.splitlines()[-2:]
    assert what.startswith(f"dongu: error: {NAME}: could not be pushed (")
    assert hint == f"the run is complete; push it later: dongu push {out} {NAME}"
    assert (out / "results.json").exists()
    assert hub.files == {}
    hub.refuses = ""
    assert run_command(hint.partition(": dongu ")[2].split()) == 0
    assert "model.safetensors" in hub.files


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("owner/a b", "", "is not a valid name for a model on the Hub"),
        ("owner/a--b", "", "is not a valid name for a model on the Hub"),
        ("reviews", "", "is not a valid name for a model on the Hub"),
        (NAME, "no token", "there is no token for the Hub"),
        (NAME, "other token", "the Hub refuses access"),
        (NAME, "offline", "the Hub refuses access"),
    ],
)
def test_what_is_wrong_is_said_before_training(
    name: str,
    change: str,
    said: str,
    trained: tuple[list[str], Path],
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change == "no token":
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    if change == "other token":
        monkeypatch.setenv("HF_TOKEN", "hf_other")
    if change == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    arguments, run = trained
    for command in ([*arguments, "--out", str(tmp_path / "run"), "--push-to-hub", name], ["push", str(run), name]):
        assert run_command(command) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert said in printed.err
        assert 2 <= len(printed.err.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []
    assert not hub.made


def test_what_cannot_be_pushed(
    trained: tuple[list[str], Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, run = trained
    assert run_command([*arguments, "--out", str(tmp_path / "runs"), "--seeds", "2", "--push-to-hub", NAME]) == 2
    assert "several runs have several models" in capsys.readouterr().err
    assert run_command(["push", str(tmp_path), NAME]) == 2
    assert "is not a run" in capsys.readouterr().err
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_bytes((run / "run.json").read_bytes())
    assert run_command(["push", str(unfinished), NAME]) == 2
    assert f"continue it: dongu resume {unfinished}" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    (damaged / "model").mkdir(parents=True)
    for name in ("run.json", "results.json", "MANIFEST.json", "model/config.json"):
        (damaged / name).write_bytes((run / name).read_bytes() + b"\n" * (name == "model/config.json"))
    assert run_command(["push", str(damaged), NAME]) == 2
    assert "restore it from a copy" in capsys.readouterr().err
    (damaged / "MANIFEST.json").unlink()
    assert run_command(["push", str(damaged), NAME]) == 2
    assert "model/README.md: is not there" in capsys.readouterr().err
    assert not hub.made

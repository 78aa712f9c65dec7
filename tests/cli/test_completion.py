"""`dongu completion`: what each shell makes of the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dongu.cli.main import COMMANDS, run


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dongu.bash"
    file.write_text(script("bash", capsys))

    def completed(*words: str) -> list[str]:
        listed = " ".join(f"'{word}'" for word in words)
        program = f"source {file}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _dongu; echo ${{COMPREPLY[*]}}"
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("dongu", "") == [*COMMANDS, "--help", "--version"]
    assert completed("dongu", "tra") == ["train"]
    assert completed("dongu", "train", "--ep") == ["--epochs"]
    assert completed("dongu", "predict", "--te") == ["--text-columns"]
    assert "--epochs" not in completed("dongu", "predict", "--")
    assert completed("dongu", "train", "rev") == [], "names of files are the shell's own"


def test_zsh_and_fish(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert script("zsh", capsys).startswith("autoload -U +X bashcompinit && bashcompinit\n_dongu() {\n")
    lines = script("fish", capsys).splitlines()
    assert (
        "complete -c dongu -f -n __fish_use_subcommand -a train -d 'fine-tune a model and write a run folder'" in lines
    )
    assert any(
        line.startswith("complete -c dongu -n '__fish_seen_subcommand_from train' -l epochs -d '") for line in lines
    )
    assert all(line.replace("\\'", "").count("'") in (2, 4) for line in lines), "each text is closed"
    if shutil.which("fish"):
        (tmp_path / "dongu.fish").write_text("\n".join(lines))
        subprocess.run(["fish", "--no-execute", str(tmp_path / "dongu.fish")], check=True)
    assert run(["completion", "powershell"]) == 2

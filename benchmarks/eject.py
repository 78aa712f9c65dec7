"""How far a run without padding and its ejected script, which pads, lie apart: on real MRPC, and on this machine.

    python benchmarks/eject.py --data DATA_FOLDER

Without dropout what is left is rounding. With it the two draw other numbers, as two seeds do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoTokenizer

import dongu
from dongu.eject.script import eject
from dongu.model.place import find_model


def save_model(name: str, folder: Path, dropout: float) -> None:
    """The encoder with this share of dropout."""
    place = find_model(name)
    config = AutoConfig.from_pretrained(place, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    AutoModel.from_pretrained(place, config=config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(place).save_pretrained(folder)


def losses_of(folder: Path) -> list[float]:
    """Of each update."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if line["event"] == "step"]


def save_data(source: Path, folder: Path) -> None:
    """The training rows, and a few of validation, which is not what is looked at."""
    folder.mkdir()
    for split, count in (("train", None), ("validation", 16)):
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")


def largest_difference(work: Path, steps: int) -> float:
    """Of two losses of the same update, one without padding and one by the script, as a share of them."""
    dongu.train(str(work / "mrpc"), model=str(work / "model"), max_steps=steps, out=str(work / "run"))
    script = work / "train.py"
    script.write_text(eject(work / "run"), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], cwd=work, check=True, capture_output=True)
    pairs = zip(losses_of(work / "run"), losses_of(work / "run-plain"), strict=True)
    return max(abs(a - b) / a for a, b in pairs)


def main() -> None:
    """One line with dropout and one without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds mrpc")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    for dropout in (0.0, 0.1):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            work = Path(folder)
            save_model(options.model, work / "model", dropout)
            save_data(options.data / "mrpc", work / "mrpc")
            difference = largest_difference(work, options.steps)
        print(
            f"dropout {dropout}: the losses of {options.steps} updates differ by up to {difference:.1g} of their size"
        )


if __name__ == "__main__":
    main()

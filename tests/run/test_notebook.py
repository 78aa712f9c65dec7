"""What a notebook shows of a run: lines, a bar in one place, a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbconvert is not installed")
execute = pytest.importorskip("nbconvert.preprocessors.execute", reason="nbconvert is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")


class Watched(execute.ExecutePreprocessor):  # type: ignore[misc, name-defined]
    """As `jupyter nbconvert --execute`, and `drawn` has what was shown in the place of something else."""

    drawn: list[str]

    def process_message(self, message: dict[str, Any], *where: Any) -> Any:
        if message["msg_type"] == "update_display_data":
            self.drawn.append(message["content"]["data"]["text/plain"])
        return super().process_message(message, *where)


@pytest.mark.crash
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_run_in_a_notebook(
    tiny_models: Callable[[str, float, int], str], make_rows: Callable[..., list[dict[str, str]]], tmp_path: Path
) -> None:
    data = {"train": make_rows(160), "validation": make_rows(30, seed=1), "test": make_rows(20, seed=2)}
    (tmp_path / "data.json").write_text(json.dumps(data), encoding="utf-8")
    options = {"model": tiny_models("bert", 0.1, 2), "epochs": 3, "device": "cpu"}
    cells = [
        "import json, dongu",
        f"result = dongu.train(json.load(open('data.json')), out='run', **{options})\nresult",
        "result.metrics['accuracy'] > 0, dongu.train(json.load(open('data.json')), out='quiet', quiet=True, **"
        f"{options | {'max_steps': 3}})",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    watched = Watched(timeout=120, kernel_name="python3")
    watched.drawn = []
    watched.preprocess(book, {"metadata": {"path": str(tmp_path)}})

    _, trained, quiet = (cell.outputs for cell in book.cells)
    lines = "".join(output.text for output in trained if output.output_type == "stream").splitlines()
    assert sum(line.endswith("│ validation") for line in lines) == 1
    assert sum(" │ " in line for line in lines) == 5  # the head of two lines, and an evaluation an epoch
    assert len(lines) < 60
    assert not [line for line in lines if "IProgress" in line]  # a warning of tqdm, where there are no widgets
    assert not [line for line in lines if "\r" in line]
    [bar] = [output for output in trained if output.output_type == "display_data"]
    *_, shown, last = watched.drawn
    assert re.search(r"^\d+/60 █.* loss .* examples/s .* left$", shown)
    assert (last, bar.data["text/plain"]) == ("", "")  # the table has said it all
    table = trained[-1].data["text/html"]
    assert table.startswith("<table><caption>run</caption>")
    assert "<td>test</td><td>accuracy</td>" in table
    assert [output.output_type for output in quiet] == ["execute_result"]
    assert "(True,\n <RunResult quiet: " in quiet[0].data["text/plain"]

"""The logs are read in one place: whole lines only, a damaged one is an error or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dongu.run.dynamics import RECORD, bytes_until
from dongu.run.journal import _bytes_until, logged_steps, read_lines

WHOLE = [b'{"event": "step", "step": 1}\n', b'{"event": "phase", "step": 1}\n', b'{"event": "step", "step": 2}\n']


def test_a_half_line_is_left_out_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    log = tmp_path / "timing.jsonl"
    assert (read_lines(log), logged_steps(log), _bytes_until(log, 9)) == ([], 0, 0), "there is none yet"
    log.write_bytes(b"".join(WHOLE) + b'{"event": "step", "step": 3}')
    assert read_lines(log) == [json.loads(line) for line in WHOLE]
    assert logged_steps(log) == 2
    assert [_bytes_until(log, step) for step in (0, 1, 2)] == [0, len(WHOLE[0] + WHOLE[1]), sum(map(len, WHOLE))]
    for wrong in (b"{\n", b"[]\n", b'{"event": "step"}\n', b'{"step": null}\n', b"\xff\n", b"[" * 9999 + b"\n"):
        log.write_bytes(WHOLE[0] + wrong + WHOLE[2])
        with pytest.raises(ValueError, match="line 2 is damaged"):
            read_lines(log)
        assert logged_steps(log) == 2, "what is damaged says nothing"
        assert _bytes_until(log, 2) == len(WHOLE[0]), "what stands behind it goes"


def test_the_records_up_to_a_step_are_found_without_reading_all(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.bin"
    assert bytes_until(path, 3) == 0
    records = np.zeros(9, RECORD)
    records["step"] = [1, 1, 1, 2, 2, 2, 4, 4, 5]
    path.write_bytes(records.tobytes() + b"half")
    assert [bytes_until(path, step) // RECORD.itemsize for step in range(7)] == [0, 3, 6, 6, 8, 9, 9]

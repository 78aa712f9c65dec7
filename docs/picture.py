"""The picture of README and of the front page: the head of a report, as a headless Chromium shows it.

`make picture` runs the demonstration where there is none yet, and writes `docs/report.png`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 820, 815  # pixels
COLOURS = 64  # of the page's few: a third of the size
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]


def draw(report: Path, picture: Path) -> None:
    """Write the head of a report as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "report.png")
        command = ["chromium", *FLAGS, f"--screenshot={shot}", report.resolve().as_uri()]
        environment = {"HOME": folder, "PATH": "/usr/bin:/bin"}  # a profile of its own, gone at the end
        subprocess.run(command, check=True, capture_output=True, env=environment)  # noqa: S603
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).with_name("report.png"))

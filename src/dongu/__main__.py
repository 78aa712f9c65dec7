"""`python -m dongu`, and what `torchrun -m dongu` and `accelerate launch -m dongu` run."""

from __future__ import annotations

import sys

from dongu.cli.main import run
from dongu.run.signals import end_at_once


def main() -> None:
    end_at_once()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

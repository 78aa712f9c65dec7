"""`python -m dongu`, and what `torchrun -m dongu` and `accelerate launch -m dongu` run."""

from __future__ import annotations

import sys

from dongu.cli import run


def main() -> None:
    """The `dongu` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Four processes, one a GPU: 8 of the 32 examples of an update on each.
set -euo pipefail

torchrun --nproc-per-node 4 -m dongu train reviews.csv --model minilm --batch-size 32 --precision bf16

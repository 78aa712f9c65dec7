#!/usr/bin/env bash
# Start, go on, or say that it is finished: run this again after each preemption, until it exits with 0.
set -euo pipefail

dongu train reviews.csv --model minilm --save-steps 100 --out runs/reviews --resume

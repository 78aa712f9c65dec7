#!/usr/bin/env bash
# Start or go on, whichever it is: run this again after each preemption, until it exits with 0.
set -euo pipefail

if [ -f runs/reviews/results.json ]; then
    echo "finished"
elif [ -f runs/reviews/run.json ]; then
    dongu resume runs/reviews
else
    dongu train reviews.csv --model minilm --save-steps 100 --out runs/reviews
fi

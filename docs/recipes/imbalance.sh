#!/usr/bin/env bash
# One class is rare, and it is the one that matters.
set -euo pipefail

dongu train reviews.csv --model minilm --metric macro_f1 --out runs/plain
dongu train reviews.csv --model minilm --metric macro_f1 --class-weights balanced --out runs/balanced
dongu evaluate runs/plain --split validation
dongu evaluate runs/balanced --split validation

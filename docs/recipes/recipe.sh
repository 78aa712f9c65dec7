#!/usr/bin/env bash
# The same options again and again: from a recipe, or from a run that is there.
set -euo pipefail

dongu train --config recipe.toml --epochs 2 --out runs/first
dongu train --config runs/first/run.json --out runs/again
cmp runs/first/metrics.jsonl runs/again/metrics.jsonl # the same bytes

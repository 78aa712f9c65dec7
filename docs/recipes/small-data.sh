#!/usr/bin/env bash
# A few hundred rows: one run says little, so train several.
set -euo pipefail

dongu train few.csv --model minilm --seeds 5 --patience 3
best=$(python -c 'import json; print(json.load(open("runs/few/seeds.json"))["best"])')
dongu predict "runs/few/$best" "I would buy it again"

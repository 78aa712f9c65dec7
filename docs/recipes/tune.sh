#!/usr/bin/env bash
# The best options of twenty trials, in half an hour at most. It needs `pip install ".[tune]"`.
set -euo pipefail

dongu tune reviews.csv --model minilm --trials 20 --minutes 30

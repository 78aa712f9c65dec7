#!/usr/bin/env bash
# From a file of texts and labels to answers.
set -euo pipefail

# --8<-- [start:inspect]
dongu inspect reviews.csv --model minilm
# --8<-- [end:inspect]
# --8<-- [start:train]
dongu train reviews.csv --model minilm
# --8<-- [end:train]
# --8<-- [start:use]
dongu predict runs/reviews "I would buy it again"
dongu predict runs/reviews --data new.csv --out answers.csv
dongu evaluate runs/reviews other-reviews.csv
# --8<-- [end:use]
# --8<-- [start:verify]
dongu verify runs/reviews
# --8<-- [end:verify]

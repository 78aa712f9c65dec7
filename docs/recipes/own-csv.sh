#!/usr/bin/env bash
# tickets.csv has the columns title, body and queue, among others.
set -euo pipefail

dongu inspect tickets.csv --text-columns title+body --label-column queue
dongu train tickets.csv --text-columns title+body --label-column queue --model minilm --strict
dongu predict runs/tickets --data new-tickets.csv --out answers.csv

#!/usr/bin/env bash
# On a machine with a network, in a clone of the repository: what the offline machine needs, in two folders.
set -euo pipefail

pip wheel --wheel-dir wheels --constraint constraints.txt ".[offline]"
hf download google-bert/bert-base-uncased config.json model.safetensors tokenizer.json tokenizer_config.json vocab.txt \
    --local-dir models/bert-base-uncased

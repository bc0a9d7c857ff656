#!/usr/bin/env bash
# Snakemake runs this in the environment that it has made. FlashAttention needs the torch that is there, so it comes last.
set -euo pipefail
python -m pip install --no-build-isolation --no-deps flash-attn==2.8.3.post2

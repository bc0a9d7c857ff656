#!/usr/bin/env bash
# Snakemake runs this in the finished environment: FlashAttention is built against the installed torch.
set -euo pipefail
python -m pip install --no-build-isolation --no-deps flash-attn==2.8.3.post2

#!/usr/bin/env bash
# Starts the processes of one node when a training uses several: `srun` runs it once on each node (docs/scale.md).
# The arguments are those of `accelerate launch`.
set -euo pipefail
main=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)
exec accelerate launch \
    --num_machines "$SLURM_STEP_NUM_NODES" \
    --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$main" \
    --main_process_port $((20000 + SLURM_JOB_ID % 10000)) \
    "$@"

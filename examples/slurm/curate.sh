#!/usr/bin/env bash
# Features of a pool for its curation by an array of jobs, a part each: sbatch examples/slurm/curate.sh. When all are there:
# dinov2 curate images.jsonl --stages filter,dedup --cache features -o train.jsonl
#SBATCH --job-name=dinov2-curate
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
dinov2 curate "${POOL:-images.jsonl}" --stages filter,dedup --workers "${SLURM_CPUS_PER_TASK:-8}" --cache features --shard auto

#!/usr/bin/env bash
# A long list embedded by an array of jobs, a part each: sbatch examples/slurm/embed.sh. Parts that are there are left.
#SBATCH --job-name=dinov2-embed
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail
list=${LIST:-images.txt} model=${MODEL:-dinov2_vits14} parts=${SLURM_ARRAY_TASK_COUNT:-16} part=${SLURM_ARRAY_TASK_ID:-0}
mkdir -p parts
out=parts/$(printf %03d "$part").arrow
split --number="l/$((part + 1))/$parts" "$list" |
  dinov2 embed - --model "$model" --threads "${SLURM_CPUS_PER_TASK:-8}" --resume -o "$out"

#!/usr/bin/env bash
# A long list embedded by an array of jobs, a part each: sbatch examples/slurm/embed.sh. A part that is cut off goes on where it was.
#SBATCH --job-name=dinov2-embed
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
list=${LIST:-images.txt} model=${MODEL:-dinov2_vits14}
mkdir -p parts
dinov2 embed "$list" --model "$model" --threads "${SLURM_CPUS_PER_TASK:-8}" --shard auto --resume -o 'parts/{shard}.arrow'

#!/usr/bin/env bash
# Pretraining on two nodes of four GPUs: sbatch examples/slurm/pretrain.sh. A job that is cut off goes on where it was.
#SBATCH --job-name=dinov2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500
images=${IMAGES:-photos} run=${RUN:-run}
again=()
[[ -e $run/config.yaml ]] && again=(--resume)
# SIGTERM, two minutes before the end, finishes the step and writes a checkpoint.
srun dinov2 pretrain "$images" --config vitl16-short -o "$run" "${again[@]}"

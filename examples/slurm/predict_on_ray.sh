#!/usr/bin/env bash
# Label videos on Slurm by Ray, which gives the work to whoever is free, and tries again what dies with its machine:
#     sbatch examples/slurm/predict_on_ray.sh [further options of ila predict]
# One Ray node a machine, which no other Ray may use (--exclusive); the command itself runs once, on the first, and is no
# task among several (RANK, WORLD_SIZE).
#SBATCH --job-name=ila-predict-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
set -euo pipefail
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n') # nobody else may join
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):6379

srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    env RANK=0 WORLD_SIZE=1 ila predict path/to/videos --model my-ila --engine ray --output labels --format parquet "$@"

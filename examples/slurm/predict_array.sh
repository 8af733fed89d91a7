#!/usr/bin/env bash
# Label videos on Slurm by jobs that start whenever there is a GPU, each with a share of its own:
#     sbatch examples/slurm/predict_array.sh [further options of ila predict]
# To run some shares again: sbatch --array=3,7 examples/slurm/predict_array.sh. For that WORLD_SIZE is the number of
# all shares, and not SLURM_ARRAY_TASK_COUNT.
#SBATCH --job-name=ila-predict
#SBATCH --array=0-15
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
export RANK=$SLURM_ARRAY_TASK_ID WORLD_SIZE=16

exec ila predict path/to/videos --model my-ila --output labels --format parquet "$@"

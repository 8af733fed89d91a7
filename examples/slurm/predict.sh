#!/usr/bin/env bash
# Label videos on Slurm, by one process for each GPU:
#     sbatch examples/slurm/predict.sh [further options of ila predict]
# srun tells each process its number (SLURM_PROCID of SLURM_NTASKS), by which they share the videos. Submitted again
# after a kill, a time limit or a requeue, also with another number of tasks, it goes on. `ila index` shares likewise.
#SBATCH --job-name=ila-predict
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # which srun takes from no other place since Slurm 22.05

srun ila predict path/to/videos --model my-ila --output labels --format parquet "$@"

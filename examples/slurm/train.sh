#!/usr/bin/env bash
# Train on Slurm with Accelerate, which starts a process for each GPU of each machine:
#     sbatch examples/slurm/train.sh [further options of ila train]
# All machines must see the videos and the output folder. Submitted again it goes on from the last checkpoint. For
# sharded weights: `--print_path fsdp2` instead of ddp.
#SBATCH --job-name=ila-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
config=$(ila train --print_path ddp)
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
machines=$SLURM_JOB_NUM_NODES
processes=$((machines * ${SLURM_GPUS_ON_NODE:-1}))

# In single quotes: each machine puts its own SLURM_NODEID there.
# shellcheck disable=SC2016
srun bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
    --config_file "$config" --num_machines "$machines" --num_processes "$processes" \
    --main_process_ip "$address" --main_process_port 29500 --rdzv_backend static \
    -m transformers_ila train small_b16_8f --train_list path/to/videos --output_dir my-run \
    --expect_processes "$processes" --resume "$@"

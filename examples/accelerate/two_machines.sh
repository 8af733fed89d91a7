#!/usr/bin/env bash
# Train on two machines from tar shards, of which every process reads its own:
#     examples/accelerate/two_machines.sh RANK ADDRESS [further options of ila train]
# Run it on both, on the first with RANK 0, on the second with 1; ADDRESS is the first one's. Both must see the shards,
# the names of the classes (one a line) and the output folder. There must be as many shards as processes times
# --dataloader_num_workers, or more.
set -euo pipefail
rank=$1 address=$2
shift 2
config=$(ila train --print_path two_machines) # eight GPUs each
processes=${PROCESSES:-16}                     # of both together

exec accelerate launch --config_file "$config" --machine_rank "$rank" --main_process_ip "$address" \
    --main_process_port 29500 --num_processes "$processes" \
    -m transformers_ila train small_b16_8f --train_list shards --labels classes.txt --stream \
    --dataloader_num_workers 4 --output_dir my-run --expect_processes "$processes" --resume "$@"

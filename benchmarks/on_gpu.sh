#!/bin/bash
# Every table that needs a GPU, in one run of less than eight minutes: bf16, compiled with CUDA graphs, plain beside
# fused and older code, training step, int8 and pipeline.
#
#     benchmarks/on_gpu.sh [OUTPUT_DIR]                  on a machine with a GPU
#     REHEARSE=1 benchmarks/on_gpu.sh [OUTPUT_DIR]       on a CPU, with networks as small as can be
#     benchmarks/on_gpu.sh --pack FOLDER                 where there is a network: the wheels that such a machine may lack
#
# PYTHON names the interpreter (default: python); torch comes with it and is never replaced. PACKAGES names a folder made
# by --pack, for a machine without a network whose transformers is too old: its wheels are installed into a temporary
# folder that goes before the interpreter's own packages. BEFORE names a worktree of older code to measure beside this.
# A table that cannot be made says why in one line, and the others go on; the exit code is the number of those.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}

if [ "${1:-}" = --pack ]; then
    exec "$python" -m pip download --only-binary :all: --no-deps --dest "${2:?--pack FOLDER}" \
        "transformers>=5.23,<6" "huggingface_hub>=2.4" "tokenizers>=0.22" "safetensors>=0.8" "av>=18" "torchao>=0.16" \
        httpx2 hf-xet typer tqdm filelock
fi

output=${1:-on_gpu}
mkdir -p "$output"
started=$SECONDS failed=0
if [ -n "${PACKAGES:-}" ]; then
    carried=$(mktemp -d)
    trap 'rm -rf "$carried"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --target "$carried" "$PACKAGES"/*.whl || exit 1
    export PYTHONPATH=$carried:$PYTHONPATH
fi

device=cuda dtype=bfloat16 size=B/16 sizes="B/16 L/14" batches="1 16" training_batch=16 rounds=15 frames=8 slack=1 alone=
if [ -n "${REHEARSE:-}" ]; then
    device=cpu size=tiny sizes=tiny batches=1 training_batch=1 rounds=1 frames=2 slack=20 alone=--no_others
fi

"$python" - "$device" <<'PYTHON' || exit 1
import importlib, sys
for name in ("torch", "torchvision", "transformers", "huggingface_hub", "av", "torchao"):
    try:
        print(name, importlib.import_module(name).__version__)
    except ImportError as error:
        print(name, "is missing:", error)
import torch
if sys.argv[1] == "cuda":
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here. REHEARSE=1 runs the same on a CPU, with tiny networks.")
    print(torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
PYTHON

table() { # name, seconds at most, script, options...
    name=$1 limit=$(($2 * slack)) script=$3
    shift 3
    echo
    echo "## $name: benchmarks/$script $*"
    before=$SECONDS
    timeout "$limit" "$python" "benchmarks/$script" "$@" >"$output/$name.txt" 2>"$output/$name.log"
    code=$?
    grep -E '^\||^torch|takes' "$output/$name.txt"
    if [ $code -ne 0 ]; then
        failed=$((failed + 1))
        [ $code -eq 124 ] && why="more than $limit s" || why=$(grep -v '^ ' "$output/$name.log" | tail -n 1)
        echo "NOT MEASURED in full: ${why:-exit code $code} ($output/$name.log)"
    fi
    echo "($((SECONDS - before)) s)"
}
speed() { # name, seconds at most, tables, options...
    name=$1 limit=$2 tables=$3
    shift 3
    # shellcheck disable=SC2086  # several words on purpose
    table "$name" "$limit" model_speed.py --tables $tables --device $device --dtype $dtype --frames $frames \
        --rounds $rounds --output "$output/$name.json" "$@"
}

# shellcheck disable=SC2086
{
    speed bf16 60 "inference classification others" --sizes $sizes --batches $batches --fuse
    speed compiled 120 "inference classification" --sizes $size --batches $batches --forms mi_token residual --fuse --compile
    speed training 50 training --sizes $size --batches $training_batch
    speed training_compiled 60 training --sizes $size --batches $training_batch --forms mi_token --compile
    [ -n "${BEFORE:-}" ] && speed against 40 against --against "$BEFORE" --sizes $sizes --batches $batches
    table int8 50 quantisation.py --size $size --device $device --dtype $dtype --rounds $rounds
    video=$output/clip.mp4
    "$python" - "$video" <<'PYTHON'
import sys
import numpy as np
from transformers_ila.video_writing import write_mp4
frames = np.random.default_rng(0).integers(0, 256, (300, 12, 16, 3), dtype=np.uint8)
write_mp4(sys.argv[1], frames.repeat(20, 1).repeat(20, 2), fps=30)  # ten seconds of 320 x 240
PYTHON
    table pipeline 50 pipeline_speed.py --video "$video" --size $size --device $device --rounds $rounds --fuse $alone
}
echo
echo "$failed tables not measured in full, $((SECONDS - started)) s"
exit $failed

#!/bin/sh
# Train on two "machines": two network namespaces joined by one cable (veth), one process in each. Needs root (ip netns).
#   benchmarks/two_machines.sh OUTPUT_DIR RECIPE and options of `ila train` ...
# PYTHON names the interpreter that has the package. Exit code: that of the first machine, or 77 without permission.
set -u
output=$1
shift
here=$(dirname "$0")/..
python=${PYTHON:-python}
a=ila-a-$$ b=ila-b-$$
cleanup() {
    ip netns del $a 2>/dev/null
    ip netns del $b 2>/dev/null
}
trap cleanup EXIT
ip netns add $a && ip netns add $b && ip -n $a link add cable type veth peer name cable netns $b || exit 77
for side in "$a 10.77.0.1" "$b 10.77.0.2"; do
    name=${side% *} address=${side#* }
    ip -n "$name" addr add "$address/24" dev cable && ip -n "$name" link set cable up && ip -n "$name" link set lo up || exit 77
done
launch() { # name, rank
    name=$1 rank=$2
    shift 2
    ip netns exec "$name" env GLOO_SOCKET_IFNAME=cable "$python" -m accelerate.commands.launch \
        --config_file "$here/src/transformers_ila/training/recipes/accelerate/two_machines.yaml" \
        --num_processes 2 --machine_rank "$rank" --main_process_ip 10.77.0.1 --main_process_port 29511 \
        "$here/scripts/train.py" "$@" --output_dir "$output" --use_cpu true --expect_processes 2
}
launch $b 1 "$@" >"$output.second.log" 2>&1 &
second=$!
launch $a 0 "$@"
code=$?
wait $second || code=$?
exit $code

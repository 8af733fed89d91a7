#!/usr/bin/env bash
# Run a command on two "machines": two network namespaces joined by one cable (veth). Needs root (ip netns).
#     two_machines.sh LOG_OF_THE_SECOND COMMAND [WORD...]
# runs `COMMAND 0 ADDRESS WORD...` on the first and `COMMAND 1 ADDRESS WORD...` on the second, where ADDRESS is that of
# the first. Exit code: that of the first machine that fails, or 77 without permission.
set -u
log=$1 command=$2 address=10.77.0.1
shift 2
a=ila-a-$$ b=ila-b-$$
trap 'ip netns del "$a" 2>/dev/null; ip netns del "$b" 2>/dev/null' EXIT
ip netns add "$a" && ip netns add "$b" && ip -n "$a" link add cable type veth peer name cable netns "$b" || exit 77
for side in "$a $address" "$b 10.77.0.2"; do
    ip -n "${side% *}" addr add "${side#* }/24" dev cable && ip -n "${side% *}" link set cable up &&
        ip -n "${side% *}" link set lo up || exit 77
done
export GLOO_SOCKET_IFNAME=cable
ip netns exec "$b" "$command" 1 "$address" "$@" > "$log" 2>&1 &
second=$!
ip netns exec "$a" "$command" 0 "$address" "$@"
code=$?
wait "$second" || code=$?
exit "$code"

#!/bin/sh
# Starts namegate for the perf harness, in its router namespace; the harness tells by PERF_* variables. Give it
# as 'exec sh deploy/perf/product.sh': the harness ends the process that it started, which must be this one.
# NAMEGATE names another binary than the release build of this tree. READERS=stopped adds two readers that
# follow all flows and are then stopped: one of ours, and a client of Hubble's Observer by gRPC.
set -eu
tree=$(cd "$(dirname "$0")/../.." && pwd)
namegate="${NAMEGATE:-$tree/target/release/namegate}"
dir=$(mktemp -d)
mkdir "$dir/endpoints"
printf 'name: client\nlabels: {app: client}\nnetns: %s\n' "$PERF_ENDPOINT_NETNS" >"$dir/endpoints/client.yaml"
if [ "${READERS:-}" = stopped ]; then
  # No children of the gate's: what they take themselves is not what the gate takes for them.
  gate=$$ dir="$dir" namegate="$namegate" tree="$tree" setsid --fork sh -c '
    until [ -S "$dir/hubble.sock" ]; do sleep 0.1; done
    "$namegate" observe --socket "$dir/namegate.sock" --follow >/dev/null & ours=$!
    /usr/bin/python3 "$tree/tests/hubble/follow.py" "$tree/observer/proto" "unix://$dir/hubble.sock" >"$dir/followed" & other=$!
    until grep -q following "$dir/followed"; do sleep 0.1; done
    kill -STOP $ours $other
    tail --pid="$gate" -f /dev/null # until the daemon has ended
    kill -KILL $ours $other
  '
fi
exec "$namegate" run --policy-dir "$PERF_POLICIES" --endpoint-dir "$dir/endpoints" \
  --state-dir "$dir/state" --socket "$dir/namegate.sock" --instance perf --log warn --detach-on-exit

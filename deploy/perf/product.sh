#!/bin/sh
# Starts namegate for the perf harness, in its router namespace; the harness tells by PERF_* variables.
# NAMEGATE names another binary than the release build of this tree.
set -eu
dir=$(mktemp -d)
mkdir "$dir/endpoints"
printf 'name: client\nlabels: {app: client}\nnetns: %s\n' "$PERF_ENDPOINT_NETNS" >"$dir/endpoints/client.yaml"
exec "${NAMEGATE:-target/release/namegate}" run --policy-dir "$PERF_POLICIES" --endpoint-dir "$dir/endpoints" \
  --state-dir "$dir/state" --socket "$dir/namegate.sock" --instance perf --log warn --detach-on-exit

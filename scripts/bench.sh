#!/usr/bin/env bash
# Measures a fresh cluster (release build, durable writes) and writes the table
# into README.md, between its bench markers. Nothing there is written by hand.
#
#   scripts/bench.sh [--rounds N] [--seconds S] [--no-readme]
#
# The raw answers stay in run/bench/*.json.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

ROUNDS=30 SECS=20 README=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) ROUNDS=$2; shift 2 ;;
    --seconds) SECS=$2; shift 2 ;;
    --no-readme) README=no; shift ;;
    *) die "bench.sh knows --rounds N, --seconds S and --no-readme, not '$1'" ;;
  esac
done

OUT=$ROOT/run/bench
export CIRO_DEVNET_DIR=$ROOT/run/bench-devnet RUST_LOG=${RUST_LOG:-warn} NO_COLOR=1

devnet() { "$ROOT/scripts/devnet.sh" "$@"; }
apis() { devnet status --json | jq -r '.nodes[].api'; }

# bench NAME ARGUMENTS...: runs one measure, keeps its JSON.
bench() {
  local name=$1
  local -a nodes=()
  shift
  while read -r api; do nodes+=(--node "$api"); done < <(apis)
  step "bench $*"
  "$(bin ciro-coordinator)" "${nodes[@]}" bench "$@" --json >"$OUT/$name.json" || die "bench $name failed, see above"
  jq -c . "$OUT/$name.json"
}

follower_api() { devnet status --json | jq -r '[.nodes[] | select(.role == "follower")][0].api'; }

# Every field of a measure that may be absent is shown as such, never made up.
value() { jq -r "($2) // \"not measured\" | if type == \"number\" then . * 10 | round / 10 else . end" "$OUT/$1.json" 2>/dev/null; }

# Resident memory of each node, MiB, largest first.
memory_mib() {
  devnet status --json | jq -r '.nodes[].pid' | while read -r pid; do
    awk '/^VmRSS:/ { print int($2 / 1024) }' "/proc/$pid/status"
  done | sort -rn | head -n 1
}

machine() {
  local cpu memory
  cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
  memory=$(awk '/^MemTotal:/ { print int($2 / 1048576 + 0.5) }' /proc/meminfo)
  printf '%s cores of %s, %s GiB of memory, %s on %s' "$(nproc)" "${cpu:-an unnamed CPU}" "$memory" \
    "$(uname -sr)" "$(findmnt -no FSTYPE -T "$ROOT" 2>/dev/null || printf 'an unknown file system')"
}

finished_jobs() { curl -s "$(apis | head -n 1)/status" | jq '[.jobs.completed, .jobs.failed, .jobs.cancelled] | map(. // 0) | add'; }

table() {
  cat <<TEXT
Measured by \`scripts/bench.sh\` on $(date -u +%Y-%m-%d), commit \`$(git -C "$ROOT" rev-parse --short HEAD)\`, release build, 3 nodes and 3
workers as processes of one machine: $(machine). Every acknowledged write is on a majority's disk (fdatasync).

| measure | target | measured |
|---|---|---|
| durable submits, one job per request, 256 clients | 3 000/s | $(value submit '.throughput_per_sec')/s (p50 $(value submit '.latency_ms.p50') ms, p99 $(value submit '.latency_ms.p99') ms) |
| durable submits, batches of 500 | 15 000/s | $(value batch '.throughput_per_sec')/s |
| lone submit through a follower, p50 | ≤ 10 ms | $(value lone '.latency_ms.p50') ms (fdatasync of this disk: $(value lone '.fdatasync_ms.p50') ms) |
| end to end, 3 workers, no-op executor | 1 000 jobs/s | $(value e2e '.throughput_per_sec')/s (p50 $(value e2e '.latency_ms.p50') ms) |
| linearizable reads, 64 clients | | $(value reads '.throughput_per_sec')/s (p50 $(value reads '.latency_ms.p50') ms) |
| fail-over, SIGKILL of the leader to the first write accepted, $ROUNDS rounds | p50 ≤ 600 ms, max ≤ 2 s | p50 $(value failover '.latency_ms.p50') ms, max $(value failover '.latency_ms.max') ms |
| memory of the largest node, $FINISHED finished jobs | ≤ 300 MiB at 100 000 | $MEMORY MiB |
TEXT
}

write_readme() {
  table >"$OUT/table.md"
  cat "$OUT/table.md"
  [ "$README" = yes ] || return 0
  awk -v table="$OUT/table.md" '
    /<!-- bench:begin -->/ { print; while ((getline line < table) > 0) print line; skip = 1 }
    /<!-- bench:end -->/ { skip = 0 }
    !skip' "$ROOT/README.md" >"$OUT/README.md" || die "could not rewrite README.md"
  grep -q 'bench:end' "$OUT/README.md" || die "README.md has no bench markers"
  cp "$OUT/README.md" "$ROOT/README.md"
  say "written into README.md"
}

need_tools curl jq findmnt:util-linux
mkdir -p "$OUT"
trap 'devnet down >/dev/null 2>&1' EXIT
devnet down >/dev/null 2>&1
export CIRO_DEVNET_WORKER_FLAGS="--noop --max-parallel-jobs 256"
devnet up 3 --workers 3 || exit 1
bench lone submit --clients 1 --seconds 5 --target "$(follower_api)"
bench submit submit --clients 256 --seconds "$SECS"
bench batch submit --clients 8 --batch 500 --seconds "$SECS"
bench reads reads --clients 64 --seconds 10 --consistency linearizable
bench e2e e2e --clients 256 --seconds "$SECS"
FINISHED=$(finished_jobs) MEMORY=$(memory_mib)
bench failover failover --rounds "$ROUNDS" --devnet "$CIRO_DEVNET_DIR"
write_readme

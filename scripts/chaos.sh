#!/usr/bin/env bash
# Breaks a cluster of its own for as long as you like, and checks what clients saw.
#
#   scripts/chaos.sh                       ten minutes, a seed by chance
#   scripts/chaos.sh --minutes 60 --seed 7 the same seed is the same schedule of faults
#   scripts/chaos.sh --dir DIR             where logs and history go if something is wrong (run/chaos)
#
# Three nodes, three workers and a dozen clients, as processes on free ports of this
# machine: kill -9, SIGSTOP, links cut both ways and one way, slow and full disks, clocks
# an hour off, rolling restarts, alone and two at a time. Every operation is recorded;
# at the end the history must be linearizable job by job, sessions must have read
# their own writes and nothing older, and all nodes must have the same state.
#
# Exit code 0: nothing was found. Runs the binaries in $CIRO_BIN_DIR; without it a
# release build if there is one, else the debug build.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1

MINUTES=10
SEED=$((RANDOM * 32768 + RANDOM))
DIR=$ROOT/run/chaos

while [ $# -gt 0 ]; do
  case "$1" in
    --minutes | --seed | --dir) [ $# -ge 2 ] || die "$1 wants a value" ;;&
    --minutes) MINUTES=$2 ;;
    --seed) SEED=$2 ;;
    --dir) DIR=$2 ;;
    -h | --help | help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown argument $1; see scripts/chaos.sh --help" ;;
  esac
  shift 2
done
[[ "$MINUTES" =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--minutes must be a number, not $MINUTES"
[[ "$SEED" =~ ^[0-9]+$ ]] || die "--seed must be a whole number, not $SEED"

need_build_tools
target=${CARGO_TARGET_DIR:-$ROOT/target}
if [ -z "${CIRO_BIN_DIR:-}" ] && [ -x "$target/release/ciro-coordinator" ] && [ -x "$target/release/ciro-worker" ]; then
  CIRO_BIN_DIR=$target/release
fi

mkdir -p "$DIR" || die "cannot make $DIR"
DIR=$(cd "$DIR" && pwd)
rm -f "$DIR/history" "$DIR/faults" "$DIR/violations"
step "building the test"
cargo test --locked --test cluster --no-run || die "the build failed, see above"

step "$MINUTES minutes, seed $SEED, binaries in ${CIRO_BIN_DIR:-$target/debug}"
export CIRO_TEST_SEED=$SEED CIRO_CHAOS_MINUTES=$MINUTES CIRO_CHAOS_DIR=$DIR CIRO_TEST_KEEP=1
[ -z "${CIRO_BIN_DIR:-}" ] || export CIRO_BIN_DIR
# A directory of its own, so that what a failed run leaves is found.
work=$(mktemp -d "$DIR/run-XXXXXX") || die "cannot make a directory in $DIR"
status=0
TMPDIR=$work cargo test --locked --test cluster chaos::chaos_as_long_as_one_likes -- --exact --ignored --nocapture 2>&1 |
  tee "$DIR/log" || status=1
if [ "$status" = 0 ]; then
  rm -rf "$work"
  say "${GREEN}nothing found$PLAIN with seed $SEED in $MINUTES minutes"
else
  say "${RED}FAILED$PLAIN with seed $SEED: what was seen is in $DIR/log, the nodes' and workers' logs and data below $work"
  if [ -e "$DIR/history" ]; then say "the violations, the faults and the history: $DIR/{violations,faults,history}"; fi
fi
exit "$status"

#!/usr/bin/env bash
# A real Starknet node on this machine: starknet-devnet, a chain of its own.
#
# Run `scripts/starknet.sh help` for what it can do. It is built from crates.io,
# once, into the cache; everything a node makes lies in its run directory. It
# signals only a process it started itself, remembered by pid and start time.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

RUN=${CIRO_STARKNET_DIR:-$ROOT/run/starknet}
VERSION=0.10.1
CRATES=679 # that are compiled for it, to say how far a build is
HOME_DIR=$(cache_dir)/starknet-devnet-$VERSION
BINARY=$HOME_DIR/bin/starknet-devnet
TARGET=$HOME_DIR.target # survives an interruption, not the end
BUILD_LOG=$HOME_DIR.log
READY_SECS=60
STOP_SECS=20
SAY_SECS=30

usage() {
  cat <<TEXT
scripts/starknet.sh — one starknet-devnet $VERSION on this machine

  scripts/starknet.sh fetch [--gently]    only build it: about 40 minutes of CPU time, once
  scripts/starknet.sh start [OPTIONS] [MORE OF STARKNET-DEVNET'S OWN OPTIONS]
                                          start it and print its RPC URL
  scripts/starknet.sh stop                stop it
  scripts/starknet.sh status [--json]     whether it runs, and where

options
  --dir DIR        the run directory   now: $RUN
  --port N         the port on 127.0.0.1; without it a free one, and the same one at the next start
  --for PID        stop it, and remove the run directory, when process PID ends: for tests
  --block-time T   transaction (a block each, the default), demand, or whole seconds
  --dump           keep the chain in the run directory after each block, and go on from it at the next start
  --gently         build only with what CPU time nobody else wants

The accounts are those of seed 0 unless another --seed is given. A chain that was
not kept with --dump starts anew. A further start in the same directory takes the
same options, unless others are given.
TEXT
}

# ------------------------------------------------------------------ installing

fetch() { # yes|no: gently
  [ -x "$BINARY" ] && return 0
  need_tools setsid:util-linux flock:util-linux awk:mawk
  mkdir -p "$HOME_DIR" || die "cannot write to $(cache_dir)"
  exec 8>"$HOME_DIR.lock"
  wait_for_others
  if [ ! -x "$BINARY" ]; then
    need_build_tools
    build "$1"
  fi
  exec 8>&-
}

# Two builds of it wait for each other: the second finds it done.
wait_for_others() {
  flock -n 8 && return 0
  step "starknet-devnet $VERSION is being built by somebody else: waiting"
  until flock -w "$SAY_SECS" 8; do say "$(progress)"; done
}

progress() {
  printf '%s of about %s crates' "$(grep -c '^ *Compiling ' "$BUILD_LOG" 2>/dev/null)" "$CRATES"
}

# Its own folder to build in: 2.5 GB, which nobody needs afterwards.
build() {
  local began=$SECONDS status=0 pid
  step "building starknet-devnet $VERSION into $HOME_DIR (about 40 minutes of CPU time, 20 to 25 on two cores, once)"
  : >"$BUILD_LOG"
  (cd "$(cache_dir)" && exec setsid bash -c "$(declare -f build_command); build_command \"\$@\"" _ \
    "$1" "$VERSION" "$HOME_DIR" "$TARGET") >>"$BUILD_LOG" 2>&1 </dev/null 8>&- &
  pid=$!
  # The build has a session of its own: what ends us must end it.
  trap 'kill -TERM -- "-$pid" 2>/dev/null; exit 130' INT TERM HUP
  watch_build "$pid" "$began" || status=1
  trap - INT TERM HUP
  [ "$status" = 0 ] && [ -x "$BINARY" ] || { tail_of_log "$BUILD_LOG" 30; die "could not build starknet-devnet $VERSION: the whole log is $BUILD_LOG"; }
  rm -rf "$TARGET"
  say "built in $(((SECONDS - began) / 60)) minutes"
}

# Gently: only on processors that are idle. The scheduler weighs sessions before
# it weighs the processes in them, so both are told.
build_command() { # GENTLY VERSION ROOT TARGET
  local -a how=()
  if [ "$1" = yes ]; then
    [ ! -w /proc/self/autogroup ] || echo 19 2>/dev/null >/proc/self/autogroup
    how=(nice -n 19)
    command -v chrt >/dev/null 2>&1 && how=(chrt -i 0 nice -n 19)
  fi
  unset CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS RUSTFLAGS
  exec "${how[@]}" cargo install starknet-devnet --version "$2" --locked --root "$3" --target-dir "$4"
}

watch_build() { # PID BEGAN
  local ticks=0
  while kill -0 "$1" 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    [ $((ticks % SAY_SECS)) != 0 ] || say "starknet-devnet: $(progress) after $((SECONDS - $2)) s"
  done
  wait "$1"
}

# -------------------------------------------------------------------- the node

running() { pid_of "$RUN/pid" >/dev/null; }
url() { printf 'http://127.0.0.1:%s/rpc' "$(cat "$RUN/port")"; }

prepare() { # PORT or nothing
  local port=$1
  mkdir -p "$RUN" || die "cannot write to $RUN"
  if [ -e "$RUN/this-is-a-starknet" ]; then
    [ -z "$port" ] || [ "$port" = "$(cat "$RUN/port")" ] || die "$RUN is a node of port $(cat "$RUN/port"), not of $port"
    return 0
  fi
  [ -z "$(ls -A "$RUN")" ] || die "$RUN exists and is not a node's: name another one with --dir"
  if [ -z "$port" ]; then
    free_port port
  else
    port_free "$port" || die "port $port is taken"
  fi
  printf '%s\n' "$port" >"$RUN/port"
  : >"$RUN/this-is-a-starknet"
}

# Remembers the options of this start, or takes those of the last one: one a line.
remember_options() {
  [ $# -eq 0 ] && [ -e "$RUN/options" ] && return 0
  : >"$RUN/options"
  case " $* " in *' --seed '*) ;; *) set -- --seed 0 "$@" ;; esac
  printf '%s\n' "$@" >"$RUN/options"
}

alive() { curl -sf --max-time 2 -o /dev/null "http://127.0.0.1:$(cat "$RUN/port")/is_alive"; }

start() { # PORT OWNER OPTIONS...
  local port=$1 owner=$2 deadline
  local -a options
  shift 2
  if running; then
    url
    return 0
  fi
  need_tools curl setsid:util-linux flock:util-linux awk:mawk >&2
  fetch no >&2
  prepare "$port"
  remember_options "$@"
  mapfile -t options <"$RUN/options"
  step "starting starknet-devnet $VERSION at $(url) in $RUN" >&2
  setsid "$BINARY" --host 127.0.0.1 --port "$(cat "$RUN/port")" "${options[@]}" >>"$RUN/log" 2>&1 </dev/null 9>&- &
  remember_process $! "$RUN/pid"
  disown
  [ -z "$owner" ] || guard "$owner"
  deadline=$((SECONDS + READY_SECS))
  until alive; do
    running || { tail_of_log "$RUN/log"; die "the node ended while it started: see its log above"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail_of_log "$RUN/log"; stop; die "the node was not ready within $READY_SECS s"; }
    sleep 0.1
  done
  url
}

# A process of its own that outlives us, and ends after PID does.
guard() {
  local born
  born=$(proc_start_time "$1")
  (
    trap '' HUP INT TERM
    while [ -n "$born" ] && [ "$(proc_start_time "$1")" = "$born" ] && [ -d "$RUN" ]; do sleep 0.5; done
    stop_process "$RUN/pid" "$STOP_SECS"
    [ ! -e "$RUN/this-is-a-starknet" ] || rm -rf "$RUN" "$RUN.lock"
  ) >/dev/null 2>&1 </dev/null 9>&- &
  disown
}

stop() { stop_process "$RUN/pid" "$STOP_SECS"; }

status() { # yes|no: as JSON
  local state=stopped pid
  pid=$(pid_of "$RUN/pid") && state=running
  if [ "$1" = yes ]; then
    printf '{"state":"%s","pid":%s,"url":%s,"version":"%s","installed":%s,"run_dir":"%s"}\n' "$state" "${pid:-null}" \
      "$([ -r "$RUN/port" ] && printf '"%s"' "$(url)" || printf null)" "$VERSION" \
      "$([ -x "$BINARY" ] && printf true || printf false)" "$RUN"
  elif [ -r "$RUN/port" ]; then
    say "starknet-devnet $VERSION: $state, $(url), pid ${pid:--}, in $RUN"
  else
    say "starknet-devnet $VERSION: stopped, there is none in $RUN"
  fi
}

# Changes to one node do not run side by side.
exclusive() {
  mkdir -p "$(dirname "$RUN")"
  exec 9>"$RUN.lock"
  flock -n 9 || die "another scripts/starknet.sh works on $RUN"
  "$@"
}

main() {
  local command=${1:-help} port='' owner='' json=no gently=no dump=no
  local -a options=()
  [ $# -gt 0 ] && shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --dir) RUN=$(realpath -m "${2:?--dir needs a directory}"); shift 2 ;;
      --port) port=${2:-}; [[ "$port" =~ ^[1-9][0-9]{0,4}$ ]] || die "--port needs a port"; shift 2 ;;
      --for) owner=${2:-}; [[ "$owner" =~ ^[1-9][0-9]*$ ]] || die "--for needs a pid"; shift 2 ;;
      --block-time) [[ "${2:-}" =~ ^(transaction|demand|[1-9][0-9]*)$ ]] || die "--block-time needs transaction, demand or seconds"
        options+=(--block-generation-on "$2"); shift 2 ;;
      --dump) dump=yes; shift ;;
      --json) json=yes; shift ;;
      --gently) gently=yes; shift ;;
      --) shift; break ;;
      *) break ;; # the node's own
    esac
  done
  [ $# -eq 0 ] || [ "$command" = start ] || die "$command does not know '$1'"
  options+=("$@")
  [ "$dump" = no ] || options+=(--dump-on block --dump-path "$RUN/chain")
  case "$command" in
    fetch) fetch "$gently" ;;
    start) exclusive start "$port" "$owner" "${options[@]}" && say ;;
    stop) exclusive stop && say "stopped" ;;
    status) status "$json" ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command: $command" ;;
  esac
}

main "$@"

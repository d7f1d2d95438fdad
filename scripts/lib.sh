# shellcheck shell=bash
# Shared by the scripts beside it: speaking, failing, installing, ports, processes.
#
# Source it; it runs nothing by itself. Everything here works with what Debian
# ships: bash 5, coreutils, util-linux.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' RED='' GREEN='' YELLOW='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
step() { printf '%s==>%s %s\n' "$BOLD$GREEN" "$PLAIN$BOLD" "$*$PLAIN"; }
warn() { printf '%swarning:%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }
die() {
  printf '%serror:%s %s\n' "$RED$BOLD" "$PLAIN" "$*" >&2
  exit 1
}

# Milliseconds since 1970, without starting a process.
now_ms() {
  local t=${EPOCHREALTIME/[.,]/}
  printf '%s' "$((t / 1000))"
}

# ---------------------------------------------------------------- installing

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    return 1
  fi
}

apt_install() {
  command -v apt-get >/dev/null 2>&1 || return 1
  local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
  as_root "${install[@]}" >/dev/null 2>&1 && return 0
  # Old lists may do as well: it is the second installation that decides.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || true
  as_root "${install[@]}" >/dev/null
}

# need_tools TOOL[:PACKAGE]...: installs the packages of the tools that are missing.
need_tools() {
  local spec
  local -a tools=() packages=()
  for spec in "$@"; do
    command -v "${spec%%:*}" >/dev/null 2>&1 && continue
    tools+=("${spec%%:*}")
    packages+=("${spec##*:}")
  done
  [ ${#tools[@]} -eq 0 ] && return 0
  step "installing ${packages[*]} (missing: ${tools[*]})"
  apt_install "${packages[@]}" \
    || die "could not install ${packages[*]}. Install what gives you: ${tools[*]} — on Debian: apt-get install ${packages[*]}"
}

need_build_tools() {
  need_tools cc:build-essential make:build-essential pkg-config:pkg-config
  need_zlib
  if ! command -v cargo >/dev/null 2>&1; then
    # rustup installs here, and a fresh shell may not have it on its path yet.
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"
  fi
  command -v cargo >/dev/null 2>&1 || die "cargo is missing. Install Rust from https://rustup.rs, then run this again"
}

# librdkafka is built from source, and wants the header.
need_zlib() {
  printf '#include <zlib.h>\n' | cc -E - >/dev/null 2>&1 && return 0
  step "installing zlib1g-dev (missing: zlib.h)"
  apt_install zlib1g-dev || die "could not install zlib1g-dev. Install what gives you zlib.h — on Debian: apt-get install zlib1g-dev"
}

cache_dir() { printf '%s/ciro' "${XDG_CACHE_HOME:-$HOME/.cache}"; }

# Path of the binary NAME: $CIRO_BIN_DIR if set, else the release build.
bin() { printf '%s/%s' "${CIRO_BIN_DIR:-${CARGO_TARGET_DIR:-$ROOT/target}/release}" "$1"; }

build_release() {
  if [ -n "${CIRO_BIN_DIR:-}" ]; then
    if ! [ -x "$(bin ciro-coordinator)" ] || ! [ -x "$(bin ciro-worker)" ]; then
      die "CIRO_BIN_DIR=$CIRO_BIN_DIR holds no ciro-coordinator and ciro-worker"
    fi
    return 0
  fi
  need_build_tools
  step "building (release; the first time takes several minutes)"
  (cd "$ROOT" && cargo build --release --locked --bins) || die "the build failed, see above"
}

# --------------------------------------------------------------------- ports

# port_free PORT: nobody has it, neither TCP nor UDP.
port_free() {
  local hex table
  hex=$(printf ':%04X ' "$1")
  for table in tcp tcp6 udp udp6; do
    [ -r "/proc/net/$table" ] || continue
    # The local address is the second column; a socket in TIME_WAIT (06) holds no port.
    awk -v port="${hex% }" '$2 ~ port"$" && $4 != "06" { found = 1 } END { exit found }' "/proc/net/$table" || return 1
  done
}

PORTS_TAKEN=' '
# free_port VARIABLE: a port free on TCP and UDP, below the range the kernel hands out itself.
free_port() {
  local tries candidate
  for ((tries = 0; tries < 500; tries++)); do
    candidate=$((20000 + RANDOM % 12000))
    case "$PORTS_TAKEN" in *" $candidate "*) continue ;; esac
    port_free "$candidate" || continue
    PORTS_TAKEN+="$candidate "
    printf -v "$1" '%s' "$candidate"
    return 0
  done
  die "found no free port between 20000 and 32000"
}

# ----------------------------------------------------------------- processes
# A process is its pid and its start time: the kernel gives pids out again.

proc_start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name, in parentheses, may hold anything: count from the last one.
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  printf '%s' "${20}"
}

# Remembers PID in FILE, so that nothing else is ever taken for it.
remember_process() { printf '%s %s\n' "$1" "$(proc_start_time "$1")" >"$2"; }

# pid_of FILE: prints the pid if that very process still runs.
pid_of() {
  local pid start
  [ -r "$1" ] && read -r pid start <"$1" || return 1
  [ -n "$start" ] && [ "$(proc_start_time "$pid")" = "$start" ] || return 1
  case "$(awk '/^State:/ { print $2 }' "/proc/$pid/status" 2>/dev/null)" in Z | X | '') return 1 ;; esac
  printf '%s' "$pid"
}

# signal_process SIGNAL FILE: false if it does not run any more.
signal_process() {
  local pid
  pid=$(pid_of "$2") || return 1
  kill "-$1" "$pid" 2>/dev/null
}

# stop_process FILE SECONDS: asks, waits, then insists.
stop_process() {
  local pid tries
  pid=$(pid_of "$1") || return 0
  kill -CONT "$pid" 2>/dev/null
  kill -TERM "$pid" 2>/dev/null
  for ((tries = 0; tries < $2 * 20; tries++)); do
    pid_of "$1" >/dev/null || return 0
    sleep 0.05
  done
  warn "process $pid did not stop within $2 s: killed"
  signal_process KILL "$1"
}

tail_of_log() {
  [ -s "$1" ] || { say "($1 is empty)" >&2; return 0; }
  printf '%s--- end of %s%s\n' "$DIM" "$1" "$PLAIN" >&2
  tail -n "${2:-25}" "$1" >&2
  printf '%s---%s\n' "$DIM" "$PLAIN" >&2
}

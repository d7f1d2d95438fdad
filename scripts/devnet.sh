#!/usr/bin/env bash
# A development network: real nodes and workers, as processes on this machine.
#
# Run `scripts/devnet.sh help` for what it can do. Everything it makes (keys,
# ports, data, logs) lies in one run directory, and it signals only processes it
# started itself: a process is remembered by pid and start time.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/devnet-kafka.sh"
. "$(dirname "$0")/devnet-chain.sh"
. "$(dirname "$0")/demo.sh"

RUN=${CIRO_DEVNET_DIR:-$ROOT/run/devnet}
READY_SECS=60
NETWORK=ciro-devnet

usage() {
  cat <<TEXT
scripts/devnet.sh — a ciro network on this machine

  scripts/devnet.sh                       build, start 3 nodes, 3 workers and a broker, run the demo, leave it up
  scripts/devnet.sh up [N] [--workers M] [--kafka embedded|apache|none] [--chain]
                                          build and start a fresh network of N nodes (3) and M workers (N), with
                                          a Kafka broker that keeps nothing (embedded), a real one, or none;
                                          --chain: jobs are settled on a Starknet node of its own, which is
                                          built at first use (half an hour)
  scripts/devnet.sh demo [--kill-leader] [DIR]
                                          one job per file of DIR (default: this repository's src), digests
                                          checked against our own; some of them through Kafka as well, and
                                          all of them on chain, where there is one;
                                          --kill-leader: SIGKILL in mid-batch
  scripts/devnet.sh status [--json]       nodes, roles, addresses, pids
  scripts/devnet.sh kill-leader           SIGKILL the leader
  scripts/devnet.sh kill|pause|resume N   SIGKILL, SIGSTOP, SIGCONT node N (worker N: wN; the broker: kafka;
                                          the Starknet node: chain)
  scripts/devnet.sh start N               start node N (worker N: wN; chain) again, same key, address and data
  scripts/devnet.sh logs N [-f]           the end of its log; -f: follow it
  scripts/devnet.sh down                  stop everything; data and logs stay until the next up

environment
  CIRO_DEVNET_DIR   the run directory     now: $RUN
  CIRO_BIN_DIR      use the binaries there instead of building
  RUST_LOG          what the nodes log    default: info
  CIRO_DEVNET_WORKER_FLAGS   more flags for every worker, such as --noop
TEXT
}

# ------------------------------------------------------------------- members

# The directories of everything of a kind: members node, members worker.
members() {
  local dir
  for dir in "$RUN/$1"-*/; do
    [ ! -d "$dir" ] || printf '%s\n' "${dir%/}" # none is no failure
  done | sort -V
}

# dir_of N, wN, kafka or chain: its directory.
dir_of() {
  local dir
  case "$1" in
    kafka | chain) dir=$RUN/$1 ;;
    w*) dir=$RUN/worker-${1#w} ;;
    *) dir=$RUN/node-$1 ;;
  esac
  [ -d "$dir" ] || die "there is no $1 here. Try: scripts/devnet.sh status"
  printf '%s' "$dir"
}

api_of() { printf 'http://127.0.0.1:%s' "$(cat "$1/api.port")"; }

running() { pid_of "$1/pid" >/dev/null; }

# Runs and is not paused, so it is worth a question.
awake() { [ "$(state_of "$1")" = running ]; }

anything_running() {
  local dir
  while read -r dir; do
    running "$dir" && return 0
  done < <(members node; members worker)
  return 1
}

need_network() { [ -r "$RUN/members" ] || die "no network in $RUN. Start one: scripts/devnet.sh up"; }

# One member of /status of the first node that answers: from_status .leader_id
from_status() {
  local dir answer
  while read -r dir; do
    awake "$dir" || continue
    answer=$(curl -sf --max-time 1 "$(api_of "$dir")/status" 2>/dev/null | jq -r "$1 // empty" 2>/dev/null)
    [ -n "$answer" ] && { printf '%s' "$answer"; return 0; }
  done < <(members node)
  return 1
}

# The directory of the node that leads, by its own word.
leader_dir() {
  local dir
  while read -r dir; do
    awake "$dir" || continue
    if [ "$(curl -sf --max-time 1 "$(api_of "$dir")/status" 2>/dev/null | jq -r .role 2>/dev/null)" = leader ]; then
      printf '%s' "$dir"
      return 0
    fi
  done < <(members node)
  return 1
}

# ------------------------------------------------------------------ starting

launch() { # DIR COMMAND...: in a session of its own, so that nothing of ours stops it
  local dir=$1
  shift
  RUST_LOG=${RUST_LOG:-info,openraft=warn,libp2p_swarm=warn} setsid "$@" >>"$dir/log" 2>&1 </dev/null 9>&- &
  remember_process $! "$dir/pid"
  disown
}

launch_node() {
  local dir=$1
  local -a settings
  mapfile -t settings < <(kafka_settings; chain_settings)
  CIRO__API__BIND="127.0.0.1:$(cat "$dir/api.port")" \
    CIRO__NETWORK__P2P_PORT="$(cat "$dir/p2p.port")" \
    CIRO__NETWORK__NAME=$NETWORK \
    CIRO__NODE__DATA_DIR="$dir/data" \
    CIRO__CLUSTER__INITIAL_MEMBERS="$(cat "$RUN/members")" \
    launch "$dir" env "${settings[@]}" "$(bin ciro-coordinator)" start --config "$RUN/node.toml"
}

launch_worker() {
  local dir=$1 address
  local -a coordinators=() settings
  while read -r address; do
    coordinators+=(--coordinator "$address")
  done < <(tr ',' '\n' <"$RUN/members"; echo)
  mapfile -t settings < <(chain_worker_settings "${dir##*-}")
  # shellcheck disable=SC2086 # several flags in one variable
  launch "$dir" env "${settings[@]}" "$(bin ciro-worker)" --config "$RUN/worker.toml" "${coordinators[@]}" --network "$NETWORK" --data-dir "$dir/data" \
    ${CIRO_DEVNET_WORKER_FLAGS:-}
}

launch_member() {
  case "${1##*/}" in
    node-*) launch_node "$1" ;;
    *) launch_worker "$1" ;;
  esac
}

# wait_until SECONDS DIR... -- CONDITION...: fails early when a process of DIRs ends.
wait_until() {
  local deadline=$(($(now_ms) + $1 * 1000)) dir
  shift
  local -a dirs=()
  while [ "$1" != -- ]; do
    dirs+=("$1")
    shift
  done
  shift
  until "$@"; do
    for dir in "${dirs[@]}"; do
      running "$dir" || { tail_of_log "$dir/log"; die "${dir##*/} ended while it started: see its log above"; }
    done
    if [ "$(now_ms)" -gt "$deadline" ]; then
      [ ${#dirs[@]} -eq 0 ] || tail_of_log "${dirs[0]}/log"
      die "not up within the time allowed; the logs are $RUN/*/log"
    fi
    sleep 0.1
  done
}

node_ready() { curl -sf --max-time 2 -o /dev/null "$(api_of "$1")/health/ready" 2>/dev/null; }

# Of the nodes that are awake: one that was killed or paused by hand is not waited for.
all_ready() {
  local dir
  while read -r dir; do
    awake "$dir" || continue
    node_ready "$dir" || return 1
  done < <(members node)
  return 0
}

workers_online() { [ "$(from_status '.workers | (.online // 0) + (.busy // 0)')" -ge "$1" ] 2>/dev/null; }

write_configuration() {
  "$(bin ciro-coordinator)" generate-config test "$RUN/node.toml" >"$RUN/setup.log" 2>&1 \
    || { tail_of_log "$RUN/setup.log"; die "generate-config failed"; }
  cp "$ROOT/config/worker.toml" "$RUN/worker.toml" || die "config/worker.toml is missing"
}

prepare() { # NODES WORKERS: directories, keys, ports
  local i dir id port list=''
  rm -rf "$RUN"
  mkdir -p "$RUN" || die "cannot write to $RUN"
  : >"$RUN/this-is-a-devnet"
  write_configuration
  for ((i = 1; i <= $1; i++)); do
    dir=$RUN/node-$i
    mkdir -p "$dir/data"
    free_port port && printf '%s\n' "$port" >"$dir/api.port"
    free_port port && printf '%s\n' "$port" >"$dir/p2p.port"
    id=$("$(bin ciro-coordinator)" identity --data-dir "$dir/data" 2>>"$RUN/setup.log") \
      || { tail_of_log "$RUN/setup.log"; die "could not make a key for node $i"; }
    printf '%s\n' "$id" >"$dir/id"
    list+="${list:+,}/ip4/127.0.0.1/udp/$port/quic-v1/p2p/$id"
  done
  for ((i = 1; i <= $2; i++)); do mkdir -p "$RUN/worker-$i/data"; done
  printf '%s' "$list" >"$RUN/members"
}

# rm -rf only ever meets a directory this script made, or an empty one.
check_run_dir() {
  [ -e "$RUN" ] || return 0
  [ -e "$RUN/this-is-a-devnet" ] || [ -z "$(ls -A "$RUN")" ] \
    || die "$RUN exists and is not a devnet: set CIRO_DEVNET_DIR to another directory"
}

up() {
  local nodes=3 workers='' kafka=embedded chain=no dir
  while [ $# -gt 0 ]; do
    case "$1" in
      --workers) workers=${2:-}; shift 2 || die "--workers needs a number" ;;
      --workers=*) workers=${1#*=}; shift ;;
      --kafka) kafka=${2:-}; shift 2 || die "--kafka needs embedded, apache or none" ;;
      --kafka=*) kafka=${1#*=}; shift ;;
      --chain) chain=yes; shift ;;
      *) nodes=$1; shift ;;
    esac
  done
  workers=${workers:-$nodes}
  [[ "$nodes" =~ ^[1-9]$ ]] || die "the number of nodes must be from 1 to 9, not '$nodes'"
  [[ "$workers" =~ ^[0-9]{1,2}$ ]] || die "the number of workers must be from 0 to 99, not '$workers'"
  case "$kafka" in embedded | apache | none) ;; *) die "--kafka must be embedded, apache or none, not '$kafka'" ;; esac
  need_tools curl jq setsid:util-linux awk:mawk
  check_run_dir
  if anything_running; then
    say "a network is up already in $RUN (stop it: scripts/devnet.sh down)"
    wait_until "$READY_SECS" -- all_ready
    return 0
  fi
  build_release
  step "starting $nodes nodes and $workers workers in $RUN"
  prepare "$nodes" "$workers"
  local -a dirs=()
  trap 'down >/dev/null' EXIT # half a network helps nobody
  start_kafka "$kafka"
  [ "$chain" = no ] || start_chain
  while read -r dir; do dirs+=("$dir"); launch_member "$dir"; done < <(members node; members worker)
  wait_until "$READY_SECS" "${dirs[@]}" -- all_ready
  [ "$workers" = 0 ] || wait_until "$READY_SECS" "${dirs[@]}" -- workers_online "$workers"
  trap - EXIT
  say "the cluster is healthy: leader is $(basename "$(leader_dir)")"
}

start() {
  local dir
  case "$1" in
    kafka) restart_kafka; return ;;
    chain) restart_chain; return ;;
  esac
  dir=$(dir_of "$1") || exit 1
  running "$dir" && die "$1 runs already"
  [ -x "$(bin ciro-coordinator)" ] || build_release
  launch_member "$dir"
  case "${dir##*/}" in
    node-*) wait_until "$READY_SECS" "$dir" -- node_ready "$dir" ;;
    *) wait_until "$READY_SECS" "$dir" -- test -s "$dir/data/worker.json" ;;
  esac
  say "started $1 (pid $(pid_of "$dir/pid"))"
}

# ------------------------------------------------------------------ stopping

send() { # SIGNAL TARGET WORD
  local dir
  dir=$(dir_of "$2") || exit 1
  signal_process "$1" "$dir/pid" || die "$2 does not run"
  say "$3 $2"
}

# Sets KILLED to the leader's directory.
kill_leader() {
  KILLED=$(leader_dir) || die "nobody leads at the moment: scripts/devnet.sh status"
  signal_process KILL "$KILLED/pid" || die "the leader ended by itself: see $KILLED/log"
}

down() {
  local dir
  local -a waiting=()
  [ -d "$RUN" ] || { say "nothing to stop in $RUN"; return 0; }
  while read -r dir; do
    stop_process "$dir/pid" 10 &
    waiting+=($!)
  done < <(members worker; members node)
  [ ${#waiting[@]} -gt 0 ] && wait "${waiting[@]}"
  stop_kafka # after the nodes, which take their leave of it
  stop_chain
  say "stopped. Data and logs stay in $RUN until the next up"
}

# ------------------------------------------------------------------- showing

# state_of DIR: stopped, paused or running, as the kernel sees it.
state_of() {
  local pid
  pid=$(pid_of "$1/pid") || { printf stopped; return; }
  case "$(awk '/^State:/ { print $2 }' "/proc/$pid/status" 2>/dev/null)" in
    T) printf paused ;;
    *) printf running ;;
  esac
}

node_json() {
  local dir=$1 role state
  state=$(state_of "$dir")
  role=$state
  [ "$state" = running ] \
    && role=$(curl -sf --max-time 1 "$(api_of "$dir")/status" 2>/dev/null | jq -r '.role // "unknown"' 2>/dev/null)
  jq -nc --argjson index "${dir##*-}" --arg id "$(cat "$dir/id")" --arg role "${role:-unknown}" --arg api "$(api_of "$dir")" \
    --arg p2p "/ip4/127.0.0.1/udp/$(cat "$dir/p2p.port")/quic-v1/p2p/$(cat "$dir/id")" \
    --argjson pid "$(pid_of "$dir/pid" || printf null)" --arg data "$dir/data" \
    '{index: $index, node_id: $id, role: $role, api: $api, p2p: $p2p, pid: $pid, data_dir: $data}'
}

worker_json() {
  jq -nc --argjson index "${1##*-}" --arg id "$(jq -r '.worker_id // empty' "$1/data/worker.json" 2>/dev/null)" \
    --argjson pid "$(pid_of "$1/pid" || printf null)" --arg state "$(state_of "$1")" \
    '{index: $index, worker_id: (if $id == "" then null else $id end), pid: $pid, state: $state}'
}

status_json() {
  {
    members node | while read -r dir; do node_json "$dir"; done
    members worker | while read -r dir; do worker_json "$dir"; done
  } | jq -s --arg run "$RUN" --argjson kafka "$(kafka_json)" --argjson chain "$(chain_json)" \
    '{nodes: map(select(has("node_id"))), workers: map(select(has("worker_id"))), kafka: $kafka, chain: $chain, run_dir: $run}'
}

status() {
  need_network
  case "${1:-}" in
    --json) status_json ;;
    '')
      status_json | jq -r '
        (["NODE", "ROLE", "API", "PID", "ID"] | @tsv),
        (.nodes[] | [.index, .role, .api, (.pid // "-"), .node_id] | @tsv),
        "",
        (["WORKER", "STATE", "", "PID", "ID"] | @tsv),
        (.workers[] | ["w\(.index)", .state, "-", (.pid // "-"), (.worker_id // "-")] | @tsv),
        (.kafka // empty | "", (["KAFKA", "STATE", "BOOTSTRAP", "PID", "KIND"] | @tsv),
          (["k1", .state, .bootstrap, (.pid // "-"), .kind] | @tsv)),
        (.chain // empty | "", (["CHAIN", "STATE", "RPC", "PID", "CONTRACT"] | @tsv),
          (["chain", .state, .rpc_url, (.pid // "-"), .contract] | @tsv))' |
        awk -F '\t' 'NF { printf "%-7s %-9s %-24s %-8s %s\n", $1, $2, $3, $4, $5 } !NF'
      ;;
    *) die "status knows --json only, not '$1'" ;;
  esac
}

logs() {
  local dir
  dir=$(dir_of "${1:?}") || exit 1
  if [ "${2:-}" = -f ]; then
    exec tail -n 50 -F "$dir/log"
  fi
  tail -n 100 "$dir/log"
}

what_next_kafka() {
  [ "$(kafka_kind)" != none ] || return 0
  say "  a job through Kafka         $(bin ciro-coordinator) kafka produce --bootstrap $(kafka_bootstrap) --type sha256 --payload hello"
  say "  what came of it             $(bin ciro-coordinator) kafka tail --bootstrap $(kafka_bootstrap) --from beginning --timeout 3"
}

what_next() {
  local api
  api=$(api_of "$(members node | head -n 1)")
  say ''
  status
  cat <<TEXT

${BOLD}try next${PLAIN}
  a job by the command line   $(bin ciro-coordinator) --node $api job submit --type wordcount --file README.md --wait
  a job by curl               curl -s $api/jobs -H 'content-type: application/json' -d '{"type":"sha256","payload":"aGVsbG8K"}' | jq
TEXT
  what_next_kafka
  what_next_chain "$api"
  cat <<TEXT
  kill the leader             scripts/devnet.sh demo --kill-leader
  what it is doing            scripts/devnet.sh status; scripts/devnet.sh logs 1 -f
${BOLD}stop it${PLAIN}                       scripts/devnet.sh down
TEXT
}

# -------------------------------------------------------------------- choice

# Changes to the network do not run side by side.
exclusive() {
  mkdir -p "$(dirname "$RUN")"
  exec 9>"$RUN.lock"
  flock -n 9 || die "another scripts/devnet.sh works on $RUN"
  "$@"
}

one_target() { [ $# -eq 2 ] || die "$1 needs one node: scripts/devnet.sh $1 N (worker N: wN)"; }

main() {
  local command=${1:-all}
  [ $# -gt 0 ] && shift
  case "$command" in
    all) exclusive up && demo && what_next ;;
    up) exclusive up "$@" && what_next ;;
    demo) need_network && need_tools curl jq && demo "$@" ;;
    status) need_tools curl jq && status "$@" ;;
    kill-leader) need_network && kill_leader && say "killed ${KILLED##*/}" ;;
    kill) one_target kill "$@" && send KILL "$1" killed ;;
    pause) one_target pause "$@" && send STOP "$1" paused ;;
    resume) one_target resume "$@" && send CONT "$1" resumed ;;
    start) one_target start "$@" && exclusive start "$1" ;;
    logs) [ $# -ge 1 ] || die "logs needs a node: scripts/devnet.sh logs N"; logs "$@" ;;
    down) exclusive down ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command: $command" ;;
  esac
}

main "$@"

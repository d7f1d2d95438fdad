#!/usr/bin/env bash
# Measures a fresh cluster (release build, durable writes) and writes the table
# into README.md, between its bench markers. Nothing there is written by hand.
#
#   scripts/bench.sh [--rounds N] [--seconds S] [--jobs N] [--crowd N] [--kills N] [--no-market] [--no-readme]
#   scripts/bench.sh --only PART[,PART...] [--seconds S] [--crowd N] [--kills N] [--no-readme]
#   scripts/bench.sh --soak [--jobs N]
#
# --only measures parts again. The rows of the other parts stay as the last run left them, and a row
# that was measured at another commit than most says at which. The parts:
#
#   clearing   awards against the optimum; needs no cluster
#   market     100 and N simulated workers (--crowd, 1000): from announcement to award, gossip, memory
#   notice     kills workers (--kills, 30), some together with the leader
#   hostile    20 liars among 100 workers
#   reads      on the leader and a follower, and stale ones on all
#   life       hand-overs, a rolling restart, changes of the members and fail-overs under load
#   kafka      one Apache Kafka broker
#   chain      one starknet-devnet
#   million    fills the nodes with a million finished jobs, and restarts them
#
# --no-market leaves the crowds out: of the market only clearing is measured.
#
# --soak runs a million jobs (N) to their end on one cluster and watches what the
# nodes take of memory and disk, with a fifth of the jobs kept. It fails if, once a fifth of the jobs has
# ended, either goes on growing. It writes no README.
#
# The raw answers stay in run/bench/*.json, the samples in run/bench/soak.tsv.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

ROUNDS=30 SECS=20 JOBS='' README=yes SOAK=no CROWDS=yes CROWD=1000 KILLS=30
PARTS=(clearing market notice hostile reads life kafka chain million) ONLY=()
KAFKA_JOBS=50000  # through Kafka, each way
LIFE_ROUNDS=100   # of fail-overs and of hand-overs under load
MEMBERS_TURNS=5   # two nodes join and go, under load
CHAIN_JOBS=3000   # settled on chain, of each load
PORTIONS=20       # of a soak: each is submitted when the one before has ended
SAMPLE_SECS=10    # between two samples of a soak; one more follows each portion
GROWTH_MAX=30     # percent, from the second fifth of a soak to the last
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) ROUNDS=$2; shift 2 ;;
    --seconds) SECS=$2; shift 2 ;;
    --jobs) JOBS=$2; shift 2 ;;
    --crowd) CROWD=$2; shift 2 ;;
    --kills) KILLS=$2; shift 2 ;;
    --no-readme) README=no; shift ;;
    --only) IFS=, read -ra ONLY <<<"$2"; shift 2 ;;
    --no-market) CROWDS=no; shift ;;
    --soak) SOAK=yes; shift ;;
    -h | --help | help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "bench.sh knows --rounds N, --seconds S, --jobs N, --crowd N, --kills N, --no-readme, --only PART, --no-market and --soak, not '$1'" ;;
  esac
done
case "$SOAK" in yes) JOBS=${JOBS:-1000000} ;; *) JOBS=${JOBS:-100000} ;; esac
[[ "$JOBS" =~ ^[1-9][0-9]*$ ]] && [ "$JOBS" -ge "$PORTIONS" ] || die "--jobs must be a number from $PORTIONS, not '$JOBS'"

for part in "${ONLY[@]}"; do
  case " ${PARTS[*]} " in *" $part "*) ;; *) die "no part '$part'; there are: ${PARTS[*]}" ;; esac
done

[[ "$CROWD" =~ ^[1-9][0-9]*$ ]] || die "--crowd must be a number of workers, not '$CROWD'"
[[ "$KILLS" =~ ^[1-9][0-9]?$ ]] || die "--kills must be a number from 1 to 99, not '$KILLS'"

# Before anything runs: what is committed meanwhile was not measured.
COMMIT=$(git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown)

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
  "$(bin ciro-coordinator)" "${nodes[@]}" --json bench --disk-dir "$CIRO_DEVNET_DIR" "$@" >"$OUT/$name.raw" || die "bench $name failed, see above"
  jq --arg commit "$COMMIT" '. + {commit: $commit}' "$OUT/$name.raw" >"$OUT/$name.json"
  rm -f "$OUT/$name.raw"
  jq -c . "$OUT/$name.json"
}

# worker_command NAME FLAGS...: prints the command of a process of many workers, for this network.
worker_command() {
  local name=$1 address
  shift
  printf '%q ' "$(bin ciro-worker)" --config "$CIRO_DEVNET_DIR/worker.toml" --network ciro-devnet --data-dir "$CIRO_DEVNET_DIR/$name"
  while read -r address; do printf '%q ' --coordinator "$address"; done < <(tr ',' '\n' <"$CIRO_DEVNET_DIR/members"; echo)
  printf '%q ' "$@"
}

# crowd N: N simulated workers in one process; heartbeats every 2 s. The bench waits until they have joined.
crowd() {
  mkdir -p "$CIRO_DEVNET_DIR/crowd"
  CIRO_WORKER__WORKER__HEARTBEAT_MS=2000 setsid sh -c "exec $(worker_command crowd --simulate "$1" --simulate-price-spread 1000)" \
    >>"$CIRO_DEVNET_DIR/crowd/log" 2>&1 </dev/null &
  remember_process $! "$CIRO_DEVNET_DIR/crowd/pid"
}

disperse() { [ ! -e "$CIRO_DEVNET_DIR/crowd/pid" ] || stop_process "$CIRO_DEVNET_DIR/crowd/pid" 40; }

# The same, and goes on without it if it fails: its figures are shown as not measured.
UNMEASURED=0
try_bench() {
  rm -f "$OUT/$1.json"
  (bench "$@") || { rm -f "$OUT/$1.json"; UNMEASURED=$((UNMEASURED + 1)); say "bench $1 failed, going on without it"; }
}

# A figure of a measure; one that is absent is shown as such, never made up.
value() { jq -r "($2) // \"not measured\" | if type == \"number\" then round else . end" "$OUT/$1.json" 2>/dev/null; }
# The same with one decimal.
tenths() { jq -r "($2) // \"not measured\" | if type == \"number\" then . * 10 | round / 10 else . end" "$OUT/$1.json" 2>/dev/null; }
# The same, from microseconds to milliseconds.
ms() { jq -r "($2) // null | if . == null then \"not measured\" else . / 100 | round / 10 end" "$OUT/$1.json" 2>/dev/null; }

# Requests of all measures that got no answer, or a refusal.
refused() { jq -s 'map(.results.failures // 0) | add' "$OUT"/{submit,batch,lone,reads}.json; }

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

# Elections since the last call with this cluster; the first after `fresh` sets the mark.
ELECTIONS=0 TERM_SEEN=''
count_elections() {
  local now
  now=$(curl -s "$(apis | head -n 1)/status" | jq '.term')
  [ -z "$TERM_SEEN" ] || ELECTIONS=$((ELECTIONS + now - TERM_SEEN))
  TERM_SEEN=$now
}

finished_jobs() { curl -s "$(apis | head -n 1)/status" | jq '[.jobs.completed, .jobs.failed, .jobs.cancelled] | map(. // 0) | add'; }

# What the whole run saw beside the answers: whole .commit
whole() { jq -r "$1 // \"not measured\"" "$OUT/whole.json" 2>/dev/null || printf 'not measured'; }

# row LABEL TARGET MEASURE TEXT: a row of the table; a measure that was left out or failed is shown as such.
row() {
  local text=$4 commit
  [ -s "$OUT/$3.json" ] || text='not measured'
  commit=$(jq -r '.commit // empty' "$OUT/$3.json" 2>/dev/null)
  [ -z "$commit" ] || [ "$commit" = "$(whole .commit)" ] || text+=" (at \`$commit\`)"
  printf '| %s | %s | %s |\n' "$1" "$2" "$text"
}

table() {
  cat <<TEXT
Measured by \`scripts/bench.sh\` on $(whole .date), commit \`$(whole .commit)\` unless a row names another, release build, 3 nodes and 3
workers as processes of one machine: $(whole .machine). Every acknowledged write is on a majority's disk (fdatasync).

| measure | target | measured |
|---|---|---|
| durable submits, one job per request, 256 clients | 3 000/s | $(value submit .results.jobs_per_sec)/s (p50 $(ms submit .results.request_latency.p50_us) ms, p99 $(ms submit .results.request_latency.p99_us) ms) |
| durable submits, batches of 500 | 15 000/s | $(value batch .results.jobs_per_sec)/s |
| lone submit through a follower, p50 | ≤ 10 ms | $(ms lone .results.request_latency.p50_us) ms (fdatasync of this disk: $(ms lone .setup.disk_fdatasync.p50_us) ms) |
| end to end, 3 workers, no-op executor, $(whole .jobs) jobs | 1 000 jobs/s | $(value e2e .results.jobs_per_sec)/s |
| elections while these loads ran | 0 | $(whole .elections) |
| requests that were refused or lost meanwhile | 0 | $(whole .refused) |
| linearizable reads, 64 clients | | $(value reads .results.reads_per_sec)/s (p50 $(ms reads .results.request_latency.p50_us) ms) |
| fail-over, SIGKILL of the leader to the first write accepted, $(whole .rounds) rounds | p50 ≤ 600 ms, max ≤ 2 s | p50 $(ms failover .results.first_write_accepted_latency.p50_us) ms, max $(ms failover .results.first_write_accepted_latency.max_us) ms |
| running jobs restarted by these fail-overs | 0 | $(value failover .results.running_jobs_restarted) of $(value failover .results.running_jobs) |
| memory of the largest node, with $(whole .finished) finished jobs | ≤ 300 MiB at 100 000 | $(whole .memory_mib) MiB |
TEXT
  row "fail-over by SIGKILL under load, $LIFE_ROUNDS rounds" "p50 ≤ 500 ms, p99 ≤ 1.2 s" failover_load "p50 $(ms failover_load .results.first_write_accepted_latency.p50_us) ms, p99 $(ms failover_load .results.first_write_accepted_latency.p99_us) ms"
  row "planned hand-over under load, write gap, p99 of $LIFE_ROUNDS" "≤ 100 ms" handover "$(ms handover .results.write_gap_latency.p99_us) ms (p50 $(ms handover .results.write_gap_latency.p50_us) ms; without a hand-over p99 $(ms handover .results.usual_gap_latency.p99_us) ms)"
  row "rolling restart of all nodes under load: failed after retry, longest write gap" "0, ≤ 1 s" rolling "$(value rolling .results.writes_failed) of $(value rolling .results.writes), $(ms rolling .results.write_gap_latency.max_us) ms"
  row "3 → 5 → 3 members under load, $MEMBERS_TURNS times: failed after retry, longest write gap" "0, ≤ 1 s" members "$(value members .results.writes_failed) of $(value members .results.writes), $(ms members .results.write_gap_latency.max_us) ms"
  row "linearizable reads on a follower, p99, times that on the leader" "≤ 3" reads_sides "$(tenths reads_sides .results.p99_times) ($(ms reads_sides .results.follower_latency.p99_us) ms, $(ms reads_sides .results.leader_latency.p99_us) ms)"
  row "stale reads, 3 nodes together, 64 clients" "≥ 20 000/s" reads_stale "$(value reads_stale .results.reads_per_sec)/s"
  row "restore of 100 000 jobs on 3 nodes, until all show one state" "≤ 15 s" restore "$(tenths restore .results.restore_secs) s"
  row "announce → award, 100 bidding workers, 200 jobs/s, p99" "≤ 300 ms" market100 "$(ms market100 .results.announce_to_award_latency.p99_us) ms (p50 $(ms market100 .results.announce_to_award_latency.p50_us) ms)"
  row "the same with $CROWD simulated workers, p99" "≤ 600 ms" market "$(ms market .results.announce_to_award_latency.p99_us) ms (p50 $(ms market .results.announce_to_award_latency.p50_us) ms)"
  row "memory of the largest node meanwhile" "≤ 600 MiB" market "$(value market .results.largest_node_mib) MiB"
  row "gossip messages per awarded job and coordinator meanwhile, every copy" "≤ 12" market "$(tenths market .results.gossip_messages_per_award)"
  row "dead worker noticed, 100 workers, $KILLS kills, p99" "≤ 6 s" notice "$(ms notice .results.sigkill_to_offline_latency.p99_us) ms"
  row "the same for those killed together with the leader, p99" "≤ 6 s" notice "$(ms notice .results.sigkill_to_offline_with_the_leader_latency.p99_us) ms"
  row "verdicts on workers that live" "0" notice "$(value notice .results.false_verdicts)"
  row "joint clearing over the optimum's cost, random rounds" "≤ 5 %" clearing "$(tenths clearing .results.cost_over_optimum_percent) % (job by job: $(tenths clearing .results.job_by_job_over_optimum_percent) %)"
  row "one clearing of 512 jobs and 1 000 workers, 64 bids per job, p99" "" clearing "$(ms clearing .results.clear_512_jobs_1000_workers_64_bids_each_latency.p99_us) ms"
  row "intake from one Apache Kafka, $KAFKA_JOBS jobs, no worker" "≥ 5 000 jobs/s" kafka "$(value kafka .results.intake_jobs_per_sec)/s"
  row "delivery to it, exactly once, as many results" "≥ 10 000 records/s" kafka "$(value kafka .results.delivery_records_per_sec)/s"
  row "calls settled on one starknet-devnet, $CHAIN_JOBS jobs" "≥ 500/s" chain "$(value chain .results.calls_per_sec)/s"
  row "jobs per transaction meanwhile" "≥ 50" chain "$(tenths chain .results.jobs_per_transaction)"
  row "registration before distribution adds, p50" "" chain "$(tenths chain .results.registration_adds_p50_ms) ms"
  row "end to end, settled later, of that with the chain off (the Starknet node asleep)" "≥ 95 %" chain "$(value chain .results.settle_later_percent_of_chain_off) % ($(value chain .results.settle_later_chain_asleep_percent_of_chain_off) %)"
  row "honest jobs' p99 with 20 dishonest of 100 workers, times that without" "< 2" hostile "$(tenths hostile .results.p99_times)"
  row "memory of the largest node, with 1 000 000 finished jobs" "≤ 600 MiB" million "$(value million .results.largest_node_mib) MiB ($(value million .results.largest_node_after_restart_mib) MiB after a restart)"
  row "its restart until it answers for the oldest of them" "≤ 20 s" million "$(tenths million .results.slowest_restart_secs) s"
  row "longest wait of a record for a checkpoint meanwhile" "≤ 50 ms" million "$(tenths million '.results.longest_pause_by_a_checkpoint_secs * 1000') ms"
  row "nodes restarted, memory growth meanwhile" "0, < 64 MiB" hostile "$(value hostile .results.nodes_restarted), $(value hostile .results.memory_growth_mib) MiB"
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

# ---------------------------------------------------------------------- soak

# One line: jobs submitted so far, then the KiB of memory and of disk of each node. False if a node is gone.
sample() {
  local line pid data
  line=$(curl -sf --max-time 5 "$(apis | head -n 1)/status" | jq -r '.jobs_submitted_total // empty')
  [ -n "$line" ] || return 1
  while read -r pid data; do
    [ -r "/proc/$pid/status" ] || return 1
    line+=$'\t'$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status")$'\t'$(du -sk "$data" 2>/dev/null | cut -f 1)
  done < <(devnet status --json | jq -r '.nodes[] | "\(.pid) \(.data_dir)"')
  printf '%s\n' "$line" >>"$OUT/soak.tsv"
}

# Memory and disk go up and down with every snapshot, so peaks are compared with peaks.
soak_table() {
  sort -n "$OUT/soak.tsv" | awk -F '\t' -v jobs="$JOBS" -v growth="$GROWTH_MAX" '
    function mib(kib) { return sprintf("%.1f", kib / 1024) }
    function name(column) { return (column % 2 ? "disk" : "memory") " of node " int(column / 2) }
    NR == 1 {
      printf "%9s", "jobs"
      for (node = 1; node <= (NF - 1) / 2; node++) printf "  %9s %9s", "RSS " node, "disk " node
      print "   (MiB)"
    }
    {
      printf "%9d", $1
      for (column = 2; column <= NF; column++) {
        printf "%s %9s", column % 2 ? "" : " ", mib($column)
        if ($1 > jobs * 0.2 && $1 <= jobs * 0.4 && $column > early[column]) early[column] = $column
        if ($1 > jobs * 0.8 && $column > late[column]) late[column] = $column
      }
      print ""
    }
    END {
      for (column = 2; column <= NF; column++) {
        if (!early[column] || !late[column]) { print "too few samples of the " name(column); bad = 1; continue }
        percent = (late[column] / early[column] - 1) * 100
        verdict = percent > growth ? "GROWS" : "ok"
        if (percent > growth) bad = 1
        printf "%-6s %-16s %s MiB at most in the second fifth, %s MiB in the last: %+.0f %%\n", verdict, name(column),
          mib(early[column]), mib(late[column]), percent
      }
      exit NR == 0 || bad
    }'
}

SAMPLER=
soak() {
  local turn
  : >"$OUT/soak.tsv"
  CIRO__JOBS__RETENTION_COUNT=$((JOBS / 5)) fresh
  while sleep "$SAMPLE_SECS"; do sample; done &
  SAMPLER=$!
  for ((turn = 0; turn < PORTIONS; turn++)); do
    bench soak e2e --jobs "$((JOBS / PORTIONS))" --timeout-secs 900
    sample || die "a node is gone, or does not answer: see $CIRO_DEVNET_DIR/node-*/log"
  done
  kill "$SAMPLER"
  soak_table || die "memory or disk grew by more than $GROWTH_MAX % after the first fifth of $JOBS jobs, see above"
  say "$JOBS jobs, and neither memory nor disk went on growing"
}

# -------------------------------------------------------------------- market

# fresh_market WORKERS: a cluster with so many workers as processes of their own.
fresh_market() {
  disperse
  devnet down >/dev/null && CIRO_DEVNET_WORKER_FLAGS='--noop --max-parallel-jobs 4' devnet up 3 --workers "$1" --kafka none || die "no cluster to measure"
}

clearing() { bench clearing clearing; }

market() {
  fresh_market 0
  crowd 100
  try_bench market100 market --workers 100 --duration-secs "$SECS"
  fresh_market 0
  crowd "$CROWD"
  try_bench market market --workers "$CROWD" --duration-secs "$SECS" --join-secs 600
  disperse
}

notice() {
  fresh_market "$KILLS"
  crowd $((100 - KILLS))
  try_bench notice notice --workers 100 --kills "$KILLS" --with-leader $(((KILLS + 2) / 3))
  disperse
}

hostile() {
  local -a liars=()
  fresh_market 0
  crowd 80
  liars+=(--start "$(worker_command liars-1 --simulate 7 --simulate-dishonest vanish)")
  liars+=(--start "$(worker_command liars-2 --simulate 6 --simulate-dishonest wrong-result)")
  liars+=(--start "$(worker_command liars-3 --simulate 6 --simulate-dishonest forge)")
  liars+=(--start "$(worker_command liars-4 --simulate 1 --simulate-dishonest flood)")
  try_bench hostile hostile --honest 80 --duration-secs "$SECS" "${liars[@]}"
  disperse
}

# --------------------------------------------------------------------- kafka

# The bound on jobs in flight is out of the way: nobody runs these, so that only intake is measured.
kafka() {
  devnet down >/dev/null && CIRO__KAFKA__MAX_IN_FLIGHT_JOBS=$((KAFKA_JOBS * 2)) devnet up 3 --workers 0 --kafka apache || die "no cluster to measure"
  try_bench kafka kafka --jobs "$KAFKA_JOBS"
}

# --------------------------------------------------------------------- chain

chain() {
  devnet down >/dev/null && devnet up 3 --workers 3 --kafka none --chain || die "no cluster to measure"
  try_bench chain chain --jobs "$CHAIN_JOBS"
}

# ------------------------------------------------------------------- million

# All of them are kept: the nodes that are started again must say the same.
million() {
  export CIRO__JOBS__RETENTION_COUNT=0 CIRO__JOBS__RETENTION_MB=0
  fresh
  try_bench million million
  unset CIRO__JOBS__RETENTION_COUNT CIRO__JOBS__RETENTION_MB
}

# ---------------------------------------------------------------------- life

reads() {
  fresh
  try_bench reads_sides reads --clients 16 --duration-secs 10 --consistency linearizable --compare
  try_bench reads_stale reads --clients 64 --duration-secs 10
}

# The jobs that are submitted meanwhile stay pending, so each of the long ones has a cluster of its own.
life() {
  fresh
  try_bench handover handover --rounds "$LIFE_ROUNDS" --clients 8
  fresh
  try_bench rolling rolling --turns 3 --clients 8
  fresh
  try_bench members members --turns "$MEMBERS_TURNS" --clients 8
  fresh
  try_bench failover_load failover --rounds "$LIFE_ROUNDS" --load 4
}

need_tools curl jq findmnt:util-linux
mkdir -p "$OUT"
trap '[ -z "$SAMPLER" ] || kill "$SAMPLER" 2>/dev/null; disperse; devnet down >/dev/null 2>&1' EXIT
devnet down >/dev/null 2>&1
export CIRO_DEVNET_WORKER_FLAGS="--noop --max-parallel-jobs 256"
cd "$ROOT" || exit 1 # the fail-over bench calls scripts/devnet.sh from here

fresh() {
  devnet down >/dev/null && devnet up 3 --workers 3 --kafka none || die "no cluster to measure"
  TERM_SEEN=''
  count_elections
}

if [ "$SOAK" = yes ]; then
  soak
  exit
fi

if [ ${#ONLY[@]} -gt 0 ]; then
  [ -s "$OUT/whole.json" ] || [ "$README" = no ] || die "there is no whole run in $OUT that parts could be added to: leave --only out, or add --no-readme"
  build_release
  for part in "${ONLY[@]}"; do "$part"; done
  write_readme
  exit $((UNMEASURED > 0))
fi

rm -f "$OUT"/*.json
fresh
bench lone submit --clients 1 --duration-secs 5 --follower
bench reads reads --clients 64 --duration-secs 10 --consistency linearizable
bench e2e e2e --jobs "$JOBS" --timeout-secs 900
FINISHED=$(finished_jobs) MEMORY=$(memory_mib)
count_elections
bench failover failover --rounds "$ROUNDS"
try_bench restore restore --jobs 100000
# The submitted jobs stay pending, no worker runs them: a cluster of their own.
fresh
bench submit submit --clients 256 --duration-secs "$SECS"
bench batch submit --clients 8 --batch 500 --duration-secs "$SECS"
count_elections
jq -n --arg commit "$COMMIT" --arg date "$(date -u +%Y-%m-%d)" --arg machine "$(machine)" --argjson jobs "$JOBS" \
  --argjson rounds "$ROUNDS" --argjson elections "$ELECTIONS" --argjson refused "$(refused)" \
  --argjson finished "$FINISHED" --argjson memory_mib "$MEMORY" '$ARGS.named' >"$OUT/whole.json"
for part in "${PARTS[@]}"; do
  case "$CROWDS $part" in 'no market' | 'no notice' | 'no hostile') ;; *) "$part" ;; esac
done
write_readme
exit $((UNMEASURED > 0))

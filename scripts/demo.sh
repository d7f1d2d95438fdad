# shellcheck shell=bash
# The main job of the development network, on real input. Part of devnet.sh.
#
# Submits one job per file, spread over the REST ports of all nodes; a worker
# runs sha256sum on the bytes, signs what came out and hands it in. We compare
# every digest with our own sha256sum. With --kill-leader the leader gets a
# SIGKILL in mid-batch, and afterwards every node must hold every job, once.

DEMO_SECS=120         # until every job must have ended, …
FILE_MS=50            # … and this much more for each of them
PAYLOAD_MAX=262144    # bytes a job may carry inline

demo() {
  local kill=no dir=$ROOT/src
  while [ $# -gt 0 ]; do
    case "$1" in
      --kill-leader) kill=yes ;;
      -*) die "demo knows --kill-leader and a directory, not '$1'" ;;
      *) dir=$1 ;;
    esac
    shift
  done
  [ -d "$dir" ] || die "$dir is not a directory"
  demo_files "$dir"
  demo_nodes
  demo_workers
  [ "$kill" = no ] || can_lose_a_node
  TAG=demo-$(date +%Y%m%d-%H%M%S)-$$
  WORK=$RUN/$TAG
  mkdir -p "$WORK"
  : >"$WORK/acked"
  step "demo: ${#FILES[@]} files of $dir, one sha256 job each, over ${#APIS[@]} nodes"
  local started refused=''
  started=$(now_ms)
  DEADLINE=$((started + DEMO_SECS * 1000 + ${#FILES[@]} * FILE_MS))
  in_lanes lane_submit
  if [ "$kill" = yes ]; then
    kill_in_mid_batch
    refused=$REFUSED_MS
  fi
  wait "${LANES[@]}"
  in_lanes lane_collect
  wait "${LANES[@]}"
  local took=$(($(now_ms) - started))
  demo_table || die "the demo failed: see the table above, and $WORK"
  say "${#FILES[@]} of ${#FILES[@]} digests are equal to our own sha256sum; $took ms in all"
  [ "$kill" = no ] || verdict_after_kill "$refused"
  demo_kafka
  demo_chain
  rm -rf "$WORK"
}

demo_files() { # DIR: what fits inline
  local file
  FILES=()
  while IFS= read -r -d '' file; do
    case "$file" in *[$'\t\n']*) warn "left out, for its name: ${file@Q}" && continue ;; esac
    FILES+=("$file")
  done < <(find "$1" -type f -size -"$((PAYLOAD_MAX + 1))"c -print0 | sort -z)
  local large
  large=$(find "$1" -type f -size +"$PAYLOAD_MAX"c | wc -l)
  [ "$large" = 0 ] || warn "$large files are over the $PAYLOAD_MAX bytes a job carries inline: left out"
  [ ${#FILES[@]} -gt 0 ] || die "no file to work on in $1"
  [ ${#FILES[@]} -le 5000 ] || die "${#FILES[@]} files in $1: the demo takes 5000 at most"
}

demo_nodes() {
  local dir
  APIS=()
  while read -r dir; do
    awake "$dir" && APIS+=("$(api_of "$dir")")
  done < <(members node)
  [ ${#APIS[@]} -gt 0 ] || die "no node runs. Start them: scripts/devnet.sh up"
  wait_until 20 -- all_ready
}

demo_workers() {
  local tries
  for ((tries = 0; tries < 50; tries++)); do
    workers_online 1 && return 0
    sleep 0.1
  done
  die "no worker is online, so no job would run. Start one: scripts/devnet.sh start wN, or down and up --workers M"
}

can_lose_a_node() {
  local all
  all=$(members node | wc -l)
  [ $((${#APIS[@]} - 1)) -gt $((all / 2)) ] \
    || die "${#APIS[@]} of $all nodes run: without the leader they are no majority, and nothing would go on"
}

# One lane per node; lane K takes every file with number = K modulo lanes.
in_lanes() {
  local lane
  LANES=()
  for lane in "${!APIS[@]}"; do
    "$1" "$lane" &
    LANES+=($!)
  done
}

# A node that may be tried; the choice moves on with every try.
api_for() { printf '%s' "${APIS[$((($1 + $2) % ${#APIS[@]}))]}"; }

lane_submit() {
  local i
  for ((i = $1; i < ${#FILES[@]}; i += ${#APIS[@]})); do
    {
      printf '{"type":"sha256","tags":["%s"],"payload":"' "$TAG"
      base64 -w0 "${FILES[i]}"
      printf '"}'
    } >"$WORK/$i.body"
    submit_one "$1" "$i" && printf '%s\n' "$i" >>"$WORK/acked"
  done
}

# field NAME FILE: a plain text field of a JSON answer. jq would do, a hundred times slower.
field() {
  local answer
  answer=$(<"$2") 2>/dev/null && [[ $answer =~ \"$1\":\ *\"([^\"]*)\" ]] && printf '%s' "${BASH_REMATCH[1]}"
}

# A try that got no answer may still have been taken: the key makes the repeat the same job.
submit_one() { # LANE NUMBER
  local try code
  for ((try = 0; $(now_ms) < DEADLINE; try++)); do
    code=$(curl -s --max-time 10 -o "$WORK/$2.ack" -w '%{http_code}' -H 'content-type: application/json' \
      -H "Idempotency-Key: $TAG-$2" --data-binary @"$WORK/$2.body" "$(api_for "$1" "$try")/jobs" 2>/dev/null)
    case "$code" in
      200 | 201) return 0 ;;
      000 | 429 | 5??) sleep 0.05 ;;
      *) return 1 ;;
    esac
  done
  return 1
}

lane_collect() {
  local i id
  for ((i = $1; i < ${#FILES[@]}; i += ${#APIS[@]})); do
    id=$(field id "$WORK/$i.ack") && collect_one "$1" "$i" "$id"
  done
}

collect_one() { # LANE NUMBER ID
  local try api
  for ((try = 0; $(now_ms) < DEADLINE; try++)); do
    api=$(api_for "$1" "$try")
    if curl -sf --max-time 15 -o "$WORK/$2.job" "$api/jobs/$3?wait=terminal&timeout_secs=10" 2>/dev/null; then
      case "$(field state "$WORK/$2.job")" in
        completed) curl -sf --max-time 10 -o "$WORK/$2.result" "$api/jobs/$3/result" && return 0 ;;
        failed | cancelled) return 1 ;;
      esac
    fi
    sleep 0.05
  done
  return 1
}

# The lines of the table: verdict, file, job, worker, price, attempt, milliseconds, digest.
demo_rows() {
  local i ours theirs verdict line
  local -a facts=() digests=()
  while IFS=$'\t' read -r i line; do facts[i]=$line; done < <(
    find "$WORK" -name '*.job' -exec jq -r '
      def ms: capture("T(?<h>..):(?<m>..):(?<s>..)\\.(?<f>...)") | ((.h | tonumber) * 60 + (.m | tonumber)) * 60000 + ((.s + .f) | tonumber);
      [(input_filename | capture("(?<i>[0-9]+)\\.job$").i), .id, (.worker_id // "-"), (.price // "-"), .attempt,
       (if .finished_at then ((.finished_at | ms) - (.submitted_at | ms) + 86400000) % 86400000 else "-" end)] | @tsv' {} +
  )
  while IFS= read -r -d '' line; do digests+=("${line%% *}"); done < <(sha256sum -z -- "${FILES[@]}")
  for i in "${!FILES[@]}"; do
    theirs=$(field output "$WORK/$i.result" | base64 -d 2>/dev/null)
    theirs=${theirs%% *} ours=${digests[i]} verdict=WRONG
    [ "$theirs" = "$ours" ] && verdict=ok
    line=${facts[i]:-$(field detail "$WORK/$i.ack")$'\t-\t-\t-\t-'}
    printf '%s\t%s\t%s\t%s\n' "$verdict" "${FILES[i]#"$ROOT"/}" "$line" "$theirs"
  done
}

demo_table() {
  demo_rows |
    awk -F '\t' -v good="$GREEN" -v bad="$RED" -v plain="$PLAIN" -v bold="$BOLD" '
      BEGIN {
        line = "%-40s %-36s %-10s %8s %8s %6s  %s\n"
        printf bold line plain, "file", "job", "worker", "price", "attempt", "ms", "digest"
      }
      {
        file = length($2) > 40 ? "..." substr($2, length($2) - 36) : $2
        worker = length($4) > 10 ? ".." substr($4, length($4) - 7) : $4
        mark = $1 == "ok" ? good : bad
        printf line, file, $3, worker, $5, $6, $7, mark ($8 == "" ? "none" : substr($8, 1, 16)) " " $1 plain
        if ($1 != "ok") wrong++
      }
      END { exit wrong > 0 }'
}

# ---------------------------------------------------------- killing the leader

# Once a third of the jobs is accepted: SIGKILL, then write elsewhere until a write is taken.
kill_in_mid_batch() {
  local killed_at try=0 api
  until third_acked; do
    lanes_run || third_acked || die "the submissions ended before a third was accepted: see $WORK"
    sleep 0.01
  done
  ACKED_BEFORE=$(wc -l <"$WORK/acked")
  kill_leader
  killed_at=$(now_ms)
  say "killed the leader, ${KILLED##*/}, after $ACKED_BEFORE of ${#FILES[@]} submissions were accepted"
  api=$(api_of "$KILLED")
  while :; do
    try=$((try + 1))
    [ "$(api_for 0 "$try")" = "$api" ] && continue
    probe_accepted "$(api_for 0 "$try")" && break
    [ $(($(now_ms) - killed_at)) -lt 30000 ] || stop_lanes "no write was accepted for 30 s after the leader was killed"
    sleep 0.01
  done
  REFUSED_MS=$(($(now_ms) - killed_at))
}

third_acked() { [ "$(wc -l <"$WORK/acked")" -ge $((${#FILES[@]} / 3)) ]; }

lanes_run() {
  local lane
  for lane in "${LANES[@]}"; do kill -0 "$lane" 2>/dev/null && return 0; done
  return 1
}

stop_lanes() { # MESSAGE
  kill "${LANES[@]}" 2>/dev/null
  die "$1"
}

# 200: an earlier probe was taken although its answer got lost.
probe_accepted() {
  local code
  code=$(curl -s --max-time 5 -o /dev/null -w '%{http_code}' -H 'content-type: application/json' \
    -H "Idempotency-Key: $TAG-probe" -d '{"type":"sha256","payload":"cHJvYmUK","tags":["probe"]}' "$1/jobs" 2>/dev/null)
  [[ $code = 20[01] ]]
}

verdict_after_kill() { # REFUSED_MS
  local api moved
  step "starting ${KILLED##*/} again, then asking every node"
  launch_member "$KILLED"
  wait_until 30 "$KILLED" -- node_ready "$KILLED"
  local i
  for i in "${!FILES[@]}"; do field id "$WORK/$i.ack" && echo; done | sort >"$WORK/ids"
  [ "$(sort -u "$WORK/ids" | wc -l)" = ${#FILES[@]} ] || die "two submissions were answered with the same job"
  for api in "${APIS[@]}"; do
    ids_on "$api" | sort >"$WORK/ids.there"
    cmp -s "$WORK/ids" "$WORK/ids.there" || die "$api holds other jobs than were accepted: compare $WORK/ids and ids.there"
    ended_once "$api" || die "$api shows a job that did not end exactly once"
  done
  moved=$(jq -s 'map(select(.attempt > 1)) | length' "$WORK"/*.job)
  say "writes were refused for $1 ms; each of ${#FILES[@]} jobs is on all ${#APIS[@]} nodes and ended exactly once; $moved ran a second attempt"
}

# Every job with our tag, all pages.
ids_on() {
  local cursor='' page
  while :; do
    page=$(curl -sf --max-time 10 "$1/jobs?state=all&tag=$TAG&limit=1000&consistency=linearizable${cursor:+&cursor=$cursor}") || return 1
    jq -r '.jobs[].id' <<<"$page"
    cursor=$(jq -r '.next_cursor // empty' <<<"$page")
    [ -n "$cursor" ] || return 0
  done
}

# ended_once API: one final transition in the history of each of our jobs.
ended_once() {
  local id
  while read -r id; do
    curl -sf --max-time 10 "$1/jobs/$id/events" || return 1
  done <"$WORK/ids" |
    jq -es --slurpfile jobs <(jq -R . "$WORK/ids") '
      def ends: [.events[] | select(.state == "completed" or .state == "failed" or .state == "cancelled")] | length;
      length == ($jobs | length) and all(ends == 1)' >/dev/null
}

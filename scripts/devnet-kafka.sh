# shellcheck shell=bash
# Kafka beside the development network, and its part of the demo. Part of devnet.sh.
#
# embedded: `ciro-coordinator dev-broker`, a mock that keeps at most 5 MiB per
# partition and nothing after it ends. apache: a real broker, by scripts/kafka.sh.
# Both lie in the run directory, and end with the network.

KAFKA_JOBS=20         # of the demo's files, so many go through Kafka as well
KAFKA_SECS=60         # until their results must have arrived

kafka_kind() { cat "$RUN/kafka.kind" 2>/dev/null || printf none; }
kafka_bootstrap() { cat "$RUN/kafka.bootstrap" 2>/dev/null; }

# start_kafka KIND: before the nodes, so that they find it.
start_kafka() {
  local dir=$RUN/kafka bootstrap
  printf '%s\n' "$1" >"$RUN/kafka.kind"
  case "$1" in
    none) return 0 ;;
    embedded)
      mkdir -p "$dir"
      launch "$dir" "$(bin ciro-coordinator)" dev-broker --address-file "$dir/address"
      wait_until "$READY_SECS" "$dir" -- test -s "$dir/address"
      bootstrap=$(cat "$dir/address")
      ;;
    apache)
      bootstrap=$("$ROOT/scripts/kafka.sh" start --dir "$dir" 9>&-) || die 'Apache Kafka did not start, see above'
      ;;
  esac
  printf '%s\n' "$bootstrap" >"$RUN/kafka.bootstrap"
  say "kafka: $1 at $bootstrap"
}

stop_kafka() {
  case "$(kafka_kind)" in
    apache) "$ROOT/scripts/kafka.sh" stop --dir "$RUN/kafka" 9>&- >/dev/null ;;
    embedded) stop_process "$RUN/kafka/pid" 10 ;;
  esac
}

# What a node is told of it: variables, one a line.
kafka_settings() {
  local delivery=at_least_once mode=embedded
  case "$(kafka_kind)" in
    none) printf 'CIRO__KAFKA__ENABLED=false\n'; return 0 ;;
    apache) delivery=exactly_once mode=external ;;
  esac
  printf 'CIRO__KAFKA__%s\n' ENABLED=true BOOTSTRAP_SERVERS="$(kafka_bootstrap)" MODE="$mode" DELIVERY="$delivery" CREATE_TOPICS=true
}

# After it was killed by hand. The embedded one would come back elsewhere, as another cluster.
restart_kafka() {
  running "$RUN/kafka" && die "the broker runs already"
  [ "$(kafka_kind)" = apache ] || die "the embedded broker can not come back: it kept nothing, not even its port. Start a fresh network: down, then up"
  "$ROOT/scripts/kafka.sh" start --dir "$RUN/kafka" 9>&-
}

kafka_json() {
  jq -nc --arg kind "$(kafka_kind)" --arg bootstrap "$(kafka_bootstrap)" --arg state "$(state_of "$RUN/kafka")" \
    --argjson pid "$(pid_of "$RUN/kafka/pid" || printf null)" \
    'if $kind == "none" then null else {kind: $kind, bootstrap: $bootstrap, state: $state, pid: $pid} end'
}

# ---------------------------------------------------------------------- demo

# Sends some of the files through Kafka with the command line, and waits for what comes back on ciro.results.
demo_kafka() {
  [ "$(kafka_kind)" != none ] || return 0
  running "$RUN/kafka" || { warn "the Kafka broker does not run: the demo goes on without it"; return 0; }
  local i started deadline count=0
  local -a chosen=()
  for ((i = 0; i < ${#FILES[@]} && count < KAFKA_JOBS; i += (${#FILES[@]} + KAFKA_JOBS - 1) / KAFKA_JOBS)); do
    chosen+=("$i")
    count=$((count + 1))
  done
  step "demo: $count of them once more, through Kafka ($(kafka_kind), $(kafka_bootstrap))"
  for i in "${chosen[@]}"; do
    printf '{"type":"sha256","tags":["%s-kafka","file-%s"],"payload":"%s"}\n' "$TAG" "$i" "$(base64 -w0 "${FILES[i]}")"
  done >"$WORK/kafka.jobs"
  started=$(now_ms)
  deadline=$((started + KAFKA_SECS * 1000))
  "$(bin ciro-coordinator)" kafka produce --bootstrap "$(kafka_bootstrap)" --lines "$WORK/kafka.jobs" >"$WORK/kafka.sent" \
    || die "kafka produce failed, see above"
  until [ "$(kafka_results)" = "$count" ]; do
    [ "$(now_ms)" -lt "$deadline" ] \
      || die "of $count jobs sent through Kafka $(wc -l <"$WORK/kafka.results") came back within $KAFKA_SECS s: compare $WORK/kafka.jobs and kafka.results"
  done
  kafka_table "${chosen[@]}" || die "the demo failed: see the table above, and $WORK"
  say "$count of $count results arrived on ciro.results, each with the digest of our own sha256sum; $(($(now_ms) - started)) ms in all"
}

# Reads ciro.results from its beginning, keeps ours, each once, and prints how many.
kafka_results() {
  "$(bin ciro-coordinator)" --json kafka tail --bootstrap "$(kafka_bootstrap)" --from beginning --timeout 3 2>>"$WORK/kafka.log" |
    jq -c --arg tag "$TAG-kafka" 'select(.value.tags[0]? == $tag)' |
    jq -sc 'unique_by(.headers.ce_id) | .[]' >"$WORK/kafka.results"
  wc -l <"$WORK/kafka.results"
}

# kafka_table NUMBER...: one row for each file; false if a digest is not ours, or a result came twice.
kafka_table() {
  local i ours theirs where job verdict wrong=0
  printf '%s%-40s %-36s %-26s %s%s\n' "$BOLD" file job 'arrived at' digest "$PLAIN"
  for i in "$@"; do
    ours=$(sha256sum <"${FILES[i]}")
    IFS=$'\t' read -r job where theirs < <(jq -r --arg tag "file-$i" 'select(.value.tags[1] == $tag)
      | [.value.job_id, "\(.topic)/\(.partition)@\(.offset)", (.value.outcome.output // "" | @base64d | .[:64])] | @tsv' "$WORK/kafka.results")
    verdict=ok
    [ "$theirs" = "${ours%% *}" ] || { verdict=WRONG; wrong=1; }
    printf '%-40s %-36s %-26s %s %s\n' "${FILES[i]#"$ROOT"/}" "$job" "$where" "${theirs:0:16}" "$verdict"
  done
  return "$wrong"
}

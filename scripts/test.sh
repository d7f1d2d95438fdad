#!/usr/bin/env bash
# Everything that must hold before a change lands. Installs what it needs.
#
#   scripts/test.sh             all of it; the log is run/test.log
#   scripts/test.sh STEP...     only these (the names are printed by --list)
#
# A step that fails does not stop the others. The last line counts both the
# steps and the tests in them. What could not be checked here (the advisory
# database needs the network) is said in the summary, not passed over.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT" || exit 1

STEPS=(format scripts clippy features tests broker docs dependencies advisories fuzz contracts)
LOG=$ROOT/run/test.log
TOOLS=$(cache_dir)/tools
DENY_VERSION=0.20.2
SCHEMATHESIS_VERSION=4.32.5
FUZZ_SECS=100

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto} CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

# ----------------------------------------------------------------- the steps

step_format() {
  need_component rustfmt cargo-fmt || return
  cargo fmt --check
}

step_scripts() {
  command -v shellcheck >/dev/null 2>&1 || apt_install shellcheck || skip 'shellcheck could not be installed' || return
  shellcheck -x -P SCRIPTDIR -S warning scripts/*.sh contracts/*.sh .ci/run
}

# Other versions know other lints: a finding is read together with the version that made it.
step_clippy() {
  need_component clippy cargo-clippy || return
  rustc --version && cargo clippy --version
  cargo clippy --locked --all-targets -- -D warnings
}

# The default features by name, and none at all. With a test among the targets, libraries get the features that tests
# want of them: so nearly all of them are checked already.
step_features() {
  local -a targets=(--lib --bins --test tidy)
  cargo check --locked "${targets[@]}" --features "metrics,prometheus" &&
    cargo check --locked "${targets[@]}" --no-default-features
}

# The stories about Kafka and the chain start a real broker and a real node: they are fetched here, where one sees it.
step_tests() { scripts/kafka.sh fetch && need_node && contracts/python.sh --version && cargo test --locked --no-fail-fast; }

# What of transactions the library alone must hold, asked of a real broker.
step_broker() {
  local address dir=$ROOT/run/test-kafka status=0
  rm -rf "$dir"
  address=$(scripts/kafka.sh start --dir "$dir" --for $$) || return
  CIRO_TEST_KAFKA=$address some_tests --lib publish::tests::exactly -- --ignored || status=1
  scripts/kafka.sh stop --dir "$dir"
  return "$status"
}

step_docs() { RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items; }

# Crates of features that are not built here are looked at as well.
step_dependencies() {
  install_deny && cargo fetch --locked && deny check --hide-inclusion-graph licenses bans sources
}

# Needs the RustSec database. Without it there is no verdict, which is not a failure of ours.
step_advisories() {
  install_deny || return
  if ! timeout 120 "$TOOLS/bin/cargo-deny" fetch db; then
    skip 'the RustSec advisory database could not be fetched: NO ADVISORY WAS CHECKED'
    return
  fi
  deny check --disable-fetch --hide-inclusion-graph advisories
}

# A schema-driven fuzzer reads /openapi.json of a live node and tries to break what it promises.
step_fuzz() {
  install_schemathesis || return
  local status=0
  export CIRO_DEVNET_DIR=$ROOT/run/fuzz CIRO_BIN_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/debug
  cargo test --locked --no-run || return # the programs as the tests have them
  scripts/devnet.sh down # what an interrupted run left up is an older build
  # With lease reads, so that nothing the schema allows is off.
  RUST_LOG=warn CIRO__API__LEASE_READS=true scripts/devnet.sh up 1 --workers 1 || return
  fuzz_node || status=1
  scripts/devnet.sh status || status=1
  still_serves || status=1
  if ! scripts/devnet.sh status --json | jq -e '.nodes[0].pid' >/dev/null; then
    say 'the node died under the fuzzer:'
    scripts/devnet.sh logs 1
    status=1
  fi
  scripts/devnet.sh down
  return "$status"
}

# What is committed is what the sources give, and does what it should on a real node.
step_contracts() { contracts/build.sh --check && need_node && contracts/test.sh && chain_stories; }

# Those of the client and of the duty that settles: each starts a node.
chain_stories() {
  local node
  node=$(compgen -G "$(cache_dir)/starknet-devnet-*/bin/starknet-devnet" | tail -n 1)
  CIRO_TEST_DEVNET=$node some_tests --lib -- --ignored chain::client::tests settle::tests
}

# Runs tests, of which there must be some: for cargo a filter that matches nothing is a success.
some_tests() {
  local out=$LOG.some status=0
  cargo test --locked "$@" 2>&1 | tee "$out" || status=1
  grep -q '^test result: ok\. [1-9]' "$out" || { say "no test was run by cargo test $*"; status=1; }
  rm -f "$out"
  return "$status"
}

fuzzed_api() { scripts/devnet.sh status --json | jq -r '.nodes[0].api'; }

# Alive is not enough: after all that the node must be ready and take a job.
still_serves() {
  local api code
  api=$(fuzzed_api)
  curl -sf --max-time 10 -o /dev/null "$api/health/ready" || { say 'the node is not ready after the fuzzer'; return 1; }
  code=$(curl -s --max-time 10 -o /dev/null -w '%{http_code}' -H 'content-type: application/json' \
    -d '{"type": "sha256", "payload": "aGVsbG8K"}' "$api/jobs")
  [ "$code" = 201 ] || { say "after the fuzzer a job was answered with $code, not 201"; return 1; }
}

# /events never ends by design, so it can not be asked and waited for.
fuzz_node() {
  local api
  api=$(fuzzed_api)
  timeout $((FUZZ_SECS + 140)) "$(cache_dir)/schemathesis-$SCHEMATHESIS_VERSION/bin/schemathesis" \
    --config-file scripts/schemathesis.toml run "$api/openapi.json" \
    --url "$api" --max-time "$FUZZ_SECS" --max-examples 40 --phases examples,coverage,fuzzing,stateful \
    --exclude-path /events --request-timeout 75 --max-failures 40 --no-shrink --seed "${CIRO_TEST_SEED:-$RANDOM}"
}

# ------------------------------------------------------------- what they need

# need_component NAME PROGRAM: rustup's minimal profile comes without them.
need_component() {
  cargo "${2#cargo-}" --version >/dev/null 2>&1 && return
  command -v rustup >/dev/null 2>&1 || { say "$2 is missing: install $1 the way Rust was installed"; return 1; }
  say "installing $1"
  rustup component add "$1"
}

deny() { "$TOOLS/bin/cargo-deny" --offline "$@"; }

install_deny() {
  [ "$("$TOOLS/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $DENY_VERSION" ] && return
  say "installing cargo-deny $DENY_VERSION into $TOOLS (a few minutes, once)"
  # In the dev profile: it runs for a second, and builds three times as fast.
  env -u CARGO_TARGET_DIR cargo install cargo-deny --version "$DENY_VERSION" --locked --debug --force --root "$TOOLS"
}

install_schemathesis() {
  local home
  home=$(cache_dir)/schemathesis-$SCHEMATHESIS_VERSION
  [ -x "$home/bin/schemathesis" ] && return
  need_tools python3
  say "installing schemathesis $SCHEMATHESIS_VERSION into $home"
  rm -rf "$home"
  python3 -m venv "$home" 2>/dev/null || { apt_install python3-venv && rm -rf "$home" && python3 -m venv "$home"; } || return
  "$home/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS_VERSION" || { rm -rf "$home"; return 1; }
}

# A Starknet node takes 40 minutes of CPU time to build, once a machine. It is
# begun with the first step and gets the time that the steps leave over.
build_node_meanwhile() {
  case " $* " in *' contracts '* | *' tests '*) ;; *) return 0 ;; esac
  scripts/starknet.sh fetch --gently >"$LOG.node" 2>&1 </dev/null &
  # shellcheck disable=SC2064 # this very process
  trap "kill $! 2>/dev/null" EXIT
}

# Waits for that build, and says how far it is; if it failed, this is the second try.
need_node() { scripts/starknet.sh fetch; }

# ------------------------------------------------------------------ the count

PASSED=0 FAILED=0
SKIPPED=() SUMMARY=()

# Ends a step without a verdict. Steps run in a subshell: the reason goes by a file.
skip() {
  printf '%s\n' "$*" >"$LOG.skip"
  return 1
}

run_step() {
  local name=$1 start=$SECONDS status=0 took out=$LOG.$1
  step "$name"
  rm -f "$LOG.skip"
  "step_$name" 2>&1 | tee "$out" || status=$?
  cat "$out" >>"$LOG"
  took=$((SECONDS - start))
  if [ -e "$LOG.skip" ]; then
    SKIPPED+=("$name: $(cat "$LOG.skip")")
    SUMMARY+=("$(printf '%sskipped%s %-13s %4d s' "$YELLOW" "$PLAIN" "$name" "$took")")
  elif [ "$status" = 0 ]; then
    PASSED=$((PASSED + 1))
    SUMMARY+=("$(printf '%sok%s      %-13s %4d s' "$GREEN" "$PLAIN" "$name" "$took")")
  else
    FAILED=$((FAILED + 1))
    SUMMARY+=("$(printf '%sFAILED%s  %-13s %4d s' "$RED" "$PLAIN" "$name" "$took")")
    warn "$name failed"
  fi
  count_tests "$out"
  rm -f "$out" "$LOG.skip"
}

# Adds what cargo's test runners counted.
count_tests() {
  local passed failed
  read -r passed failed < <(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$1" |
    awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }')
  PASSED=$((PASSED + passed))
  FAILED=$((FAILED + failed))
}

main() {
  local name
  local -a chosen=("$@")
  case "${1:-}" in
    --list) say "${STEPS[*]}" && exit 0 ;;
    -h | --help | help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
  esac
  [ ${#chosen[@]} -gt 0 ] || chosen=("${STEPS[@]}")
  for name in "${chosen[@]}"; do
    case " ${STEPS[*]} " in *" $name "*) ;; *) die "no step $name; there are: ${STEPS[*]}" ;; esac
  done
  mkdir -p "$ROOT/run"
  : >"$LOG"
  need_build_tools
  need_tools curl jq awk:mawk setsid:util-linux strace
  build_node_meanwhile "${chosen[@]}"
  for name in "${chosen[@]}"; do run_step "$name"; done
  say ''
  printf '%s\n' "${SUMMARY[@]}"
  for name in "${SKIPPED[@]}"; do warn "$name"; done
  [ "$FAILED" = 0 ] || say "the whole log: $LOG"
  say "$PASSED passed, $FAILED failed"
  [ "$FAILED" = 0 ]
}

main "$@"

#!/usr/bin/env bash
# Compiles the contracts into contracts/artifacts/.
#
#   contracts/build.sh           rebuild what is committed there
#   contracts/build.sh --check   rebuild elsewhere and compare byte for byte
#
# Each contract gives NAME.sierra.json, which is declared on chain, and
# NAME.casm.json, which the network makes of it again. classes.json has their
# hashes; the compiled one is the Blake2s hash that Starknet wants since 0.14.1.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

# Paths are seen from contracts/. The last two are for tests.
build_all() { # INTO
  build "$1" job_manager . --contract-path ciro_contracts::job_manager::JobManager \
    && build "$1" token . --contract-path ciro_contracts::token::Token \
    && build "$1" job_manager_v1 tests/job_manager_v1.cairo --single-file \
    && build "$1" hostile_token tests/hostile_token.cairo --single-file
}

build() { # INTO NAME PATH OPTIONS...
  local raw=$WORK/raw/$2 bin into=$1 name=$2 path=$3
  shift 3
  bin=$(compiler_home)/bin
  mkdir -p "$WORK/raw" "$into"
  say "compiling $name"
  (cd "$CONTRACTS" && "$bin/starknet-compile" "$path" "$raw.sierra.json" "$@") \
    && "$bin/starknet-sierra-compile" "$raw.sierra.json" "$raw.casm.json" \
    && python "$CONTRACTS/pack.py" "$raw" "$into/$name"
}

compare() { # OURS THEIRS
  diff -qr "$1" "$2" | grep -v '\.gitattributes$'
  [ "${PIPESTATUS[0]}" -le 1 ] || return 1
  local file
  for file in "$1"/*.json "$2"/*.json; do
    cmp -s "$1/$(basename "$file")" "$2/$(basename "$file")" || return 1
  done
}

main() {
  local artifacts=$CONTRACTS/artifacts
  case "${1:-}" in
    '' | --check) ;;
    *) die "contracts/build.sh knows only --check" ;;
  esac
  need_python
  need_compiler
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  build_all "$WORK/artifacts" || die "could not build the contracts, see above"
  if [ "${1:-}" = --check ]; then
    compare "$WORK/artifacts" "$artifacts" || die "contracts/artifacts/ is not what the sources give: run contracts/build.sh and commit it"
    say "contracts/artifacts/ is what the sources give"
  else
    cp "$WORK/artifacts"/*.json "$artifacts/"
    say "wrote $artifacts"
  fi
}

main "$@"

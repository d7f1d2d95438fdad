#!/usr/bin/env bash
# The contracts' behaviour, call by call, on a real node.
#
#   contracts/test.sh [PART-OF-A-NAME]...    all stories, or those with a name like that
#   contracts/test.sh --costs                what calls cost, the table of README.md
#
# Starts a starknet-devnet of its own and stops it; with CIRO_STARKNET_URL set
# it uses that one, which must have been started with --seed 0 and ten accounts.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

main() {
  local dir status=0
  need_python
  if [ -z "${CIRO_STARKNET_URL:-}" ]; then
    dir=$(mktemp -d) || die "cannot make a folder"
    CIRO_STARKNET_URL=$("$ROOT/scripts/starknet.sh" start --dir "$dir/node" --for $$ --lite-mode) || die "the node did not start, see above"
  fi
  export CIRO_STARKNET_URL
  python -u "$CONTRACTS/tests/run.py" "$@" || status=1
  [ -z "${dir:-}" ] || { "$ROOT/scripts/starknet.sh" stop --dir "$dir/node" >/dev/null; rm -rf "$dir"; }
  return "$status"
}

main "$@"

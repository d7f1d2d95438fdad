#!/usr/bin/env bash
# Python with starknet.py, installed into the user's cache folder on first use:
#
#   contracts/python.sh contracts/tests/read_jobs.py --help
set -uo pipefail
. "$(dirname "$0")/lib.sh"

need_python
exec "$(python_home)/bin/python" "$@"

# shellcheck shell=bash
# A Starknet node beside the development network, and its part of the demo. Part of devnet.sh.
#
# The node is starknet-devnet, by scripts/starknet.sh; it keeps its chain in the
# run directory, so that it may be killed and started again. A token and our Job
# Manager are deployed there by an account that the node made, whose key goes
# into a keystore. The chain ends with the network.

CHAIN_SECS=120                            # until all jobs of the demo must be settled
CHAIN_ROWS=20                             # of them, so many are shown; all are checked
WORKER_PRICE=1000000000000000000          # asked by worker 1; each further one asks a tenth more
DEFAULT_MAX_PRICE=5000000000000000000     # goes into escrow for a job that does not say
CHAIN_FEE_BPS=250                         # of what is paid out, in hundredths of a percent

has_chain() { [ -e "$RUN/chain.json" ]; }
chain_part() { jq -r ".$1 // empty" "$RUN/chain.json"; }

chain_rpc() { # METHOD PARAMS: the result, as JSON
  curl -sf --max-time 20 -H 'content-type: application/json' \
    -d "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\",\"params\":$2}" "$CHAIN_URL" | jq -ec '.result'
}

# Before the nodes, so that they find it.
start_chain() {
  step "a Starknet node, with our contract on it"
  CHAIN_URL=$("$ROOT/scripts/starknet.sh" start --dir "$RUN/chain" --dump 9>&-) || die 'starknet-devnet did not start, see above'
  local accounts
  accounts=$(chain_rpc devnet_getPredeployedAccounts '{}') || die "$CHAIN_URL names no accounts"
  CHAIN_ACCOUNT=$(jq -r '.[0].address' <<<"$accounts")
  chain_keystore "$(jq -r '.[0].private_key' <<<"$accounts")" || exit 1
  "$(bin ciro-coordinator)" --json blockchain deploy --rpc-url "$CHAIN_URL" --account "$CHAIN_ACCOUNT" \
    --keystore "$RUN/chain.keystore" --password-file "$RUN/chain.password" --min-payment "$WORKER_PRICE" \
    --fee-bps "$CHAIN_FEE_BPS" --fee-recipient "$(jq -r '.[1].address' <<<"$accounts")" \
    >"$RUN/chain.deployed" 2>>"$RUN/setup.log" \
    || { tail_of_log "$RUN/setup.log"; die 'the contract could not be deployed, see above'; }
  jq -c --arg url "$CHAIN_URL" '{rpc_url: $url, chain_id, contract: .job_manager_address, token: .token_address,
    account: .account_address, block: .follow_from_block}' "$RUN/chain.deployed" >"$RUN/chain.json" \
    || die "what was deployed is not understood: see $RUN/chain.deployed"
  say "chain: $(chain_part chain_id) at $CHAIN_URL, Job Manager $(chain_part contract), token $(chain_part token)"
}

# The key of a development account is no secret; it is kept like one all the same.
chain_keystore() ( # KEY
  umask 077
  od -An -tx1 -N24 /dev/urandom | tr -d ' \n' >"$RUN/chain.password" && printf '%s\n' "$1" >"$RUN/chain.key" || die "cannot write to $RUN"
  "$(bin ciro-coordinator)" blockchain account import --key-file "$RUN/chain.key" --account "$CHAIN_ACCOUNT" \
    --keystore "$RUN/chain.keystore" --password-file "$RUN/chain.password" >>"$RUN/setup.log" 2>&1 \
    || { tail_of_log "$RUN/setup.log"; die 'no keystore could be made, see above'; }
  rm "$RUN/chain.key"
)

stop_chain() { [ ! -e "$RUN/chain/pid" ] || "$ROOT/scripts/starknet.sh" stop --dir "$RUN/chain" 9>&- >/dev/null; }

# What a node is told of it: variables, one a line.
chain_settings() {
  has_chain || { printf 'CIRO__BLOCKCHAIN__ENABLED=false\n'; return 0; }
  printf 'CIRO__BLOCKCHAIN__%s\n' ENABLED=true RPC_URL="$(chain_part rpc_url)" CHAIN_ID="$(chain_part chain_id)" \
    JOB_MANAGER_ADDRESS="$(chain_part contract)" ACCOUNT_ADDRESS="$(chain_part account)" FOLLOW_FROM_BLOCK="$(chain_part block)" \
    KEYSTORE="$RUN/chain.keystore" KEYSTORE_PASSWORD_FILE="$RUN/chain.password" \
    DEFAULT_MAX_PRICE="$DEFAULT_MAX_PRICE" SETTLEMENT=settle_later
}

# What worker N is told: what it asks, and where it is paid. Nobody has the key to these; a balance needs none.
chain_worker_settings() { # N
  has_chain || return 0
  printf 'CIRO_WORKER__WORKER__PAYOUT_ADDRESS=0x7061796f7574%046x\n' "$1"
  printf 'CIRO_WORKER__PRICE__DEFAULT=%s\n' $((WORKER_PRICE + ($1 - 1) * WORKER_PRICE / 10))
}

# After it was killed by hand: the same chain, at the same address.
restart_chain() {
  has_chain || die "the network has no chain. Start a fresh one: down, then up --chain"
  running "$RUN/chain" && die "the chain runs already"
  "$ROOT/scripts/starknet.sh" start --dir "$RUN/chain" 9>&-
}

chain_json() {
  has_chain || { printf null; return; }
  jq -c --arg state "$(state_of "$RUN/chain")" --argjson pid "$(pid_of "$RUN/chain/pid" || printf null)" \
    '{rpc_url, contract, token, chain_id, account, state: $state, pid: $pid}' "$RUN/chain.json"
}

what_next_chain() {
  has_chain || return 0
  say "  what the chain has of a job $(bin ciro-coordinator) --node $1 blockchain job ID"
  say "  connection, account, fees   $(bin ciro-coordinator) --node $1 blockchain status"
}

# ---------------------------------------------------------------------- demo

# Waits until every job is settled, reads all of them back from the chain with starknet.py, and checks them.
demo_chain() {
  has_chain || return 0
  running "$RUN/chain" || { warn 'the Starknet node does not run: the demo goes on without it'; return 0; }
  local started i deadline
  started=$(now_ms)
  deadline=$((started + CHAIN_SECS * 1000))
  step "demo: ${#FILES[@]} jobs on chain"
  for i in "${!FILES[@]}"; do field id "$WORK/$i.ack" && echo; done | jq -R . | jq -s . >"$WORK/chain.ids"
  until settled_on "${APIS[0]}"; do
    [ "$(now_ms)" -lt "$deadline" ] || die "not all jobs were settled within $CHAIN_SECS s: see $(bin ciro-coordinator) --node ${APIS[0]} blockchain status"
    sleep 0.3
  done
  say "settled $(($(now_ms) - started)) ms after the last result; reading it back from $(chain_part rpc_url)"
  "$ROOT/contracts/python.sh" "$ROOT/contracts/tests/read_jobs.py" "$(chain_part rpc_url)" "$(chain_part contract)" "$WORK/chain.ids" \
    >"$WORK/chain.read" || die 'the chain could not be read, see above'
  chain_rows >"$WORK/chain.rows" || die "what the chain says is not understood: see $WORK/chain.read"
  chain_table || die "the demo failed: see the table above, $WORK/chain.rows and chain.read"
}

# settled_on API: no job of the demo is on its way.
settled_on() {
  local cursor='' page
  while :; do
    page=$(curl -sf --max-time 10 "$1/jobs?state=all&tag=$TAG&limit=1000${cursor:+&cursor=$cursor}") || return 1
    jq -e '[.jobs[] | select(.settlement.state != "settled")] | length == 0' <<<"$page" >/dev/null || return 1
    jq -c '.jobs[] | {key: .id, value: (.price // "0")}' <<<"$page"
    cursor=$(jq -r '.next_cursor // empty' <<<"$page")
    [ -n "$cursor" ] || break
  done >"$WORK/chain.prices"
}

# The lines of the table: verdict, job, transactions, paid. `ok`: each happened once, and what was agreed was paid.
chain_rows() {
  jq -r --slurpfile prices "$WORK/chain.prices" '
    ($prices | from_entries) as $price | .jobs | to_entries[] | .key as $id | .value as $job |
    def of($name): [$job.events[] | select(.name == $name)];
    (of("JobSubmitted") | length) as $registered | (of("JobCompleted") | length) as $completed |
    (if $registered == 1 and $completed == 1 and (of("JobAssigned") | length) > 0 and (of("PaymentReleased") | length) == 1
        and $job.details.state == "Completed" and $job.paid == $price[$id] then "ok" else "WRONG" end) as $verdict |
    [$verdict, $id, (of("JobSubmitted")[0].transaction // "none"), (of("JobAssigned")[-1].transaction // "none"),
     (of("JobCompleted")[0].transaction // "none"), ($job.paid // "nothing")] | @tsv' "$WORK/chain.read"
}

chain_table() {
  awk -F '\t' -v rows="$CHAIN_ROWS" -v good="$GREEN" -v bad="$RED" -v plain="$PLAIN" -v bold="$BOLD" '
    function short(hash) { return length(hash) > 14 ? substr(hash, 1, 14) ".." : hash }
    BEGIN { line = "%-36s %-17s %-17s %-17s %s\n"; printf bold line plain, "job", "registered tx", "assigned tx", "completed tx", "paid" }
    $1 != "ok" { wrong++ }
    $1 != "ok" || ++shown <= rows { printf line, $2, short($3), short($4), short($5), $6 " " ($1 == "ok" ? good : bad) $1 plain }
    { for (i = 3; i <= 5; i++) if (!($i in seen)) { seen[$i]; transactions++ } }
    END {
      if (shown > rows) printf "and %d more\n", shown - rows
      printf "%d of %d jobs were registered, assigned, completed and paid what was agreed, once each, in %d transactions\n", NR - wrong, NR, transactions
      exit wrong > 0 || NR == 0
    }' "$WORK/chain.rows"
}

#!/usr/bin/env bash
# A real Apache Kafka on this machine: one node in KRaft mode, without Docker.
#
# Run `scripts/kafka.sh help` for what it can do. The jars come from Maven Central,
# once, into the cache; everything a broker makes lies in its run directory. It
# signals only a process it started itself, remembered by pid and start time.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

RUN=${CIRO_KAFKA_DIR:-$ROOT/run/kafka}
POM=$ROOT/scripts/kafka/pom.xml
VERSION=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$POM")
HOME_DIR=$(cache_dir)/kafka-$VERSION
READY_SECS=120
STOP_SECS=30
JAVA_FLAGS=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true
  -Dlog4j2.configurationFile="$ROOT/scripts/kafka/log4j2.properties")

usage() {
  cat <<TEXT
scripts/kafka.sh — one Apache Kafka $VERSION on this machine

  scripts/kafka.sh start [--port N] [--sasl USER:PASSWORD] [--for PID]
                                                  start it and print its address; data from before is kept
  scripts/kafka.sh stop                           stop it in good order; its data stay
  scripts/kafka.sh status [--json]                whether it runs, where, and its cluster id
  scripts/kafka.sh tool CLASS ARGUMENTS...        a tool of Kafka's own against it, e.g. TopicCommand --list
  scripts/kafka.sh fetch                          only install Java and Maven and fetch the jars

options
  --dir DIR     the run directory     now: $RUN
  --port N      the port on 127.0.0.1; without it a free one, and the same one at the next start
  --sasl U:P    beside it a listener that takes this name and password (SASL_PLAINTEXT, PLAIN), on the port in
                DIR/sasl-port; only when the broker is made
  --for PID     stop it, and remove the run directory, when process PID ends: for tests

Another cluster at the same address is another --dir with the same --port.
TEXT
}

# ------------------------------------------------------------------ installing

need_java() {
  need_tools java:openjdk-17-jre-headless setsid:util-linux flock:util-linux awk:mawk
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${major:-0}" -ge 17 ] || die "java is version ${major:-unknown}, Kafka $VERSION needs 17: apt-get install openjdk-17-jre-headless"
}

# The jars, whole or not at all: fetched beside their place, then moved.
fetch() {
  need_java
  [ -d "$HOME_DIR/lib" ] && return 0
  mkdir -p "$(cache_dir)" || die "cannot write to $(cache_dir)"
  exec 8>"$HOME_DIR.lock"
  flock 8 # somebody else may be fetching
  [ -d "$HOME_DIR/lib" ] && { exec 8>&-; return 0; }
  need_tools mvn:maven
  step "fetching Apache Kafka $VERSION with Maven into $HOME_DIR (about 55 MB, once)"
  local part=$HOME_DIR.part
  rm -rf "$part"
  mkdir -p "$part"
  # A file of its own: Maven would not write beside the POM, and must not.
  mvn -B -q -f "$POM" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$part/lib" >"$part/maven.log" 2>&1 8>&- &
  watch_fetch $! "$part" || { tail_of_log "$part/maven.log" 30; die "Maven could not fetch Apache Kafka $VERSION, see above"; }
  compgen -G "$part/lib/kafka_*.jar" >/dev/null || die "Maven fetched no kafka jar: see $part/maven.log"
  mkdir -p "$HOME_DIR"
  mv "$part/lib" "$HOME_DIR/lib" || die "cannot write to $HOME_DIR"
  rm -rf "$part"
  exec 8>&-
  say "fetched $(find "$HOME_DIR/lib" -name '*.jar' | wc -l) jars"
}

# Says every 15 s that it goes on: a silent minute looks like a hang.
watch_fetch() {
  local began=$SECONDS ticks=0
  while kill -0 "$1" 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    [ $((ticks % 15)) != 0 ] || say "still fetching after $((SECONDS - began)) s"
  done
  wait "$1"
}

# -------------------------------------------------------------------- the node

running() { pid_of "$RUN/pid" >/dev/null; }
bootstrap() { printf '127.0.0.1:%s' "$(cat "$RUN/port")"; }
cluster_id() { sed -n 's/^cluster.id=//p' "$RUN/data/meta.properties" 2>/dev/null; }

write_properties() { # PORT CONTROLLER_PORT SASL_PORT SASL_LOGIN
  local listener='' protocol=''
  if [ -n "$3" ]; then
    listener=",SASL://127.0.0.1:$3"
    protocol=",SASL:SASL_PLAINTEXT"
  fi
  cat >"$RUN/server.properties" <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$2
listeners=PLAINTEXT://127.0.0.1:$1$listener,CONTROLLER://127.0.0.1:$2
advertised.listeners=PLAINTEXT://127.0.0.1:$1$listener
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$protocol
log.dirs=$RUN/data
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576
TEXT
  [ -z "$3" ] || write_login "$4"
}

write_login() { # USER:PASSWORD
  local user=${1%%:*} password=${1#*:} module=org.apache.kafka.common.security.plain.PlainLoginModule
  chmod 600 "$RUN/server.properties"
  cat >>"$RUN/server.properties" <<TEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=$module required user_$user="$password";
TEXT
}

kafka_java() { # HEAP ARGUMENTS...
  local heap=$1
  shift
  java "-Xmx$heap" "${JAVA_FLAGS[@]}" -cp "$HOME_DIR/lib/*" "$@"
}

prepare() { # PORT or nothing, LOGIN or nothing
  local port=$1 login=$2 controller id sasl=''
  mkdir -p "$RUN" || die "cannot write to $RUN"
  if [ -e "$RUN/this-is-a-kafka" ]; then
    [ -z "$port" ] || [ "$port" = "$(cat "$RUN/port")" ] || die "$RUN is a broker of port $(cat "$RUN/port"), not of $port"
    return 0
  fi
  [ -z "$(ls -A "$RUN")" ] || die "$RUN exists and is not a broker's: name another one with --dir"
  if [ -z "$port" ]; then
    free_port port
  else
    PORTS_TAKEN+="$port "
    port_free "$port" || die "port $port is taken"
  fi
  free_port controller
  if [ -n "$login" ]; then
    free_port sasl
    printf '%s\n' "$sasl" >"$RUN/sasl-port"
  fi
  write_properties "$port" "$controller" "$sasl" "$login"
  id=$(kafka_java 128m kafka.tools.StorageTool random-uuid 2>>"$RUN/log") && [ -n "$id" ] \
    || { tail_of_log "$RUN/log"; die "could not make a cluster id"; }
  kafka_java 128m kafka.tools.StorageTool format --standalone -t "$id" -c "$RUN/server.properties" >>"$RUN/log" 2>&1 \
    || { tail_of_log "$RUN/log"; die "could not format $RUN/data"; }
  printf '%s\n' "$port" >"$RUN/port"
  : >"$RUN/this-is-a-kafka"
}

# The server says so when it takes requests, and not before the controller has let it in.
ready() {
  tail -c "+$(($1 + 1))" "$RUN/log" | grep -q 'Kafka Server started' \
    && (exec 3<>"/dev/tcp/127.0.0.1/$(cat "$RUN/port")") 2>/dev/null
}

start() {
  local port=$1 owner=$2 login=$3 from deadline
  if running; then
    bootstrap
    return 0
  fi
  fetch >&2
  prepare "$port" "$login"
  from=$(stat -c %s "$RUN/log" 2>/dev/null || printf 0)
  step "starting Apache Kafka $VERSION at $(bootstrap) in $RUN" >&2
  setsid java -Xmx512m "${JAVA_FLAGS[@]}" -cp "$HOME_DIR/lib/*" kafka.Kafka "$RUN/server.properties" >>"$RUN/log" 2>&1 </dev/null 9>&- &
  remember_process $! "$RUN/pid"
  disown
  [ -z "$owner" ] || guard "$owner"
  deadline=$((SECONDS + READY_SECS))
  until ready "$from"; do
    running || { tail_of_log "$RUN/log"; die "the broker ended while it started: see its log above"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail_of_log "$RUN/log"; stop; die "the broker was not ready within $READY_SECS s"; }
    sleep 0.1
  done
  bootstrap
}

# A process of its own that outlives us, and ends after PID does.
guard() {
  local born
  born=$(proc_start_time "$1")
  (
    trap '' HUP INT TERM
    while [ -n "$born" ] && [ "$(proc_start_time "$1")" = "$born" ] && [ -d "$RUN" ]; do sleep 0.5; done
    stop_process "$RUN/pid" "$STOP_SECS"
    [ ! -e "$RUN/this-is-a-kafka" ] || rm -rf "$RUN" "$RUN.lock"
  ) >/dev/null 2>&1 </dev/null 9>&- &
  disown
}

stop() { stop_process "$RUN/pid" "$STOP_SECS"; }

status() {
  local state=stopped pid
  pid=$(pid_of "$RUN/pid") && state=running
  if [ "$1" = yes ]; then
    printf '{"state":"%s","pid":%s,"bootstrap":%s,"cluster_id":%s,"version":"%s","run_dir":"%s"}\n' "$state" "${pid:-null}" \
      "$([ -r "$RUN/port" ] && printf '"%s"' "$(bootstrap)" || printf null)" \
      "$([ -n "$(cluster_id)" ] && printf '"%s"' "$(cluster_id)" || printf null)" "$VERSION" "$RUN"
  elif [ -r "$RUN/port" ]; then
    say "Apache Kafka $VERSION: $state, $(bootstrap), pid ${pid:--}, cluster $(cluster_id), in $RUN"
  else
    say "Apache Kafka $VERSION: stopped, there is none in $RUN"
  fi
}

# tool CLASS ARGUMENTS...: TopicCommand is org.apache.kafka.tools.TopicCommand.
tool() {
  local class=${1:-}
  [ -n "$class" ] || die "tool needs a class of Kafka's: scripts/kafka.sh tool TopicCommand --list"
  shift
  running || die "no broker runs in $RUN"
  case "$class" in *.*) ;; *) class=org.apache.kafka.tools.$class ;; esac
  kafka_java 128m "$class" --bootstrap-server "$(bootstrap)" "$@"
}

# Changes to one broker do not run side by side.
exclusive() {
  mkdir -p "$(dirname "$RUN")"
  exec 9>"$RUN.lock"
  flock -n 9 || die "another scripts/kafka.sh works on $RUN"
  "$@"
}

main() {
  local command=${1:-help} port='' owner='' login='' json=no
  [ $# -gt 0 ] && shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --dir) RUN=$(realpath -m "${2:?--dir needs a directory}"); shift 2 ;;
      --port) port=${2:-}; [[ "$port" =~ ^[1-9][0-9]{0,4}$ ]] || die "--port needs a port"; shift 2 ;;
      --for) owner=${2:-}; [[ "$owner" =~ ^[1-9][0-9]*$ ]] || die "--for needs a pid"; shift 2 ;;
      --sasl) login=${2:-}; [[ "$login" =~ ^[a-z0-9_]+:[^\"]+$ ]] || die "--sasl needs a name and a password: USER:PASSWORD"; shift 2 ;;
      --json) json=yes; shift ;;
      *) break ;; # the tool's own
    esac
  done
  [ $# -eq 0 ] || [ "$command" = tool ] || die "$command does not know '$1'"
  [ -n "$VERSION" ] || die "$POM names no kafka.version"
  case "$command" in
    start) exclusive start "$port" "$owner" "$login" && say ;;
    stop) exclusive stop && say "stopped. Its data stay in $RUN" ;;
    status) status "$json" ;;
    tool) tool "$@" ;;
    fetch) fetch ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command: $command" ;;
  esac
}

main "$@"

#!/usr/bin/env bash
# Starts, stops and inspects one cluster per shard, each replica a process of its own.
#
# The processes are meta/1..R, shard1/1..R, shard2/1..R, … (one `flotilla node` each, hosting a
# replica of that group) and `proxy` (`flotilla proxy`). Node ids count up from 1 in that order; the
# process with id N listens on base-port + 2(N-1) for HTTP and the port after it for Raft. All
# settings are kept in DATA/cluster.conf, so that only `up` needs options.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: deploy/cluster.sh COMMAND [OPTIONS]

  up [--shards 2] [--replicas 3]   start the cluster, or what is not running of it
  down                             stop every process (SIGTERM, after 20 s SIGKILL)
  status                           list the processes, then `flotilla status`
  start NAME                       start one process: meta/1, shard1/2, proxy, …
  stop NAME                        stop it with SIGTERM
  restart NAME                     stop it and start it; rolling-restart.sh does so with all nodes
  kill NAME                        kill it with SIGKILL
  list                             name and HTTP address of each node, one per line
  logs NAME [-f]                   show its log
  destroy                          stop everything and delete the data
  print --hosts a,b,c              print the commands to run on each host; starts nothing

options of every command
  --data DIR         where data, logs and pid files are    (./flotilla-cluster)
options of `up` and `print`
  --shards N         shards                                (2)
  --replicas N       replicas of each shard and of meta    (3)
  --base-port P      first port                            (12000)
  --port P           port of the proxy                     (11000)
  --host H           address to listen on and to announce  (127.0.0.1)
  --bin PATH         the flotilla binary                   (target/release, target/debug, then $PATH)
  --timeout SECONDS  how long to wait until all is ready   (60)

examples
  deploy/cluster.sh up --shards 2 --replicas 3
  deploy/cluster.sh kill shard1/2 && deploy/cluster.sh start shard1/2
  deploy/cluster.sh print --shards 4 --hosts db1,db2,db3 --data /var/lib/flotilla
USAGE
}

# Wrong usage is 2, a command that failed is 1.
usage_error() { printf 'error: %s\nhint: deploy/cluster.sh help\n' "$1" >&2; exit 2; }
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
# A SIGTERM lets a node hand over leadership and drain; longer than that takes, and it hangs.
readonly STOP_SECONDS=20

data=./flotilla-cluster
shards=2
replicas=3
base_port=12000
port=11000
host=127.0.0.1
bin=
timeout=60
hosts=()
given=()

# ---- names, ids and addresses -------------------------------------------------------------------

groups() {
    local shard
    echo meta
    for ((shard = 1; shard <= shards; shard++)); do echo "shard$shard"; done
}

nodes() {
    local group replica
    for group in $(groups); do
        for ((replica = 1; replica <= replicas; replica++)); do echo "$group/$replica"; done
    done
}

check_name() {
    [[ $1 == proxy ]] && return
    # Not `nodes | grep -q`: grep leaves at the first match, and then the write that finds nobody fails the pipe.
    [[ $'\n'$(nodes)$'\n' == *$'\n'"$1"$'\n'* ]] || usage_error "no process is named $1; the names are proxy, meta/1 to shard$shards/$replicas"
}

# The id of a node: meta/1 is 1, and so on through the groups.
id_of() {
    local group=${1%/*} replica=${1#*/} position=0
    [[ $group == meta ]] || position=${group#shard}
    echo $((position * replicas + replica))
}

# Where a node runs. Replicas of one group go to different hosts, and each group begins on the next
# host, so that no host begins as the first replica of all groups.
host_of() {
    ((${#hosts[@]})) || { echo "$host"; return; }
    [[ $1 == proxy ]] && { echo "${hosts[0]}"; return; }
    local group=${1%/*} replica=${1#*/} position=0
    [[ $group == meta ]] || position=${group#shard}
    echo "${hosts[$(((position + replica - 1) % ${#hosts[@]}))]}"
}

bracketed() { if [[ $1 == *:* && $1 != \[* ]]; then echo "[$1]"; else echo "$1"; fi; }

http_of() {
    if [[ $1 == proxy ]]; then echo "$(bracketed "$(host_of proxy)"):$port"; return; fi
    echo "$(bracketed "$(host_of "$1")"):$((base_port + 2 * ($(id_of "$1") - 1)))"
}

raft_of() { echo "$(bracketed "$(host_of "$1")"):$((base_port + 2 * ($(id_of "$1") - 1) + 1))"; }

# The Raft addresses of the nodes named on standard input, with commas.
raft_list() {
    local name list=
    while read -r name; do list+=${list:+,}$(raft_of "$name"); done
    echo "$list"
}

# Sets `command` to what starts a process.
command_of() {
    local name=$1
    if [[ $name == proxy ]]; then
        command=("$bin" proxy --meta "$(nodes | grep '^meta/' | raft_list)" --http "$(http_of proxy)")
        return
    fi
    command=("$bin" node --id "$(id_of "$name")" --data "$data/node-$(id_of "$name")"
        --http "$(http_of "$name")" --raft "$(raft_of "$name")"
        --seed-nodes "$(nodes | raft_list)" --groups "${name%/*}")
}

# ---- settings -----------------------------------------------------------------------------------

is_count() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]]; }

parse_options() {
    while (($#)); do
        case $1 in
            --data | --shards | --replicas | --base-port | --port | --host | --bin | --timeout | --hosts)
                (($# >= 2)) || usage_error "$1 needs a value"
                local value=$2
                [[ -n $value ]] || usage_error "$1 needs a value"
                case $1 in
                    --shards | --replicas | --base-port | --port | --timeout)
                        is_count "$value" || usage_error "$1 is a number, not $value" ;;
                esac
                case $1 in
                    --data) data=$value ;;
                    --shards) shards=$value ;;
                    --replicas) replicas=$value ;;
                    --base-port) base_port=$value ;;
                    --port) port=$value ;;
                    --host) host=$value ;;
                    --bin) bin=$value ;;
                    --timeout) timeout=$value ;;
                    --hosts) IFS=, read -ra hosts <<<"$value" ;;
                esac
                given+=("$1")
                shift 2 ;;
            *) usage_error "unknown option $1" ;;
        esac
    done
    local last=$((base_port + 2 * (shards + 1) * replicas - 1))
    ((last <= 65535)) || usage_error "the last port would be $last; choose a lower --base-port"
    ((port < base_port || port > last)) || usage_error "--port $port is one of the nodes' ports $base_port to $last"
}

find_binary() {
    local folder candidate
    folder=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    if [[ -z $bin ]]; then
        for candidate in "$folder/target/release/flotilla" "$folder/target/debug/flotilla"; do
            if [[ -x $candidate ]]; then bin=$candidate; return; fi
        done
        bin=$(command -v flotilla) || fail "no flotilla binary; build one with \`cargo build --release\`, or name it with --bin"
    fi
    [[ -x $bin ]] || fail "$bin is no program"
    bin=$(cd -- "$(dirname -- "$bin")" && pwd)/$(basename -- "$bin")
}

save_settings() {
    mkdir -p "$data/run" "$data/log"
    printf '%s=%s\n' shards "$shards" replicas "$replicas" base_port "$base_port" port "$port" \
        host "$host" bin "$bin" >"$data/cluster.conf.new"
    mv "$data/cluster.conf.new" "$data/cluster.conf"
}

# The settings of an existing cluster; read line by line and never executed.
load_settings() {
    [[ -f $data/cluster.conf ]] || fail "no cluster in $data; start one with \`deploy/cluster.sh up\`, or name its folder with --data"
    local key value
    while IFS='=' read -r key value; do
        case $key in
            shards) shards=$value ;;
            replicas) replicas=$value ;;
            base_port) base_port=$value ;;
            port) port=$value ;;
            host) host=$value ;;
            bin) bin=$value ;;
        esac
    done <"$data/cluster.conf"
    data=$(cd -- "$data" && pwd)
}

# ---- processes ----------------------------------------------------------------------------------

pid_file() { echo "$data/run/${1//\//-}.pid"; }
log_file() { echo "$data/log/${1//\//-}.log"; }

# When a process began: with its pid, this tells it from a later one that got the same number.
began() {
    if [[ -r /proc/$1/stat ]]; then
        # Field 22, counted behind the name, which may hold blanks. A zombie has ended.
        local stat
        stat=$(<"/proc/$1/stat") 2>/dev/null || return 0
        local -a fields
        read -ra fields <<<"${stat##*) }"
        [[ ${fields[0]} == Z ]] || echo "${fields[19]}"
    else
        ps -o lstart= -p "$1" 2>/dev/null || true
    fi
}

# Prints the pid of a running process, or fails.
pid_of() {
    local pid start file
    file=$(pid_file "$1")
    [[ -f $file ]] || return 1
    { read -r pid && read -r start; } <"$file" || return 1
    [[ -n $start && $(began "$pid") == "$start" ]] || return 1
    echo "$pid"
}

start_process() {
    local name=$1 pid start
    if pid=$(pid_of "$name"); then
        echo "$name is running already (pid $pid)"
        return
    fi
    local -a command
    command_of "$name"
    printf '%s starting: %s\n' "$(date -u +%FT%TZ)" "${command[*]}" >>"$(log_file "$name")"
    # A session of its own: Ctrl-C in this terminal is not for the cluster.
    if command -v setsid >/dev/null; then command=(setsid "${command[@]}"); fi
    "${command[@]}" >>"$(log_file "$name")" 2>&1 </dev/null &
    pid=$!
    disown "$pid"
    start=$(began "$pid")
    printf '%s\n%s\n' "$pid" "$start" >"$(pid_file "$name")"
}

signal_process() {
    local name=$1 signal=$2 pid
    pid=$(pid_of "$name") || fail "$name is not running"
    kill -s "$signal" "$pid" || fail "$name (pid $pid) cannot be signalled"
}

# Waits until the named processes are gone; kills what outstays its time.
await_end() {
    local deadline=$((SECONDS + STOP_SECONDS)) name pid
    for name; do
        while pid=$(pid_of "$name"); do
            if ((SECONDS >= deadline)); then
                echo "$name (pid $pid) did not stop within $STOP_SECONDS s: SIGKILL" >&2
                kill -s KILL "$pid" 2>/dev/null || true
                while pid_of "$name" >/dev/null; do sleep 0.05; done
                break
            fi
            sleep 0.05
        done
        rm -f "$(pid_file "$name")"
    done
}

is_ready() { curl --silent --fail --max-time 2 --output /dev/null --noproxy '*' "http://$(http_of "$1")/readyz"; }

# Waits until the named processes say that they are ready; says why when one ends instead.
await_ready() {
    local deadline=$((SECONDS + timeout)) name
    for name; do
        until is_ready "$name"; do
            if ! pid_of "$name" >/dev/null; then
                printf -- '--- the end of %s\n' "$(log_file "$name")" >&2
                tail -n 20 "$(log_file "$name")" >&2
                fail "$name has ended"
            fi
            ((SECONDS < deadline)) || fail "$name was not ready within $timeout s; see $(log_file "$name")"
            sleep 0.1
        done
    done
}

# ---- commands -----------------------------------------------------------------------------------

up() {
    command -v curl >/dev/null || fail "curl is needed to ask the processes whether they are ready"
    ((${#hosts[@]} == 0)) || usage_error "--hosts belongs to \`print\`"
    if [[ -f $data/cluster.conf ]]; then
        # What the data was made with stands; another number of replicas would be another cluster.
        local option wanted_bin=$bin wanted
        wanted="$shards $replicas $base_port $port $host"
        load_settings
        for option in ${given[@]+"${given[@]}"}; do
            case $option in
                --shards | --replicas | --base-port | --port | --host)
                    [[ $wanted == "$shards $replicas $base_port $port $host" ]] || differs_error "$option" "$wanted" ;;
            esac
        done
        bin=$wanted_bin
    fi
    find_binary
    save_settings
    data=$(cd -- "$data" && pwd)
    local name all
    mapfile -t all < <(nodes)
    for name in "${all[@]}"; do start_process "$name"; done
    await_ready "${all[@]}"
    start_process proxy
    await_ready proxy
    list_processes
    cat <<TRY

$shards shards and meta, $replicas replicas each; data and logs in $data
try:
  curl -X POST http://$(http_of proxy)/sql -d '{"sql":"SELECT sqlite_version()"}'
  $bin sql --url http://$(http_of proxy)
TRY
}

# Only an option that was given, and differs from the cluster's, is an error.
differs_error() {
    local -a now=("$shards" "$replicas" "$base_port" "$port" "$host") wanted names=(--shards --replicas --base-port --port --host)
    local at
    read -ra wanted <<<"$2"
    for at in "${!names[@]}"; do
        if [[ ${names[at]} == "$1" && ${wanted[at]} != "${now[at]}" ]]; then
            fail "the cluster in $data was made with $1 ${now[at]}; use that, or another --data"
        fi
    done
}

down() {
    local name
    local -a running=() all
    mapfile -t all < <(nodes)
    # The proxy first: it drains while the nodes still answer.
    if pid_of proxy >/dev/null; then
        signal_process proxy TERM
        await_end proxy
    fi
    for name in "${all[@]}"; do
        if pid_of "$name" >/dev/null; then
            signal_process "$name" TERM
            running+=("$name")
        fi
    done
    await_end ${running[@]+"${running[@]}"}
    echo "stopped ${#running[@]} nodes and the proxy; the data stays in $data"
}

list_processes() {
    local name pid state id
    printf '%-12s %4s %8s  %-12s %s\n' name id pid state http
    for name in $(nodes) proxy; do
        id=-
        [[ $name == proxy ]] || id=$(id_of "$name")
        if ! pid=$(pid_of "$name"); then
            pid=-
            state=stopped
        elif is_ready "$name"; then
            state=ready
        else
            state=not-ready
        fi
        printf '%-12s %4s %8s  %-12s %s\n' "$name" "$id" "$pid" "$state" "http://$(http_of "$name")"
    done
}

status() {
    list_processes
    if pid_of proxy >/dev/null; then
        echo
        "$bin" status --url "http://$(http_of proxy)"
    fi
}

destroy() {
    down
    # Only what `up` has made: a wrong --data must not cost a home directory.
    local name
    for name in $(nodes); do rm -rf -- "$data/node-$(id_of "$name")"; done
    rm -rf -- "$data/run" "$data/log"
    rm -f -- "$data/cluster.conf"
    rmdir -- "$data" 2>/dev/null || echo "$data holds other files and stays"
}

# A command as a person would type it: quotes only where the shell needs them.
quoted() {
    local word line=
    for word; do
        [[ $word =~ ^[][A-Za-z0-9_./:,=@%+-]+$ ]] || word=$(printf '%q' "$word")
        line+=${line:+ }$word
    done
    printf '%s' "$line"
}

print_commands() {
    [[ -n $bin ]] || bin=flotilla
    ((${#hosts[@]})) || hosts=("$host")
    if ((${#hosts[@]} < replicas)); then
        echo "# note: $replicas replicas on ${#hosts[@]} hosts: the loss of one host may take several replicas of a group"
    fi
    local at name
    local -a command
    for at in "${hosts[@]}"; do
        printf '# on %s\n' "$at"
        for name in $(nodes) proxy; do
            # Every host runs a proxy: any of them answers any query.
            if [[ $name == proxy ]]; then
                command_of proxy
                command[-1]="$(bracketed "$at"):$port"
            elif [[ $(host_of "$name") == "$at" ]]; then
                command_of "$name"
            else
                continue
            fi
            quoted "${command[@]}"
            printf '  # %s\n' "$name"
        done
        echo
    done
}

main() {
    (($#)) || { usage; exit 2; }
    local verb=$1 name='' follow=''
    shift
    case $verb in
        start | stop | restart | kill | logs)
            [[ ${1--} != -* ]] || usage_error "$verb needs the name of a process: meta/1, shard1/2, proxy"
            name=$1
            shift
            if [[ $verb == logs && ${1-} == -f ]]; then
                follow=1
                shift
            fi ;;
    esac
    case $verb in
        help | -h | --help) usage; return ;;
        up | down | status | start | stop | restart | kill | list | logs | destroy | print) parse_options "$@" ;;
        *) usage_error "unknown command $verb" ;;
    esac
    case $verb in
        up | print) ;;
        *) load_settings ;;
    esac
    [[ -z $name ]] || check_name "$name"
    case $verb in
        up) up ;;
        down) down ;;
        status) status ;;
        destroy) destroy ;;
        print) print_commands ;;
        start)
            start_process "$name"
            await_ready "$name"
            echo "$name is ready at http://$(http_of "$name")" ;;
        stop)
            signal_process "$name" TERM
            await_end "$name"
            echo "$name is stopped" ;;
        restart)
            signal_process "$name" TERM
            await_end "$name"
            start_process "$name"
            await_ready "$name"
            echo "$name is ready again at http://$(http_of "$name")" ;;
        list)
            for name in $(nodes); do echo "$name http://$(http_of "$name")"; done ;;
        kill)
            signal_process "$name" KILL
            await_end "$name"
            echo "$name is killed" ;;
        logs)
            if [[ -n $follow ]]; then exec tail -n 100 -f "$(log_file "$name")"; fi
            cat "$(log_file "$name")" ;;
    esac
}

main "$@"

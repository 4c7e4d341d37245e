#!/usr/bin/env bash
# Restarts the nodes of a cluster one by one, while clients go on: for an upgrade, or for new settings.
#
# A node that stops in order hands its leaderships over first, so nothing waits for an election. A node
# that starts says at /readyz that it is ready once it has caught up with its groups' leaders. Between the
# two each of its groups does with a majority of the others; so the next node is restarted only when all
# are ready. The first that is not ready in time ends the run, and the rest stays as it is.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: deploy/rolling-restart.sh [--data DIR] [OPTIONS]
       deploy/rolling-restart.sh --nodes NAME=URL,… --restart COMMAND [OPTIONS]

Restarts node by node, each only when all are ready and have caught up. Without --nodes: the nodes of
the cluster that deploy/cluster.sh has started. Proxies are not restarted; they hold nothing, so
restart them one after the other at any time.

options
  --data DIR          the folder of deploy/cluster.sh's cluster            (./flotilla-cluster)
  --nodes NAME=URL,…  all nodes of the cluster: a name, and where its HTTP API is
  --restart COMMAND   restarts one node, in order (SIGTERM, not SIGKILL), and returns when the new
                      process has been started; {name} stands for the node's name
  --only NAME,…       restart these nodes only; all are still waited for
  --timeout SECONDS   how long to wait for a node to be ready              (60)
  --dry-run           show what would be done; every node must be ready, nothing is restarted
  --help              this text

exit code
  0  all nodes were restarted and are ready
  1  a node was not ready in time, or a restart failed: the nodes after it were left alone
  2  wrong usage

examples
  deploy/rolling-restart.sh
  deploy/rolling-restart.sh --data /srv/flotilla --only shard1/1,shard1/2
  deploy/rolling-restart.sh --nodes db1=http://db1:12000,db2=http://db2:12000,db3=http://db3:12000 \
      --restart 'ssh {name} sudo systemctl restart flotilla-node'
  deploy/rolling-restart.sh --dry-run
USAGE
}

# Wrong usage is 2, a run that failed is 1.
usage_error() { printf 'error: %s\nhint: deploy/rolling-restart.sh --help\n' "$1" >&2; exit 2; }
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }

# How long one question to a node may take.
readonly ASK_SECONDS=2

data=./flotilla-cluster
restart=
timeout=60
dry_run=
given_nodes=()
only=()
names=()
urls=()
script=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/cluster.sh

parse_options() {
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --dry-run) dry_run=1; shift ;;
            --data | --nodes | --restart | --only | --timeout)
                [[ -n ${2-} ]] || usage_error "$1 needs a value"
                case $1 in
                    --data) data=$2 ;;
                    --nodes) IFS=, read -ra given_nodes <<<"$2" ;;
                    --restart) restart=$2 ;;
                    --only) IFS=, read -ra only <<<"$2" ;;
                    --timeout)
                        [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || usage_error "--timeout is a number of seconds, not $2"
                        timeout=$2 ;;
                esac
                shift 2 ;;
            *) usage_error "unknown option $1" ;;
        esac
    done
}

# Sets `names` and `urls`.
find_nodes() {
    local node name url list
    if ((${#given_nodes[@]})); then
        [[ -n $restart ]] || usage_error "--nodes needs --restart: the command that restarts one of them"
        for node in "${given_nodes[@]}"; do
            [[ $node == ?*=http*://?* ]] || usage_error "--nodes lists NAME=URL, not $node"
            names+=("${node%%=*}")
            urls+=("${node#*=}")
        done
    else
        [[ -z $restart ]] || usage_error "--restart needs --nodes: the nodes of the cluster"
        list=$("$script" list --data "$data") || exit 1
        while read -r name url; do
            names+=("$name")
            urls+=("$url")
        done <<<"$list"
    fi
    for name in ${only[@]+"${only[@]}"}; do
        is_in "$name" "${names[@]}" || usage_error "--only names $name, which is no node of the cluster"
    done
}

is_in() {
    local wanted=$1 one
    shift
    for one; do [[ $one == "$wanted" ]] && return 0; done
    return 1
}

# Asks a node; prints what it says when it is not ready.
not_ready() {
    local answer
    if ! answer=$(curl --silent --show-error --max-time "$ASK_SECONDS" --noproxy '*' --write-out '\n%{http_code}' "$1/readyz" 2>&1); then
        echo "${answer//$'\n'/ }"
    elif [[ ${answer##*$'\n'} != 200 ]]; then
        echo "${answer%$'\n'*}"
    fi
}

# Waits until every node is ready; says which is not.
await_all() {
    local deadline=$((SECONDS + timeout)) at why
    for at in "${!names[@]}"; do
        while true; do
            why=$(not_ready "${urls[at]}")
            [[ -n $why ]] || break
            ((SECONDS < deadline)) || fail "${names[at]} is not ready after $timeout s: $why"
            sleep 0.2
        done
    done
}

restart_node() {
    if [[ -z $restart ]]; then
        "$script" restart "$1" --data "$data"
    else
        bash -c "${restart//\{name\}/$(printf '%q' "$1")}"
    fi
}

main() {
    parse_options "$@"
    command -v curl >/dev/null || fail "curl is needed to ask the nodes whether they are ready"
    find_nodes
    local at name began done_count=0
    await_all
    for at in "${!names[@]}"; do
        name=${names[at]}
        if ((${#only[@]})) && ! is_in "$name" "${only[@]}"; then continue; fi
        if [[ -n $dry_run ]]; then
            echo "would restart $name (${urls[at]})"
            continue
        fi
        began=$SECONDS
        echo "restarting $name (${urls[at]})"
        restart_node "$name" || fail "$name could not be restarted; the nodes after it were left alone"
        await_all
        echo "$name and all others are ready after $((SECONDS - began)) s"
        done_count=$((done_count + 1))
    done
    if [[ -n $dry_run ]]; then
        echo "nothing was restarted"
    else
        echo "$done_count of ${#names[@]} nodes were restarted"
    fi
}

main "$@"

#!/usr/bin/env bash
#
# Runs an experiment as several processes on this machine.
#
#   launch/local.sh N EXPERIMENT [FLAG]...
#   launch/local.sh 2 sinusoid --tasks_per_step=8 --workdir=runs/together
#
# It is how a run of several processes is tried before it goes to several
# machines. (One process drives all GPUs or TPUs of a machine by itself.) Each
# is told to find the others at a free port; what it writes is marked with its
# number. PYTHON names the interpreter.
#
# SIGTERM and Ctrl-C reach every process as SIGTERM: all save the same step and
# end with code 75, and the same command goes on. A second Ctrl-C kills them.
# Where one process fails, the others end by themselves within
# --heartbeat_seconds, and the code is that of the first that failed.

set -u

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '3,/^$/ s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
num_processes=$1 experiment=$2
shift 2
python=${PYTHON:-python}

port=$("$python" -c '
import socket
with socket.socket() as free:
  free.bind(("localhost", 0))
  print(free.getsockname()[1])
') || exit 1
pipes=$(mktemp -d) || exit 1
trap 'rm -rf "$pipes"' EXIT

processes=() printers=()

start() { # the number of a process, and its flags
  local number=$1
  shift
  mkfifo "$pipes/$number.out" "$pipes/$number.err"
  sed -u "s/^/[$number] /" <"$pipes/$number.out" &
  printers+=($!)
  sed -u "s/^/[$number] /" <"$pipes/$number.err" >&2 &
  printers+=($!)
  "$python" -m "experiments.$experiment" "$@" \
    --distributed="localhost:$port" --num_processes="$num_processes" \
    --process_id="$number" \
    </dev/null >"$pipes/$number.out" 2>"$pipes/$number.err" &
  processes[number]=$!
}

asked=no
stop() { # the signal that this script received
  local signal=TERM
  if [[ $asked == yes && $1 == INT ]]; then
    signal=KILL
  fi
  asked=yes
  if ((${#processes[@]})); then
    kill -s "$signal" "${processes[@]}" 2>/dev/null
  fi
}
trap 'stop TERM' TERM
trap 'stop INT' INT

# With -m each is in a group of its own: a Ctrl-C of the terminal comes here
# alone, and is passed on once.
set -m
for ((number = 0; number < num_processes; number++)); do
  start "$number" "$@"
done
set +m

first_failure=0
while ((${#processes[@]})); do
  for number in "${!processes[@]}"; do
    if kill -0 "${processes[number]}" 2>/dev/null; then
      continue
    fi
    wait "${processes[number]}"
    code=$?
    unset "processes[number]"
    echo "process $number ended with code $code" >&2
    if ((first_failure == 0)); then
      first_failure=$code
    fi
  done
  sleep 0.2
done
wait "${printers[@]}" # for their last lines
exit "$first_failure"

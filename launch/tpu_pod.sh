#!/usr/bin/env bash
#
# Runs an experiment on all workers of a TPU slice of Google Cloud.
#
#   launch/tpu_pod.sh NAME ZONE install
#   launch/tpu_pod.sh NAME ZONE EXPERIMENT [FLAG]...
#   launch/tpu_pod.sh meta us-west4-a images --tasks_per_step=64 \
#     --workdir=/mnt/shared/runs/images
#
# `install` copies what is committed here to every worker, into ~/metajax, and
# installs it there with the compiler of TPUs. PYTHON names the interpreter of
# the workers, 3.11 or newer.
#
# Process 0, on worker 0, alone reads and writes the workdir, so any directory
# there will do; one on a shared file system (NFS) outlives the slice. Data sets
# (--data_dir, --data_file, --split_dir) are read on every worker.
#
# Every process writes to this terminal. A SIGTERM to that of any one worker
# saves and ends all with code 75; the same command goes on.

set -u

if [[ $# -lt 3 ]]; then
  sed -n '3,/^$/ s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 experiment=$3
shift 3
python=${PYTHON:-python3}

on_all_workers() { # a command
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="$1"
}

install() {
  local folder archive
  folder=$(mktemp -d) || return
  trap "rm -rf '$folder'" EXIT
  archive=$folder/metajax.tar.gz
  git -C "$(dirname "$0")/.." archive --output="$archive" HEAD || return
  gcloud compute tpus tpu-vm scp "$archive" "$name:metajax.tar.gz" \
    --zone="$zone" --worker=all || return
  on_all_workers "mkdir -p metajax && tar -xzf metajax.tar.gz -C metajax &&
    $python -m venv metajax/.venv && cd metajax &&
    .venv/bin/pip install --quiet -e '.[tpu]'"
}

if [[ $experiment == install ]]; then
  install
  exit
fi
flags=
if (($#)); then
  flags=$(printf ' %q' "$@")
fi
on_all_workers "cd metajax && exec .venv/bin/python -m \
experiments.$experiment --distributed=auto$flags"

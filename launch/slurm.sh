#!/usr/bin/env bash
#
# Runs an experiment on a Slurm cluster, one process per GPU.
#
#   sbatch launch/slurm.sh EXPERIMENT [FLAG]...
#   sbatch --nodes=4 launch/slurm.sh images --tasks_per_step=64 \
#     --workdir=/shared/runs/images
#
# Submit it from the checkout; PYTHON names the interpreter on the nodes. The
# lines below are defaults, and options of sbatch come before them. There are
# as many tasks as GPUs on a node, and each task has to see all GPUs of its
# node (so no --gpus-per-task): JAX gives each the one of its number. On nodes
# without GPUs take --ntasks-per-node=1 --gpus-per-node=0. Process 0 alone reads
# and writes the workdir; name a directory that all nodes share, for after a
# requeue process 0 may be on another one.
#
# Two minutes before the time is up, and when Slurm preempts the job, every
# process gets a SIGTERM: all save the same step and end with code 75, and the
# job goes back into the queue, to go on from there. Of any other failure it
# ends; the same sbatch command goes on from the last checkpoint.
#
#SBATCH --job-name=metajax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u

if [[ $# -lt 1 ]]; then
  echo 'usage: sbatch launch/slurm.sh EXPERIMENT [FLAG]...' >&2
  exit 2
fi
experiment=$1
shift

# After a failure the others end by themselves, and say what they know; srun
# would end them before.
srun --label --kill-on-bad-exit=0 --wait=0 \
  "${PYTHON:-python}" -m "experiments.$experiment" --distributed=auto "$@"
code=$? # the highest of all processes

if ((code == 75)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

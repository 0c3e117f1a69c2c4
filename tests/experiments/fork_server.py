"""Runs experiments in processes forked from one that has imported everything.

Each is a process like that of `python -m experiments.images ...`, with its own
flags, files and exit code, and can be killed like it; only the seconds that
imports take are shared. Reads one JSON object a line, answers with one.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import threading
import time
import traceback
import warnings


def serve() -> dict | None:
  """Answers until the input ends; in a new process, returns what to run."""
  ended: dict[int, int] = {}
  for line in sys.stdin:
    request = json.loads(line)
    if 'pid' in request:
      answer = exit_code(ended, **request)
    else:
      answer = os.fork()
      if answer == 0:
        return request
    print(json.dumps(answer), flush=True)
  return None


def exit_code(ended: dict[int, int], pid: int, wait: bool) -> int | None:
  """That of a process, or None where it still runs."""
  if pid not in ended:
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    if found:
      ended[pid] = os.waitstatus_to_exitcode(status)
  return ended.get(pid)


def become(request: dict) -> None:
  """Takes the place that a shell would give to a new process."""
  os.chdir(request['cwd'])
  sys.path.insert(0, request['cwd'])  # as `python -m` does
  os.environ.update(request['environment'])
  for number, name in enumerate((os.devnull, *request['outputs'])):
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
    opened = os.open(name, flags)
    os.dup2(opened, number)
    os.close(opened)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  if request['without']:
    sys.modules[request['without']] = None  # which Python takes for not there
  if request['clock_jump']:
    jump(request['clock_jump'])
  sys.argv = [sys.argv[0], *request['arguments']]


def jump(seconds: int) -> None:
  """Makes the clock of this process jump, a moment from now."""
  true_time, moment = time.time, time.time() + 1.5
  time.time = lambda: true_time() + seconds * (true_time() > moment)


def run(module: str) -> int:
  """What `python -m` does, to the exit code."""
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as stop:
    return stop.code or 0
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def leave(code: int) -> None:
  """Ends the process without taking all modules down, which takes a second."""
  # As Python does: a thread whose start was broken off can't be joined.
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


if __name__ == '__main__':
  import jax
  import orbax.checkpoint  # noqa: F401
  import tensorboardX  # noqa: F401
  import tensorflow_datasets  # noqa: F401

  # What the binaries import; they themselves are run anew.
  import experiments.data.regression
  import experiments.figures.images
  import experiments.figures.regression
  import experiments.recipes.overrides
  import experiments.runner.baselines
  import experiments.runner.experiment
  import experiments.runner.runs  # noqa: F401
  import metajax.algorithms.table
  import metajax.tasks  # noqa: F401

  assert not jax._src.xla_bridge.backends_are_initialized()
  with warnings.catch_warnings():
    # JAX warns of forks, for its threads; it has none yet.
    warnings.simplefilter('ignore', RuntimeWarning)
    request = serve()
  if request is None:
    leave(0)
  become(request)
  leave(run(request['module']))

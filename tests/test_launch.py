"""The scripts that start runs of several processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.runner.interrupts import PREEMPTED
from metajax.runs.writers import read_json_lines

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCH = REPOSITORY / 'launch'
SCRIPTS = sorted(path.name for path in LAUNCH.glob('*.sh'))
# Seconds until something is given up; many times what it takes.
PATIENCE = 300
STEPS = 30
FLAGS = (
  '--eval_tasks=8', '--validation_tasks=4', '--tasks_per_step=4',
  '--log_every=1', '--checkpoint_every=10', '--heartbeat_seconds=5',
  f'--cache_dir={Path.home()}/.cache/metajax/tests',
)  # fmt: skip


@pytest.fixture
def local(tmp_path):
  """Starts `launch/local.sh`, and ends it if the test does not."""
  environment = os.environ | {
    'PYTHON': sys.executable,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
  }
  with contextlib.ExitStack() as stack:

    def start(*arguments):
      out, err = (
        stack.enter_context((tmp_path / name).open('w'))
        for name in ('out', 'err')
      )
      script = subprocess.Popen(
        [LAUNCH / 'local.sh', *arguments],
        stdout=out,
        stderr=err,
        cwd=REPOSITORY,
        env=environment,
      )
      stack.enter_context(script)
      stack.callback(end, script)
      return script

    yield start


def end(script):
  """Presses Ctrl-C until it is over: the second one kills."""
  while script.poll() is None:
    script.send_signal(signal.SIGINT)
    time.sleep(1)


def written(folder):
  return [(folder / name).read_text() for name in ('out', 'err')]


def until_step(step, workdir, script, folder):
  """Waits for a line of the metrics."""
  deadline = time.monotonic() + PATIENCE
  path = workdir / 'metrics.jsonl'
  while not path.exists() or len(path.read_bytes().splitlines()) < step:
    assert script.poll() is None, written(folder)
    assert time.monotonic() < deadline, written(folder)
    time.sleep(0.02)


def processes_of(workdir):
  """The processes that have a flag with this directory, by their numbers."""
  found = {}
  for path in Path('/proc').glob('[0-9]*/cmdline'):
    try:
      words = path.read_bytes().decode().split('\0')
    except OSError:  # it has just ended
      continue
    if f'--workdir={workdir}' in words and '-m' in words:
      (number,) = (
        word.partition('=')[2] for word in words if '--process_id=' in word
      )
      found[int(number)] = int(path.parent.name)
  return found


@pytest.mark.parametrize('script', SCRIPTS)
def test_bash_can_read_it(script):
  subprocess.run(['bash', '-n', LAUNCH / script], check=True)


@pytest.mark.parametrize('script', SCRIPTS)
def test_it_can_be_started_and_says_how(script):
  ended = subprocess.run([LAUNCH / script], capture_output=True, text=True)
  assert ended.returncode == 2
  assert ended.stdout == ''
  assert f'launch/{script}' in ended.stderr
  text = (LAUNCH / script).read_text()
  assert re.match(r'#!/usr/bin/env bash\n#\n# Runs an experiment', text)


@pytest.fixture(scope='session')
def known_flags():
  """The flags of the experiments."""
  ended = subprocess.run(
    [sys.executable, '-m', 'experiments.images', '--help'],
    capture_output=True,
    text=True,
    cwd=REPOSITORY,
    check=True,
  )
  return set(re.findall(r'^ +--(?:\[no\])?(\w+):', ended.stdout, re.MULTILINE))


@pytest.mark.parametrize('name', [*SCRIPTS, 'gke_jobset.yaml'])
def test_it_uses_flags_that_there_are(name, known_flags):
  text = (LAUNCH / name).read_text()
  # Those of other programs are written with hyphens.
  used = {'distributed', 'workdir', *re.findall(r'--([a-z]+_\w+)', text)}
  assert used <= known_flags
  assert '--distributed=' in text
  assert '--workdir=' in text


def test_the_jobset_is_yaml_and_restarts_what_was_preempted():
  yaml = pytest.importorskip('yaml')
  (jobset,) = yaml.safe_load_all((LAUNCH / 'gke_jobset.yaml').read_text())
  spec = jobset['spec']
  (job,) = (each['template']['spec'] for each in spec['replicatedJobs'])
  (container,) = job['template']['spec']['containers']
  chips = (
    job['completions'] * container['resources']['limits']['google.com/tpu']
  )
  assert chips == 16
  assert job['parallelism'] == job['completions']
  restarted = [
    code
    for rule in job['podFailurePolicy']['rules']
    for code in rule.get('onExitCodes', {}).get('values', [])
  ]
  assert PREEMPTED in restarted
  assert not {0, 1, 2} & set(restarted)
  assert [rule['action'] for rule in spec['failurePolicy']['rules']] == [
    'RestartJobSet', 'FailJobSet',
  ]  # fmt: skip
  # Kubernetes allows a policy of failures for pods that do not restart.
  assert job['template']['spec']['restartPolicy'] == 'Never'
  mounted = {each['mountPath'] for each in container['volumeMounts']}
  (workdir,) = (
    word.partition('=')[2]
    for word in container['command']
    if word.startswith('--workdir=')
  )
  assert str(Path(workdir).parent) in mounted


@pytest.mark.in_ci
def test_several_processes_run_stop_together_and_go_on(local, tmp_path):
  workdir = tmp_path / 'run'
  arguments = ('2', 'sinusoid', *FLAGS, f'--workdir={workdir}')

  script = local(*arguments, '--steps=100000')
  until_step(12, workdir, script, tmp_path)
  script.send_signal(signal.SIGTERM)
  assert script.wait(PATIENCE) == PREEMPTED, written(tmp_path)
  out, err = written(tmp_path)
  saved = re.search(r'^\[0\] SIGTERM: saved step (\d+);', out, re.MULTILINE)
  assert saved, out
  assert sorted(
    re.findall(r'^process \d ended with code \d+$', err, re.MULTILINE)
  ) == [f'process {number} ended with code {PREEMPTED}' for number in (0, 1)]

  last = int(saved[1]) + STEPS
  script = local(*arguments, f'--steps={last}')
  assert script.wait(PATIENCE) == 0, written(tmp_path)
  out, _ = written(tmp_path)
  assert f'[0] resumed from step {saved[1]}\n' in out
  assert f'[0] step {last}/{last}' in out
  steps = [
    record['step']
    for record in read_json_lines(workdir / 'metrics.jsonl')
    if 'loss' in record
  ]
  assert steps == list(range(1, last + 1))


@pytest.mark.long
@pytest.mark.long
def test_one_process_dies_and_the_code_is_its_own(local, tmp_path):
  workdir = tmp_path / 'run'
  script = local(
    '2', 'sinusoid', *FLAGS, '--steps=100000', f'--workdir={workdir}'
  )
  until_step(12, workdir, script, tmp_path)
  os.kill(processes_of(workdir)[1], signal.SIGKILL)
  assert script.wait(PATIENCE) == 128 + signal.SIGKILL, written(tmp_path)
  assert not processes_of(workdir)
  _, err = written(tmp_path)
  first, second = re.findall(r'^process (\d) ended', err, re.MULTILINE)
  assert (first, second) == ('1', '0')
  assert re.search(r'^\[0\] The tasks have crashed', err, re.MULTILINE), err


@pytest.mark.in_ci
def test_misused_flags_end_all_with_one_message_each(local, tmp_path):
  script = local('2', 'sinusoid', '--stepps=3')
  assert script.wait(PATIENCE) == 2
  _, err = written(tmp_path)
  for number in (0, 1):
    assert f'[{number}] --stepps: there is no such flag' in err

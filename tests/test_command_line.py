"""The command line as a user types it: what works, and what mistakes say."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffusion_jax
from diffusion_jax import command_line
from tests.conftest import HANG_SECONDS

ROOT = Path(__file__).parent.parent


# Runs launch.py in a fork for each line of its input: [arguments, working
# folder, file of stdout, file of stderr]. The imports, which take longer than
# all of a mistake, are done once. Prints the exit codes.
FORKS = """
import json, os, runpy, sys, traceback
from diffusion_jax import command_line

root, child = sys.argv[1], None
for line in sys.stdin:
  args, cwd, *files = json.loads(line)
  child = os.fork()
  if child == 0:
    for number, file in enumerate(files, start=1):
      os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    break
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
if child == 0:
  sys.argv = [os.path.join(root, 'launch.py'), *args]
  sys.path[0] = root
  code = 0
  try:
    runpy.run_path(sys.argv[0], run_name='__main__')
  except SystemExit as stop:
    code = stop.code or 0
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)  # without taking all modules apart, which is 0.4 s
"""


@pytest.fixture(scope='module')
def launch(tmp_path_factory):
  """launch(*args, cwd=ROOT): what a process of launch.py says and returns."""
  folder = tmp_path_factory.mktemp('said')
  forks = subprocess.Popen(
    [sys.executable, '-c', FORKS, str(ROOT)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,  # JAX warns of forks, for what happens in them
    text=True,
    bufsize=1,
  )

  def one(*args, cwd=ROOT):
    files = folder / 'stdout', folder / 'stderr'
    for file in files:
      file.unlink(missing_ok=True)
    forks.stdin.write(json.dumps([args, str(cwd), *map(str, files)]) + '\n')
    code = int(forks.stdout.readline())
    said = [file.read_text() for file in files]
    return subprocess.CompletedProcess(args, code, *said)

  yield one
  forks.stdin.close()
  assert forks.wait(HANG_SECONDS) == 0


def launch_alone(*args, cwd=ROOT):
  """The same by a process of its own, which has one device."""
  return subprocess.run(
    [sys.executable, str(ROOT / 'launch.py'), *args],
    cwd=cwd,
    env=os.environ | {'XLA_FLAGS': without_devices()},
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )


def without_devices():
  flags = os.environ['XLA_FLAGS'].split()
  return ' '.join(flag for flag in flags if 'device_count' not in flag)


@pytest.mark.slow
def test_cifar10_smoke_trains_and_draws_without_any_download(tmp_path):
  """From any folder; the default workdir is runs/<config>-<argument>.

  So is that of the installed command below, which takes no training.
  """
  config = f'--config={ROOT}/configs/cifar10.py:smoke'
  result = launch_alone(config, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  run = tmp_path / 'runs' / 'cifar10-smoke'
  assert (run / 'checkpoints' / '4').is_dir()
  assert (run / 'samples' / 'step_00000004.png').is_file()
  assert 'step 4: ' in result.stdout
  assert 'Traceback' not in result.stderr


MISTAKES = {
  'no config': ([], 'Give --config='),
  'no such file': (
    ['--config=configs/digit.py'],
    "no config file configs/digit.py (did you mean 'configs/digits.py'?)",
  ),
  'help of an unknown mode': (
    ['--help_mode', 'smaple'],
    "--help_mode=smaple (did you mean 'sample'?) is not one of",
  ),
  'no such file, with an override': (
    ['--config', 'configs/digit.py', '--config.seed=1'],
    'no config file configs/digit.py',
  ),
  'unknown argument': (['--config=configs/digits.py:smok'], "can be 'smoke'"),
  'unknown field': (
    ['--config=configs/digits.py', '--config.training.bach_size=3'],
    'no such config field: bach_size. Did you mean "batch_size"',
  ),
  'renamed field': (
    ['--config=configs/digits.py', '--config.conditioning.label_dropout=0.1'],
    'conditioning.label_dropout is conditioning.dropout now',
  ),
  'unknown section': (
    ['--config=configs/digits.py', '--config.trainin.batch_size=3'],
    'Did you mean "training"',
  ),
  'wrong type': (
    ['--config=configs/digits.py', '--config.training.batch_size=abc'],
    "batch_size=abc: invalid literal for int() with base 10: 'abc'",
  ),
  'unknown mode': (
    ['--mode=trane'],
    "--mode=trane (did you mean 'train'?) is not one of train, sample, edit",
  ),
  'unknown flag': (
    ['--config=configs/digits.py', '--wrkdir=x'],
    "Unknown command line flag 'wrkdir'. Did you mean: workdir",
  ),
  'no near config': (
    ['--config=configs/nothing.py'],
    'there is no config file configs/nothing.py; --mode=list names some',
  ),
  'a config by its name alone': (
    ['--config=digits'],
    "there is no config file digits (did you mean 'configs/digits.py'?)",
  ),
  'words for a mesh': (
    ['--config=configs/digits.py', '--config.training.mesh=a,b'],
    "config.training.mesh: 'a' is not an integer: give integers separated by",
  ),
  'a word among alphas': (
    ['--config=configs/digits.py', '--config.schedule.alphas=0.5,abc'],
    "config.schedule.alphas: 'abc' is not a number: give numbers separated by",
  ),
  'no run for configs/run.py': (
    ['--config=configs/run.py:runs/nothing'],
    'error: there is no run in runs/nothing (no such folder): give the workdir',
  ),
  'a folder that is no run': (
    ['--config=configs/run.py:tests', '--mode=sample'],
    'error: there is no run in tests (it has no config.json): give the workdir',
  ),
  'a command of the system as a sampler': (
    ['--config=configs/digits.py', '--config.sampling.sampler=os:system'],
    "config.sampling.sampler='os:system' cannot make a sampler: a Python funct",
  ),
  'extra word': (['--config=configs/digits.py', 'smoke'], "argument 'smoke'"),
  'a run cannot be sampled as another': (
    [
      '--config=configs/digits.py',
      '--mode=sample',
      '--config.network.channels=8',
    ],
    '--config.network.channels cannot change in --mode=sample',
  ),
  'a run that cannot be edited as another': (
    [
      '--config=configs/digits.py',
      '--mode=edit',
      '--config.conditioning.image=colorize',
    ],
    '--config.conditioning.image cannot change in --mode=edit',
  ),
  'a folder of pictures that is not given': (
    ['--config=configs/images64.py'],
    'config.data: which folder? Give --config.data.path=',
  ),
  'a refused list of alphas': (
    [
      '--config=configs/noise_photo.py',
      '--mode=noise',
      '--config.schedule.alphas=0.99,0.98,0,0.96',
    ],
    'alphas[2] = 0, step 3 of 4, is outside (0, 1) (0 is allowed as the last',
  ),
  'beyond a sweep': (
    ['--config=configs/digits.py', '--sweep_index=6'],
    '--sweep_index=6: the sweep() of configs/digits.py has 6, 0..5',
  ),
  'a config without a sweep': (
    ['--config=configs/mnist.py', '--sweep_index=0'],
    '--sweep_index: configs/mnist.py has no sweep()',
  ),
  'a field that a sweep changes too': (
    [
      '--config=configs/digits.py',
      '--sweep_index=0',
      '--config.optimizer.learning_rate=1',
    ],
    '--config.optimizer.learning_rate: the sweep() of configs/digits.py',
  ),
  'a coordinator without --multihost': (
    ['--config=configs/digits.py', '--coordinator=a:1'],
    '--coordinator, --num_hosts and --host need --multihost',
  ),
  'half of what --multihost needs': (
    ['--config=configs/digits.py', '--multihost', '--num_hosts=2'],
    'needs all of --coordinator=host:port --num_hosts=2 --host=0, or none',
  ),
  'a host too many': (
    [
      '--config=configs/digits.py',
      '--multihost',
      '--coordinator=a:1',
      '--num_hosts=2',
      '--host=2',
    ],
    '--host=2: of --num_hosts=2 they are 0..1',
  ),
  'no cluster to be detected': (
    ['--config=configs/digits.py', '--multihost'],
    '--multihost: neither SLURM nor Kubernetes, TPU or MPI is detected here',
  ),
  'an empty list of alphas': (
    [
      '--config=configs/noise_photo.py',
      '--mode=noise',
      '--config.schedule.alphas=()',
    ],
    'the list of alphas is empty',
  ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_clear_line(launch, name):
  args, message = MISTAKES[name]
  check_one_line(launch(*args), message)


def test_a_mistake_is_one_line_of_a_process_of_its_own():
  check_one_line(launch_alone(*MISTAKES['unknown field'][0]), 'bach_size')


def check_one_line(result, message):
  assert result.returncode == 2
  assert result.stdout == ''
  assert result.stderr.startswith('error: ')
  assert result.stderr.count('\n') == 1
  assert message in result.stderr


WRONG_SWEEPS = {
  "{'optimizer.learning_rat': 1.0}": 'learning_rat',
  "{'training.num_steps': 'many'}": 'num_steps',
  "{'optimizr.b1': 0.5}": 'optimizr',
}


@pytest.mark.parametrize('override', WRONG_SWEEPS)
def test_a_sweep_that_does_not_fit_is_one_clear_line(
  launch, override, tmp_path
):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs.digits import get_config\n'
    f'def sweep():\n  yield {{}}\n  yield {override}\n'
  )
  result = launch(f'--config={path}', '--sweep_index=1')
  assert result.returncode == 2
  assert result.stderr.count('\n') == 1
  assert 'mine.py, override 1, ' in result.stderr
  assert WRONG_SWEEPS[override] in result.stderr


def test_a_sweep_changes_the_config_and_the_workdir(launch, tmp_path):
  """--mode=noise needs no training; its record is where a run's would be."""
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs.noise_photo import get_config\n'
    'def sweep():\n'
    "  yield {'schedule.alphas': (0.9,)}\n"
    "  yield {'schedule.alphas': (0.9, 0.5)}\n"
  )
  result = launch(
    f'--config={path}:smoke', '--mode=noise', '--sweep_index=1', cwd=tmp_path
  )
  assert result.returncode == 0, result.stderr
  assert 'sweep 1 of 0..1: schedule.alphas=(0.9, 0.5)' in result.stdout
  found = tmp_path / 'runs' / 'mine-smoke-1'
  assert any(found.rglob('*.png'))


def test_a_config_with_a_syntax_error_says_where(launch, tmp_path):
  (tmp_path / 'mine.py').write_text('def get_config(:\n  pass\n')
  result = launch(f'--config={tmp_path}/mine.py')
  assert result.returncode == 2
  assert result.stderr.count('\n') == 1 and 'mine.py, line 1' in result.stderr


WRONG_FILES = {
  'x = 1\n': 'mine.py: get_config() is missing, and must return a config',
  'def get_config(arg=""):\n  pass\n': (
    'mine.py: get_config() returns None, and must return a config'
  ),
  'def get_config(arg=""):\n  return {"seed": 1}\n': (
    'mine.py: get_config() returns dict, and must return a config'
  ),
  'def get_config(arg=""):\n  return int("a")\n': "10: 'a' (mine.py, line 2)",
}


@pytest.mark.parametrize('text', WRONG_FILES)
def test_a_file_that_gives_no_config(launch, text, tmp_path):
  (tmp_path / 'mine.py').write_text(text)
  for more in ([], ['--config.seed=1']):
    result = launch('--config=mine.py', *more, cwd=tmp_path)
    check_one_line(result, WRONG_FILES[text])


WRONG_RUNS = {
  b'\x89PNG\r\n': 'config.json cannot be read as JSON: ',
  b'[1, 2]': 'it holds a JSON list, and an object is needed',
  b'{"data": 3}': 'config.json is not the config of a run: data is 3',
  b'{"seed": "a"}': 'is not the config of a run of this version: Could not',
  b'[' * 100_000: 'config.json cannot be read as JSON: ',
}


@pytest.mark.parametrize('content', WRONG_RUNS, ids=lambda x: repr(x[:9]))
def test_a_stored_config_that_is_none(launch, content, tmp_path):
  (tmp_path / 'config.json').write_bytes(content)
  for mode in ('sample', 'train'):
    result = launch(f'--config=configs/run.py:{tmp_path}', f'--mode={mode}')
    check_one_line(result, WRONG_RUNS[content])


def test_a_stored_config_imports_what_the_command_allows(launch, tmp_path):
  """And what a flag names; that of a sampler is not read from a run else."""
  (tmp_path / 'own.py').write_text(
    'open("imported", "a").write(".")\n'
    'def sampler():\n  raise ValueError("called")\n'
  )
  stored = {
    'data': {'name': 'synthetic'},
    'sampling': {'sampler': 'own:sampler'},
  }
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  config = f'--config={ROOT}/configs/run.py:{tmp_path}'
  for mode in ('sample', 'report', 'train', 'evaluate', 'noise'):
    result = launch(config, f'--mode={mode}', cwd=tmp_path)
    check_one_line(result, "sampling.sampler='own:sampler' would be imported")
    assert 'add --allow=own:sampler to the command' in result.stderr
  assert not (tmp_path / 'imported').exists()
  for flag in ('--allow=own:sampler', '--config.sampling.sampler=own:sampler'):
    result = launch(config, flag, '--mode=sample', cwd=tmp_path)
    assert 'would be imported' not in result.stderr
  assert (tmp_path / 'imported').read_text() == '..'


def test_help_lists_modes_flags_fields_and_configs(launch):
  result = launch('--help')
  assert result.returncode == 0
  assert '--workdir' in result.stdout and '  sample   ' in result.stdout
  result = launch('--help_mode=sample')
  assert result.returncode == 0 and 'sampling.eta=<float>' in result.stdout
  result = launch('--mode', 'list')
  assert result.returncode == 0 and '  configs/digits.py ' in result.stdout


@pytest.fixture
def installed(tmp_path):
  """A folder to import from, as pip fills it: configs are in the package."""
  package = tmp_path / 'site' / 'diffusion_jax'
  package.mkdir(parents=True)
  for part in (ROOT / 'diffusion_jax').iterdir():
    (package / part.name).symlink_to(part)
  (package / 'configs').symlink_to(ROOT / 'configs')
  return package.parent


def test_the_installed_command_runs_the_installed_configs(installed, tmp_path):
  """From an empty folder; a sweep reads the file once more."""
  result = subprocess.run(
    [
      sys.executable,
      *('-c', 'from diffusion_jax import command_line; command_line.run()'),
      *('--config', 'configs/digits.py:smoke', '--mode=noise'),
      *('--sweep_index=0', '--config.noise.size=32'),
    ],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(installed)},
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'runs' / 'digits-smoke-0' / 'strip.png').is_file()


@pytest.fixture
def imports(monkeypatch):
  """sys.modules without configs, and as it was afterwards."""
  kept = sys.modules.copy()
  for name in kept:
    if name.partition('.')[0] == 'configs':
      del sys.modules[name]
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if not is_root(p)])
  yield
  for name in sys.modules.keys() - kept.keys():
    if 'configs' in name.split('.'):
      del sys.modules[name]
  sys.modules.update(kept)


def is_root(path):
  return Path(path or '.').resolve() == ROOT


@pytest.fixture
def package(installed, monkeypatch):
  package = installed / 'diffusion_jax'
  path = [str(package), *diffusion_jax.__path__]
  monkeypatch.setattr(diffusion_jax, '__path__', path)
  return package


def test_the_nearest_config_is_taken(imports, package, tmp_path, monkeypatch):
  """And with it the `configs` that its file imports."""
  monkeypatch.chdir(tmp_path)
  for path in ('configs/digits.py', './configs/digits.py'):
    found = command_line.find_config(path)
    assert found == str(package / 'configs' / 'digits.py')
  assert sys.modules['configs'].__name__ == 'diffusion_jax.configs'
  for path in ('configs/digit.py', 'digits.py', 'my/configs/digits.py', ''):
    assert command_line.find_config(path) is None

  del sys.modules['configs']
  (tmp_path / 'configs').mkdir()
  for name in ('__init__', 'base', 'digits'):
    (tmp_path / 'configs' / f'{name}.py').touch()
  monkeypatch.syspath_prepend(tmp_path)
  assert command_line.find_config('configs/digits.py') == 'configs/digits.py'
  assert sys.modules['configs'].__path__ == [str(tmp_path / 'configs')]


def test_a_config_of_the_users_may_import_the_installed_ones(
  imports, package, tmp_path, monkeypatch
):
  (tmp_path / 'mine.py').touch()
  monkeypatch.chdir(tmp_path)
  assert command_line.find_config('mine.py') == 'mine.py'
  assert sys.modules['configs'].__name__ == 'diffusion_jax.configs'


def test_all_packages_are_installed():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  found = {
    '.'.join(path.parent.relative_to(ROOT).parts)
    for path in ROOT.glob('diffusion_jax/**/__init__.py')
  }
  packages = project['tool']['setuptools']['packages']
  assert sorted(packages) == sorted(found | {'diffusion_jax.configs'})


def test_keywords_of_python_and_paths_are_words_in_a_list():
  argv = [
    'launch.py',
    '--config.evaluation.metrics=fid,is',
    '--config.report.runs=runs/a,b-c',
    '--x=a,b',
    '--x=-1,8',
    '--x=.5,1e-3',
    '--y=is',
    '--allow=mine:a,mine:b',
  ]
  assert command_line.quote_keywords(argv) == [
    'launch.py', "--config.evaluation.metrics='fid,is'",
    "--config.report.runs='runs/a,b-c'", '--x=a,b', '--x=-1,8', '--x=.5,1e-3',
    '--y=is', '--allow=mine:a,mine:b',
  ]  # fmt: skip

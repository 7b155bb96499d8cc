"""The command line as a user types it: what works, and what mistakes say."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

import diffusion_jax
from diffusion_jax.app import cli, models
from diffusion_jax.app.config import refusals, store, trust
from diffusion_jax.app.modes import train
from diffusion_jax.errors import Preempted, UserError
from tests.app import conftest
from tests.app.conftest import arrays_of, lines_of, params_of, smoke, stored_run
from tests.conftest import HANG_SECONDS

ROOT = Path(__file__).parents[2]


# Runs launch.py in a fork for each line of its input: [arguments, working
# folder, file of stdout, file of stderr]. The slow imports are done once.
# Prints the exit codes.
FORKS = """
import json, os, runpy, sys, traceback
from diffusion_jax.app import cli

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
  """Returns launch(*args, cwd=ROOT), which runs launch.py in a fork."""
  out = tmp_path_factory.mktemp('said')
  forks = subprocess.Popen(
    [sys.executable, '-c', FORKS, str(ROOT)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,  # JAX warns of forks, for what happens in them
    text=True,
    bufsize=1,
  )

  def one(*args, cwd=ROOT):
    files = out / 'stdout', out / 'stderr'
    for file in files:
      file.unlink(missing_ok=True)
    forks.stdin.write(json.dumps([args, str(cwd), *map(str, files)]) + '\n')
    code = int(forks.stdout.readline())
    said = [file.read_text() for file in files]
    return subprocess.CompletedProcess(args, code, *said)

  yield one
  forks.stdin.close()
  assert forks.wait(HANG_SECONDS) == 0


DIGITS = '--config=configs/digits.py'
# [arguments] => a part of the line; an indented line continues a row.
MISTAKES = """
=> which experiment? Give --config=configs/digits.py
--config=configs/digit.py => no config file or run configs/digit.py (did you mea
--mode=trane => --mode=trane (did you mean 'train'?) is not one of train, sample
--config=configs/digits.py:smok => configs/digits.py:smok (did you mean 'smoke'
--config=configs/digits.py --wrkdir=x => no flag --wrkdir (did you mean --workd
--confg=configs/digits.py => no flag --confg (did you mean --config?)
--config=configs/digits.py --num_steps=9 => no flag --num_steps (did you mean
  --config.schedule.num_steps or --config.training.num_steps
--config=configs/digits.py --zzz=x => there is no flag --zzz: --help lists them
--config=configs/digits.py --sampling.num_steps=10 => no flag
  --sampling.num_steps (did you mean --config.sampling.num_steps?)
--config=configs/digits.py --learning_rate=1 => no flag --learning_rate (did you
  mean --config.optimizer.learning_rate?)
--flagfile=/nowhere => Unable to open flagfile: [Errno 2] No such file
--config=configs/digits.py:smoke --config.conditioning.labels=False
  --config.conditioning.dropout=0.2 => config.conditioning: dropout=0.2 has no
  effect without labels, text, image or context
--config=configs/digits.py smoke => unexpected argument 'smoke'
--config=configs/noise_photo.py --mode=noise --config.schedule=alphas
  --config.schedule.values=@none.txt => @none.txt cannot be read as a file of
--config=README.md => README.md is not a config: give a Python file, name.py
--config=az://a/run => --config: az://a/run: a run is in a folder, or in a bucket
--config=configs/digits.py --workdir=s3://a => --workdir: s3://a: give a folder of
--config=configs/digits.py --config.convert.out=gs://a/b => config.convert.out:
  gs://a/b is an address, and
--config=~/nowhere --mode=sample => no config file or run /
--config=tests --mode=sample => there is no run in tests: train it first
--config=configs/digits.py --mode=sample --workdir=nowhere => there is no run in
  nowhere: train it first, or give the --workdir of
--config=configs/digits.py --coordinator=a:1 => --coordinator, --num_hosts and
  --host need --multihost
--config=configs/digits.py --multihost => --multihost: JAX detected no SLURM, Ku
"""


def check_one_line(result, message):
  assert result.returncode == 2
  assert result.stdout == ''
  assert result.stderr.startswith('error: ')
  assert result.stderr.count('\n') == 1
  assert message in result.stderr, result.stderr


@pytest.mark.parametrize('row', re.split(r'\n(?=\S)', MISTAKES.strip()))
def test_a_mistake_is_one_clear_line(launch, row):
  args, _, message = ' '.join(row.split()).rpartition('=> ')
  check_one_line(launch(*args.split()), message)


def test_flags_of_a_file_are_flags(tmp_path, monkeypatch):
  """One a line, as absl reads them; later ones win."""
  file = tmp_path / 'flags'
  file.write_text(f'# a trial\n{DIGITS}:smoke\n--config.seed=1e0\n')
  with flagsaver.flagsaver():
    monkeypatch.setattr(cli, '_FIELDS', [])
    cli.parse(['launch.py', f'--flagfile={file}', '--config.seed=7'])
    assert cli._CONFIG.value == 'configs/digits.py:smoke'
    assert cli._FIELDS == [('seed', '1e0'), ('seed', '7')]


def test_a_refused_config_writes_nothing_and_joins_no_process(launch, tmp_path):
  args = f'--config={ROOT}/configs/digits.py', '--config.optimizer.b2=1'
  result = launch(*args, '--multihost', cwd=tmp_path)
  check_one_line(result, 'config.optimizer.b2=1.0 is not a number in [0, 1)')
  assert not list(tmp_path.iterdir())


def test_a_stored_config_imports_what_the_command_allows(launch, tmp_path):
  """A name in a flag is allowed too."""
  (tmp_path / 'own.py').write_text(
    'open("imported", "a").write(".")\ndef schedule():\n  raise ValueError("called")\n'
  )
  run = stored_run(tmp_path / 'run', schedule={'name': 'own:schedule'})
  (run / 'checkpoints' / '4').mkdir(parents=True)
  small = smoke().network.name
  for mode in ('train', 'sample', 'average'):
    result = launch('--config=run', f'--mode={mode}', f'--allow={small}', cwd=tmp_path)
    check_one_line(result, "config.schedule='own:schedule' would be imported")
    assert 'add --allow=own:schedule to the command' in result.stderr
  assert not (tmp_path / 'imported').exists()
  for name in ('own:schedule', 'own'):
    result = launch('--workdir=run', f'--allow={small},{name}', '--mode=sample', cwd=tmp_path)
    assert 'would be imported' not in result.stderr
    (tmp_path / 'imported').unlink()
  result = launch('--config=run', f'--allow={small},own:schedule', '--mode=sample', cwd=tmp_path)
  assert 'would be imported' not in result.stderr
  assert (tmp_path / 'imported').read_text() == '.'


def test_an_exception_in_a_part_of_ones_own_is_one_line(launch, tmp_path):
  (tmp_path / 'own_part.py').write_text('def schedule():\n  return 1 / 0\n')
  args = (f'--config={ROOT}/configs/digits.py', '--config.schedule=own_part:schedule')
  found = launch(*args, cwd=tmp_path)
  check_one_line(found, 'error: ZeroDivisionError: division by zero (')
  assert found.stderr.endswith('own_part.py, line 2)\n')


def test_help_lists_modes_flags_fields_and_configs(launch):
  result = launch('--help')
  assert result.returncode == 0
  assert '--workdir' in result.stdout and '  sample   ' in result.stdout
  result = launch('--help_mode=train', DIGITS, '--config.network=dit')
  assert result.returncode == 0 and 'network.patch_size=2' in result.stdout
  result = launch('--mode', 'list')
  assert result.returncode == 0 and '  configs/digits.py ' in result.stdout


# -- in this process ---------------------------------------------------------


@pytest.mark.parametrize(
  'argv, rest, fields',
  [
    (['--config.a.b=1'], [], [('a.b', '1')]),
    (['-config.a=1', '--mode=sample'], ['--mode=sample'], [('a', '1')]),
    (['--config.a', '1', 'x'], ['x'], [('a', '1')]),
    (['--config.a', '-1'], [], [('a', '-1')]),
    (['--config.a', '--config.b=2'], [], [('a', 'true'), ('b', '2')]),
    (['--config=x', '--config.a=b=c'], ['--config=x'], [('a', 'b=c')]),
    (['--config.a='], [], [('a', '')]),
    (['--config.report.runs=runs/a,b-c'], [], [('report.runs', 'runs/a,b-c')]),
  ],
)
def test_flags_of_fields_are_taken_out(argv, rest, fields):
  assert cli.split_flags(argv) == (rest, fields)


def test_a_list_comes_from_a_file(tmp_path, monkeypatch):
  (tmp_path / 'alphas.txt').write_text('0.9\n0.8\n 0.7 0.6\n')
  monkeypatch.chdir(tmp_path)
  assert cli.text_of('@alphas.txt') == '0.9,0.8,0.7,0.6'
  assert cli.text_of('a@b') == 'a@b'


@pytest.fixture
def flags():
  """Sets flags of the program for a test."""
  if not cli.flags.FLAGS.is_parsed():
    cli.flags.FLAGS(['launch.py'])
  with flagsaver.flagsaver():
    yield lambda **values: [setattr(cli.flags.FLAGS, name, value) for name, value in values.items()]


def test_the_workdir_is_named_after_the_config(flags, tmp_path):
  of = lambda path, argument='': cli.Command(path, argument, []).workdir()
  assert of('configs/digits.py') == 'runs/digits'
  assert of('/x/mine.py', 'smoke') == 'runs/mine-smoke'
  flags(sweep_index=3)
  assert of('configs/digits.py', 'smoke') == 'runs/digits-smoke-3'
  assert of(str(tmp_path)) == str(tmp_path)
  flags(workdir='elsewhere')
  assert of('configs/digits.py') == 'elsewhere'


def test_a_trial_of_own_pictures_has_the_shape_of_the_config(command):
  fields = {'data.path': '/my/pictures'}
  for more in {}, {'data': 'folder'}, {'data.labelled': 'True'}:
    fields |= more
    config = command('configs/pictures.py', 'smoke', **fields)
    data = config.config('train', 'x').data
    assert (data.name, data.path) == ('folder', '/my/pictures')
    assert data.image_shape == (32, 32, 3)
  flags = {'data': 'npz', 'data.path': 'x.npz'}
  config = command('configs/pictures.py', 'smoke', **flags).config('train', 'x')
  assert config.data.name == 'npz'
  config = command('configs/pictures.py', 'smoke').config('train', 'x')
  assert config.data.name == 'synthetic'


@pytest.fixture
def command(flags, monkeypatch):
  monkeypatch.setattr(trust, '_allowed', set())
  monkeypatch.chdir(ROOT)
  return lambda path, argument='', **fields: cli.Command(path, argument, [*fields.items()])


def test_variants_and_trials_join(command):
  config = command('configs/digits.py', 'inpainting_smoke').config('train', 'x')
  assert config.conditioning.image.name == 'inpaint'
  assert config.training.num_steps == 4
  for variant in ('inpainting', 'long'):  # the recipe of the guides' figures
    config = command('configs/digits.py', variant).config('train', 'x')
    assert config.training.num_steps == 2500
    rate = config.optimizer.learning_rate, config.optimizer.decay
    assert rate == (4e-3, 'cosine')
  # flags come after the trial
  fields = {'training.num_steps': '7'}
  config = command('configs/digits.py', 'smoke', **fields).config('train', 'x')
  assert config.training.num_steps == 7


def idle_lines(config, mode):
  return [*refusals.lines(refusals.idle(config), config, mode, 'new')]


LEFT_OUT = [
  ('digits', 'conditioning.labels=False', 'conditioning.dropout'),
  ('imagenet256_dit', 'conditioning.labels=False', 'sampling.guidance'),
  ('cifar10_vae', 'training.checkpoint_every=0', 'training.keep_best'),
]


@pytest.mark.parametrize('name, flag, field', LEFT_OUT)
def test_what_a_file_sets_and_a_flag_makes_idle_is_left_out(name, flag, field, command, capsys):
  path, value = flag.split('=')
  mode = 'train'
  config = command(f'configs/{name}.py', **{path: value}).config(mode, 'new')
  assert f'note: config.{field} is not read with ' in capsys.readouterr().out
  assert not idle_lines(config, mode) and not config.at(field)
  # what the command line sets stays, and is refused
  config = store.completed(store.from_file(f'configs/{name}.py'))
  config = store.with_flags(config, [(path, value)])
  config = refusals.without_idle(config, [path, field], 'new', mode)
  assert any(field in line for line in idle_lines(config, mode))


def test_an_unconditional_model_is_one_flag(command, tmp_path, capsys):
  """docs/guidance.md: the labels of configs/digits.py are switched off."""
  labels = {'conditioning.labels': 'False'}
  run = command('configs/digits.py', 'smoke', **labels)
  config = run.config('train', str(tmp_path))
  assert 'note: config.conditioning.dropout' in capsys.readouterr().out
  models.make(config, tmp_path).check('train')


def test_a_run_is_a_config(command, tmp_path):
  """A training with its config has no facts; other modes have them."""
  trust.allow([smoke().network.name])
  stored_run(tmp_path, smoke(seed=7), facts=conftest.DIGITS.as_json())
  run = command(str(tmp_path), **{'sampling.num_steps': '3'})
  used = run.config('sample', str(tmp_path))
  assert (used.seed, used.sampling.num_steps) == (7, 3)
  assert used.facts.x.levels == 17
  again = run.config('train', 'elsewhere')
  assert again.seed == 7 and 'facts' not in again


@pytest.fixture
def run_mode(monkeypatch, flags):
  """Returns run_mode(error): the exit code and output if a mode raises."""

  def run_mode(error, capsys):
    def mode(config, workdir):
      raise error

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, 'run', mode)
    monkeypatch.setattr(cli, '_FIELDS', [])
    for name in ('exit_all', 'leave'):
      monkeypatch.setattr(cli.processes, name, sys.exit)
    flags(config='configs/digits.py')
    with pytest.raises((SystemExit, type(error))) as stop:
      cli.main([])
    return getattr(stop.value, 'code', None), capsys.readouterr()

  return run_mode


def test_the_point_of_a_sweep_is_trained_and_printed_by_one_process(monkeypatch, flags, capsys):
  """It is printed after joining, when only the first process prints."""
  configs = []
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(train, 'run', lambda config, workdir: configs.append(config))
  monkeypatch.setattr(cli, '_FIELDS', [])
  monkeypatch.setattr(cli, 'join', lambda config: print('joined'))
  flags(config='configs/digits.py', sweep_index=5)
  cli.main([])
  first, second = capsys.readouterr().out.splitlines()
  assert first == 'joined' and second.startswith('sweep 5: optimizer.')
  assert configs[0].optimizer.learning_rate == 3.2e-2
  assert configs[0].conditioning.dropout == 0.0


def test_exit_codes(run_mode, capsys):
  code, said = run_mode(UserError('one\n  line'), capsys)
  assert code == 2 and said.err == 'error: one line\n'
  code, said = run_mode(Preempted('saved at step 3'), capsys)
  assert code == cli.PREEMPTED == 42 and said.out == 'saved at step 3\n'
  code, said = run_mode(KeyboardInterrupt(), capsys)
  assert code == 130 and not said.err
  assert said.out == 'interrupted; what was saved is in runs/digits\n'
  code, said = run_mode(KeyboardInterrupt('stopped at step 3'), capsys)
  assert code == 130 and (said.out, said.err) == ('stopped at step 3\n', '')
  code, said = run_mode(ZeroDivisionError(), capsys)  # an internal error
  assert code is None and said.err == ''


def test_what_the_machine_lacks_is_one_line(run_mode, capsys, monkeypatch):
  code, said = run_mode(MemoryError('Unable to allocate 9 GiB'), capsys)
  assert code == 2 and said.err.startswith('error: out of memory: Unable to ')
  lines = 'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n[tf-alloc]'
  code, said = run_mode(jax.errors.JaxRuntimeError(lines), capsys)
  assert code == 2 and 'allocating 9 bytes.. Take smaller b' in said.err
  for error in (RuntimeError("no 'cuda'\nso"), AssertionError()):
    monkeypatch.setattr(jax, 'devices', mock.Mock(side_effect=error))
    code, said = run_mode(error, capsys)
    assert code == 2 and said.err.startswith('error: JAX_PLATFORMS=')
    assert said.err.count('\n') == 1


def test_no_such_device_and_output_in_ascii(tmp_path):
  """A path of other letters is printed with escapes."""
  run = lambda *args, **more: subprocess.run(
    [sys.executable, ROOT / 'launch.py', *args],
    env=os.environ | {'PYTHONIOENCODING': 'ascii'} | more,
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  workdir = f'--workdir={tmp_path}/r'
  said = run(f'{DIGITS}:smoke', workdir, JAX_PLATFORMS='typo')
  check_one_line(said, "JAX_PLATFORMS=typo: Unable to initialize backend 'typo'")
  path = shutil.copy(ROOT / 'configs' / 'noise_photo.py', tmp_path / 'é.py')
  said = run(f'--config={path}', '--help_mode=noise')
  assert said.returncode == 0 and r'\xe9.py' in said.stdout


# -- a network of Flax NNX ----------------------------------------------------

STATISTICS = """

class Normed(NnxNetwork):
  def __init__(self, in_channels, out_channels, inputs, *, rngs):
    super().__init__(in_channels, out_channels, inputs, rngs=rngs)
    self.norm = nnx.BatchNorm(out_channels, rngs=rngs)

  def __call__(self, x, noise, cond=None, *, train=False):
    return self.norm(super().__call__(x, noise, cond, train=train))
"""


def test_a_network_of_nnx_is_trained_resumed_and_sampled(launch, tmp_path):
  """The network is the page's. Running statistics are refused."""
  page = (ROOT / 'docs' / 'program.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  [code] = [block for block in blocks if 'nnx.Module' in block]
  code = 'import jax.numpy as jnp\n' + code + STATISTICS
  (tmp_path / 'in_nnx.py').write_text(code)
  config = f'--config={ROOT}/configs/digits.py:smoke'
  name = '--config.network=in_nnx:NnxNetwork'
  fields = name, '--config.network.width=4', '--workdir=run'

  def run(*args, code=0):
    done = launch(config, *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    return done

  run(*fields, '--config.training.num_steps=3')
  params = params_of(tmp_path / 'run', 'raw')['network']
  assert params['first']['kernel'].shape == (3, 3, 1, 4)
  run(*fields, '--config.training.num_steps=4')
  assert lines_of(tmp_path / 'run', 'loss')
  later = params_of(tmp_path / 'run', 'raw')['network']
  for path, old in jax.tree.leaves_with_path(params):
    new = functools.reduce(lambda tree, key: tree[key.key], path, later)
    assert np.any(old != new), path
  run('--mode=sample', '--workdir=run', '--allow=in_nnx:NnxNetwork')
  assert arrays_of(tmp_path / 'run')['arr_0'].std() > 0
  message = "config.network='in_nnx:Normed' keeps batch_stats"
  done = run('--config.network=in_nnx:Normed', '--workdir=other', code=2)
  assert message in done.stderr and done.stderr.count('\n') == 1


# -- where configs are found -------------------------------------------------


@pytest.fixture
def imports(monkeypatch):
  """Removes configs from sys.modules during a test."""
  kept = sys.modules.copy()
  for name in kept:
    if 'configs' in name.split('.'):  # also diffusion_jax.configs
      del sys.modules[name]
  others = [path for path in sys.path if Path(path or '.').resolve() != ROOT]
  monkeypatch.setattr(sys, 'path', others)
  yield
  for name in sys.modules.keys() - kept.keys():
    if 'configs' in name.split('.'):
      del sys.modules[name]
  sys.modules.update(kept)


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Returns the package as pip installs it: the configs are in it."""
  package = tmp_path / 'site' / 'diffusion_jax'
  package.mkdir(parents=True)
  for part in (*(ROOT / 'diffusion_jax').iterdir(), ROOT / 'configs'):
    (package / part.name).symlink_to(part)
  path = [str(package), *diffusion_jax.__path__]
  monkeypatch.setattr(diffusion_jax, '__path__', path)
  monkeypatch.setattr(cli.processes, 'exit_all', sys.exit)
  return package


def test_the_nearest_config_is_taken(imports, package, tmp_path, monkeypatch):
  """Its file imports the same `configs`."""
  monkeypatch.chdir(tmp_path)
  for path in ('configs/digits.py', './configs/digits.py'):
    found = cli.find_config(f'{path}:smoke', True)
    assert found == (str(package / 'configs' / 'digits.py'), 'smoke')
  assert sys.modules['configs'].__path__ == [str(ROOT / 'configs')]
  for path in ('configs/digit.py', 'digits.py', 'my/configs/digits.py', ''):
    with pytest.raises(SystemExit):
      cli.find_config(path, True)
  assert cli.find_config('', False) == ('', '')

  del sys.modules['configs']
  (tmp_path / 'configs').mkdir()
  for name in ('__init__', 'base', 'digits'):
    (tmp_path / 'configs' / f'{name}.py').touch()
  monkeypatch.syspath_prepend(tmp_path)
  found = cli.find_config('configs/digits.py', True)
  assert found == ('configs/digits.py', '')
  assert sys.modules['configs'].__path__ == [str(tmp_path / 'configs')]


def test_a_config_of_the_users_may_import_the_installed_ones(
  imports, package, tmp_path, monkeypatch
):
  (tmp_path / 'mine.py').touch()
  monkeypatch.chdir(tmp_path)
  assert cli.find_config('mine.py', True) == ('mine.py', '')
  assert sys.modules['configs'].__path__ == [str(ROOT / 'configs')]


@pytest.mark.processes
def test_the_folder_above_a_checkout_does_not_hide_an_editable_install(tmp_path):
  """The checkout has the package's name, and there it is a namespace."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  wheel = project['tool']['hatch']['build']['targets']['wheel']
  places = [str((ROOT / name).resolve()) for name in wheel['dev-mode-dirs']]
  site = tmp_path / 'site'
  site.mkdir()
  (site / 'diffusion_jax.pth').write_text('\n'.join(places))
  (tmp_path / 'diffusion_jax').symlink_to(ROOT)
  code = (
    f'import site; site.addsitedir({str(site)!r})\n'
    'import diffusion_jax as dj\n'
    'from diffusion_jax.app import cli\n'
    'print(dj.q_sample.__module__, *cli.find_config("configs/digits.py", True))'
  )
  result = subprocess.run(
    [sys.executable, '-S', '-c', code],  # without what is installed here
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': sysconfig.get_path('purelib')},
    capture_output=True,
    text=True,
    timeout=HANG_SECONDS,
  )
  name, file = result.stdout.split()
  assert name == 'diffusion_jax.core.process'
  assert Path(file) == ROOT / 'configs' / 'digits.py'

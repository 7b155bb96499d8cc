"""The command line as a user types it: what works, and what mistakes say."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from jax._src import xla_bridge

import configs
from diffusion_jax.app import cli
from diffusion_jax.app.config import trust
from diffusion_jax.app.kinds import idle, store
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.train import mode as train
from diffusion_jax.errors import Preempted, UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app import conftest
from tests.app.conftest import arrays_of, lines_of, params_of, read, smoke, stored_run

ROOT = Path(__file__).parents[2]


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
  --config.training.num_steps or --config.schedule.num_steps or
--config=configs/digits.py --zzz=x => there is no flag --zzz: --help lists them
--config=configs/digits.py --sampling.num_steps=10 => no flag
  --sampling.num_steps (did you mean --config.sampling.num_steps?)
--config=configs/digits.py --learning_rate=1 => no flag --learning_rate (did you
  mean --config.optimizer.learning_rate?)
--config=configs/digits.py --lr=1 => --lr (did you mean --config.optimizer.learning_rate?)
--config=configs/digits.py --sweep_index=x => --sweep_index=x: 'x' is not an integer
--config=configs/digits.py --config=configs/mnist.py => already defined as configs/digits.py
--flagfile=/nowhere => Unable to open flagfile: [Errno 2] No such file
--config=configs/digits.py smoke => unexpected argument 'smoke'
--config=configs/digits.py --config.schedule=alphas
  --config.schedule.values=@none.txt => @none.txt cannot be read as a file of
--mode=convert --config.convert.source=tests/interop/stored/ho => where to? Give
  --workdir=
--config=README.md => README.md is not a config: give a Python file, name.py
--config=az://a/run => --config: az://a/run: a run is in a folder, or in a bucket
--config=configs/digits.py --workdir=s3://a => --workdir: s3://a: give a folder of
--config=configs/digits.py --workdir=gs:/a/b => --workdir: gs:/a/b: write
  gs://bucket/run, with two slashes
--config=configs/digits.py --config.convert.out=gs://a/b => config.convert.out:
  gs://a/b is an address, and
--config=~/nowhere --mode=sample => no config file or run /
--config=tests --mode=sample => there is no run in tests: train it first
--config=configs/digits.py --mode=sample --workdir=nowhere => there is no run in
  nowhere: train it first, or give the --workdir of
--config=configs/digits.py --config.optimizer.warmup_steps=900 =>
  config.optimizer.warmup_steps=900 is not below training.num_steps=900, where the linear decay
  ends: give a smaller one, or a longer training
--config=configs/digits.py --coordinator=a:1 => --coordinator, --num_hosts and
  --host need --multihost
"""


def check_one_line(result, message):
  assert result.returncode == 2
  assert result.stdout == ''
  assert result.stderr.startswith('error: ')
  assert result.stderr.count('\n') == 1
  assert message in result.stderr, result.stderr


@pytest.fixture
def command(monkeypatch, capsys):
  """Returns command(*args, cwd=ROOT), which runs a command line in this process."""
  monkeypatch.setattr(cli, '_FIELDS', [])
  monkeypatch.setattr(cli.processes, 'exit_all', sys.exit)
  monkeypatch.setattr(sys, 'path', [*sys.path])  # A user's module adds its folder.
  monkeypatch.setitem(sys.modules, 'configs', configs)  # find_config sets it
  monkeypatch.delitem(sys.modules, 'own', raising=False)  # of another test

  def command(*args, cwd=ROOT):
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(trust, '_allowed', set())
    code = 0
    with flagsaver.flagsaver():
      try:
        cli.main(cli.parse(['launch.py', *args]))
      except SystemExit as stop:
        code = stop.code or 0
    return subprocess.CompletedProcess(args, code, *capsys.readouterr())

  return command


@pytest.mark.parametrize('row', re.split(r'\n(?=\S)', MISTAKES.strip()))
def test_a_mistake_is_one_clear_line(command, row):
  args, _, message = ' '.join(row.split()).rpartition('=> ')
  check_one_line(command(*args.split()), message)


def test_flags_of_a_file_are_flags(tmp_path, monkeypatch):
  """A file has one flag a line, as absl reads them."""
  file = tmp_path / 'flags'
  file.write_text(f'# a trial\n{DIGITS}:smoke\n--config.seed=1e0\n')
  with flagsaver.flagsaver():
    monkeypatch.setattr(cli, '_FIELDS', [])
    cli.parse(['launch.py', f'--flagfile={file}', '--config.data=moons'])
    assert cli._CONFIG.value == 'configs/digits.py:smoke'
    assert cli._FIELDS == [('seed', '1e0'), ('data', 'moons')]


def test_a_refused_config_writes_nothing_and_joins_no_process(command, tmp_path, monkeypatch):
  args = f'--config={ROOT}/configs/digits.py', '--config.optimizer.b2=1'
  result = command(*args, '--multihost', cwd=tmp_path)
  check_one_line(result, 'config.optimizer.b2=1.0 is not a number in [0, 1)')
  assert not list(tmp_path.iterdir())
  monkeypatch.setattr(xla_bridge, 'backends_are_initialized', lambda: False)  # a new process
  check_one_line(command(DIGITS, '--multihost'), '--multihost: JAX detected no SLURM, Ku')


def test_a_stored_config_imports_what_the_command_allows(command, tmp_path):
  """A name in a flag is allowed too."""
  (tmp_path / 'own.py').write_text(
    'open("imported", "a").write(".")\ndef schedule():\n  raise ValueError("called")\n'
  )
  run = stored_run(tmp_path / 'run', schedule={'name': 'own:schedule'})
  (run / 'checkpoints' / '4').mkdir(parents=True)
  small = smoke().network.name
  for mode in ('train', 'sample', 'average'):
    result = command('--config=run', f'--mode={mode}', f'--allow={small}', cwd=tmp_path)
    check_one_line(result, "config.schedule='own:schedule' would be imported")
    assert 'add --allow=own:schedule to the command' in result.stderr
  assert not (tmp_path / 'imported').exists()
  for run, name in (('--workdir', 'own:schedule'), ('--config', 'own')):
    result = command(f'{run}=run', f'--allow={small},{name}', '--mode=sample', cwd=tmp_path)
    assert 'would be imported' not in result.stderr
    assert (tmp_path / 'imported').read_text() == '.'
    (tmp_path / 'imported').unlink()
    del sys.modules['own']


def test_an_exception_in_a_part_of_ones_own_is_one_line(command, tmp_path):
  (tmp_path / 'own_part.py').write_text('def schedule():\n  return 1 / 0\n')
  args = (f'--config={ROOT}/configs/digits.py', '--config.schedule=own_part:schedule')
  found = command(*args, cwd=tmp_path)
  check_one_line(found, 'error: ZeroDivisionError: division by zero (')
  assert found.stderr.endswith('own_part.py, line 2)\n')


def test_help_lists_modes_flags_fields_and_configs(command):
  for args, text in (
    (['--help'], '  sample   '),
    (['--help_mode=train', DIGITS, '--config.network=dit'], 'network.patch_size=2'),
    (['--mode', 'list'], '  configs/digits.py '),
  ):
    result = command(*args)
    assert result.returncode == 0 and text in result.stdout


# -- parts of a command line --------------------------------------------------


FLAGS = """
--config.a.b=1 => => a.b=1
-config.a=1 --mode=sample => --mode=sample => a=1
--config.a 1 x => x => a=1
--config.a -1 => => a=-1
--config.a --config.b=2 => => a=true b=2
--config=x --config.a=b=c => --config=x => a=b=c
--config.a= => => a=
--config.report.runs=runs/a,b-c => => report.runs=runs/a,b-c
"""


@pytest.mark.parametrize('row', FLAGS.strip().splitlines())
def test_flags_of_fields_are_taken_out(row):
  argv, rest, fields = map(str.split, row.split('=>'))
  assert cli.split_flags(argv) == (rest, [tuple(field.split('=', 1)) for field in fields])


def test_a_list_comes_from_a_file(tmp_path, monkeypatch):
  (tmp_path / 'alphas.txt').write_text('0.9\n0.8\n 0.7 0.6\n')
  monkeypatch.chdir(tmp_path)
  assert cli.text_of('@alphas.txt') == '0.9,0.8,0.7,0.6'
  (tmp_path / 'names.txt').write_text('floor area\n\n rooms 2 \n"a, b",c\n-1e3  .5\n')
  assert cli.text_of('@names.txt') == 'floor area,rooms 2,"a, b",c,-1e3,.5'
  assert cli.text_of('a@b') == 'a@b'
  (tmp_path / 'long.txt').write_text(f'{0.9:.40f},{0.8:.40f}\n{0.7:.18e} {0.6:.18e}\n')
  assert [float(x) for x in cli.text_of('@long.txt').split(',')] == [0.9, 0.8, 0.7, 0.6]


@pytest.fixture
def flags():
  """Sets flags of the program for a test."""
  if not cli.flags.FLAGS.is_parsed():
    cli.flags.FLAGS(['launch.py'])
  with flagsaver.flagsaver():
    yield lambda **values: [setattr(cli.flags.FLAGS, name, value) for name, value in values.items()]


def test_the_workdir_is_named_after_the_config(flags, tmp_path):
  of = lambda path, argument='': str(cli.Command(path, argument, []).workdir)
  assert of('configs/digits.py') == 'runs/digits'
  assert of('/x/mine.py', 'smoke') == 'runs/mine-smoke'
  flags(sweep_index=3)
  assert of('configs/digits.py', 'smoke') == 'runs/digits-smoke-3'
  assert of(str(tmp_path)) == str(tmp_path)
  flags(workdir='elsewhere')
  assert of('configs/digits.py') == 'elsewhere'


def test_a_trial_of_own_pictures_has_the_shape_of_the_config(config_of):
  data = lambda **fields: config_of('configs/pictures.py', 'smoke', **fields).data
  for more in {}, {'data': 'folder'}, {'data.labelled': 'True'}:
    folder = data(**{'data.path': '/my/pictures'} | more)
    assert (folder.name, folder.path) == ('folder', '/my/pictures')
    assert folder.image_shape == (32, 32, 3)
  assert data(**{'data': 'npz', 'data.path': 'x.npz'}).name == 'npz'
  assert data().name == 'synthetic'


@pytest.fixture
def config_of(flags, monkeypatch):
  """Returns the config of a command, of a training by default."""
  monkeypatch.setattr(trust, '_allowed', set())
  monkeypatch.chdir(ROOT)

  def config_of(path, argument='', mode='train', **fields):
    return cli.Command(path, argument, [*fields.items()]).config(mode)

  return config_of


def test_variants_and_trials_join(config_of):
  digits = functools.partial(config_of, 'configs/digits.py')
  config = digits('inpainting_smoke')
  assert (config.conditioning.image.name, config.training.num_steps) == ('inpaint', 4)
  for variant in ('inpainting', 'long'):  # the recipe of the guides' figures
    config = digits(variant)
    assert config.training.num_steps == 2500
    assert (config.optimizer.learning_rate, config.optimizer.decay) == (4e-3, 'cosine')
  # flags come after the trial
  assert digits('smoke', **{'training.num_steps': '7'}).training.num_steps == 7


@pytest.mark.parametrize(
  'name, flag, field',
  [
    ('imagenet256_dit', 'conditioning.labels=False', 'sampling.guidance'),
  ],
)
def test_what_a_file_sets_and_a_flag_makes_idle_is_left_out(name, flag, field, config_of, capsys):
  unread = lambda config: [*lines(idle.IDLE, config, 'train', None)]
  path, value = flag.split('=')
  config = config_of(f'configs/{name}.py', **{path: value})
  assert f'note: config.{field} has no effect with ' in capsys.readouterr().out
  assert not unread(config) and not config.at(field)
  # what the command line sets stays, and is refused
  config = store.with_flags(read(name), [(path, value)])
  config = store.without_idle(idle.IDLE, config, [path, field], RunFolder.at(Path('new')), 'train')
  assert any(field in line for line in unread(config))


def test_a_run_is_a_config(config_of, tmp_path):
  """A training with its config has no facts; other modes have them."""
  trust.allow([smoke().network.name])
  stored_run(tmp_path, smoke(seed=7), facts=conftest.DIGITS.as_json())
  few = {'sampling.num_steps': '3'}
  used = config_of(str(tmp_path), mode='sample', **few)
  assert (used.seed, used.sampling.grid.number) == (7, 3)
  assert used.facts.x.levels == 17
  again = config_of(str(tmp_path), **few)
  assert again.seed == 7 and 'facts' not in again


@pytest.fixture
def run_mode(monkeypatch, flags):
  """Trains configs/digits.py by a stand-in for the mode."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(cli, '_FIELDS', [])

  def run_mode(mode):
    monkeypatch.setattr(train, 'main', mode)
    flags(config='configs/digits.py')
    cli.main([])

  return run_mode


def test_the_point_of_a_sweep_is_trained_and_printed_by_one_process(
  run_mode, monkeypatch, flags, capsys
):
  """The point of a sweep is printed after joining, when only the first process prints."""
  configs = []
  monkeypatch.setattr(cli, 'join', lambda config: print('joined'))
  flags(sweep_index=5)
  run_mode(lambda config, workdir: configs.append(config))
  first, second = capsys.readouterr().out.splitlines()
  assert first == 'joined' and second.startswith('sweep 5: optimizer.')
  assert configs[0].optimizer.learning_rate == 3.2e-2
  assert configs[0].conditioning.dropout == 0.0


FULL = 'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n[tf-alloc]'


@pytest.mark.parametrize(
  'error, code, printed',
  [
    (UserError('one\n  line'), 2, 'error: one line\n'),
    (Preempted('saved at step 3'), 42, 'saved at step 3\n'),
    (KeyboardInterrupt(), 130, 'interrupted; what was saved is in runs/digits\n'),
    (KeyboardInterrupt('stopped at step 3'), 130, 'stopped at step 3\n'),
    (ZeroDivisionError(), None, ''),  # an internal error
    (MemoryError('Unable to allocate 9 GiB'), 2, 'error: out of memory: Unable to '),
    (jax.errors.JaxRuntimeError(FULL), 2, 'allocating 9 bytes.. Try training.machine.accumulate=2'),
    # no such device
    (RuntimeError("no 'cuda'\nso"), 2, 'error: JAX_PLATFORMS='),
    (AssertionError(), 2, 'error: JAX_PLATFORMS='),
  ],
)
def test_how_an_error_of_a_mode_ends(error, code, printed, run_mode, capsys, monkeypatch):
  """An error about what the user or the machine lacks is one line."""
  for name in ('exit_all', 'leave'):
    monkeypatch.setattr(cli.processes, name, sys.exit)
  if 'JAX_PLATFORMS' in printed:
    monkeypatch.setattr(jax, 'devices', mock.Mock(side_effect=error))
  with pytest.raises((SystemExit, type(error))) as stop:
    run_mode(mock.Mock(side_effect=error))
  said = capsys.readouterr()
  assert getattr(stop.value, 'code', None) == code
  used, other = (said.err, said.out) if code == 2 else (said.out, said.err)
  assert printed in used and used.count('\n') == (code is not None) and not other


@pytest.mark.processes
def test_no_such_device_and_output_in_ascii(tmp_path):
  """A name of other letters is printed with escapes."""
  result = subprocess.run(
    [sys.executable, ROOT / 'launch.py', f'{DIGITS}:smoke', f'--workdir={tmp_path}/r'],
    env=os.environ | {'PYTHONIOENCODING': 'ascii', 'JAX_PLATFORMS': 'é'},
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  check_one_line(result, r"JAX_PLATFORMS=\xe9: Unable to initialize backend '\xe9'")


# -- a network of Flax NNX ----------------------------------------------------

STATISTICS = """

class Normed(NnxNetwork):
  def __init__(self, in_channels, out_channels, inputs, *, rngs):
    super().__init__(in_channels, out_channels, inputs, rngs=rngs)
    self.norm = nnx.BatchNorm(out_channels, rngs=rngs)

  def __call__(self, x, noise, cond=None, *, train=False):
    return self.norm(super().__call__(x, noise, cond, train=train))
"""


@pytest.fixture
def in_nnx(command, tmp_path):
  """Returns a function that runs a command beside the page's network, and one with statistics."""
  page = (ROOT / 'docs' / 'parts.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  [code] = [block for block in blocks if 'nnx.Module' in block]
  code = 'import jax.numpy as jnp\n' + code + STATISTICS
  (tmp_path / 'in_nnx.py').write_text(code)
  config = f'--config={ROOT}/configs/digits.py:smoke'

  def run(*args, code=0):
    done = command(config, *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    return done

  return run


def test_running_statistics_are_refused(in_nnx):
  message = "config.network='in_nnx:Normed' keeps batch_stats"
  done = in_nnx('--config.network=in_nnx:Normed', '--workdir=other', code=2)
  assert message in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.slow  # Modules of NNX have tests of their own, and a page whose network it is.
def test_a_network_of_nnx_is_trained_resumed_and_sampled(in_nnx, tmp_path):
  run, name = in_nnx, '--config.network=in_nnx:NnxNetwork'
  fields = '--config.network.width=4', '--workdir=run', '--config.training.machine.mesh=1,1'
  fields += '--config.training.sample_every=0', '--config.training.held_out=None'
  run(name, *fields, '--config.training.num_steps=3')
  params = params_of(tmp_path / 'run', 'raw')['network']
  assert params['first']['kernel'].shape == (3, 3, 1, 4)
  run(name, *fields, '--config.training.num_steps=4')
  assert len(lines_of(tmp_path / 'run', 'loss')) == 4
  later = params_of(tmp_path / 'run', 'raw')['network']
  assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, params, later)))
  one = '--config.training.machine.mesh=1,1'
  run('--mode=sample', '--workdir=run', '--allow=in_nnx:NnxNetwork', one)
  assert arrays_of(tmp_path / 'run')['arr_0'].std() > 0

"""Law: a kept thing is made again when what a part of the user's own has read by itself changes.

The part opens files, lists a folder, imports a module by its name and a package; no field names
them. Each kept thing is made with it, made again (it stays), and made again after each change.
Planted faults: the rows of tests/faults.txt with this file.
"""

import importlib
import itertools
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.modes import MODES, sample
from diffusion_jax.app.train import floors
from diffusion_jax.data import code_sums, drawings, reads
from diffusion_jax.data.simulated import of_simulator
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, smoke, trial, untrained
from tests.app.fields import within
from tests.app.train.test_floors import Estimate, computed, model_of
from tests.conftest import forget_reads
from tests.rows import slow

PARTS = """
import importlib
from pathlib import Path
import numpy as np
import diffusion_jax as dj
from diffusion_jax.data import npz
from diffusion_jax.metrics.metric import SampleMetric
from tests.app import small_network

HERE = Path(__file__).parent

def number():
  import outer_package
  late = importlib.import_module('outer_' + 'late')
  files = [HERE / 'number.txt', HERE / '.hidden.txt', *sorted(HERE.glob('tables/*.txt'))]
  (HERE / 'scratch.txt').write_text('0.0')
  files += [HERE / 'scratch.txt']
  late.ARRAY = npz.read(HERE / 'array.npz', ['a'])['a']  # by a function of ours
  try:
    open(HERE / 'missing.txt')
  except FileNotFoundError:
    pass
  return sum(float(file.read_text()) for file in files) + late.B + outer_package.C

def ddim():
  return dj.ddim(eta=number())

def weight():
  factor = number()
  return lambda level: factor * level.sigma

def score():
  number()
  return SampleMetric({'a': True}, ('values',), lambda samples, reference: [])

class Autoencoder(small_network.SmallAutoencoder):
  def encode(self, x, train=False):
    mean, var = super().encode(x, train)
    return mean * number(), var

def simulate(rng, n):
  return {'x': rng.normal(number(), 1.0, (n, 2))}
"""
LISTED = 'outer_package.py,sha256=a,1\n'
FEW = within('sampling', num_samples=2, batch_size=2, grid__number=2, name='')


class World:
  """The folder of a user, where modes are run as by new processes."""

  def __init__(self, place, patch):
    self.place, self.patch = place, patch
    self.numbers = (i / 1000 for i in itertools.count(2))
    files = {
      'own/outer_parts.py': PARTS,
      'elsewhere/outer_late.py': 'B = 0.001\n',
      'own/number.txt': '0.001',
      'own/.hidden.txt': '0.001',
      'own/tables/a.txt': '0.001',
      'site-packages/outer_package.py': 'C = 0.001\n',
      'site-packages/outer_package-1.0.dist-info/RECORD': LISTED,
    }
    for name, text in files.items():
      self.write(name, text)
    np.savez(place / 'own' / 'array.npz', a=np.zeros(2))
    self.image = place / 'image.png'
    drawings.write_png(self.image, np.zeros((8, 8, 1), np.uint8))
    patch.chdir(place)
    patch.setattr(
      sys, 'path', [*(str(place / x) for x in ('own', 'elsewhere', 'site-packages')), *sys.path]
    )
    patch.setattr(sys, 'dont_write_bytecode', True)
    self.run = untrained(smoke(), place / 'run')
    self.weighted = untrained(smoke(**{'objective.weight': 'outer_parts:weight'}), place / 'other')
    autoencoder = trial('digits_autoencoder', network='outer_parts:Autoencoder')
    self.autoencoder = untrained(autoencoder, place / 'autoencoder')

  def write(self, name, text):
    (self.place / name).parent.mkdir(parents=True, exist_ok=True)
    (self.place / name).write_text(text)

  def begin(self):
    """Forgets what this process has imported and read of the user's."""
    for name in [x for x in sys.modules if x.startswith('outer_')]:
      del sys.modules[name]
    forget_reads()
    for sums in code_sums.of_module, code_sums.of_installed:
      sums.cache_clear()


def samples(world):
  MODES['sample'](of_run(world.run, **FEW, **{'sampling.sampler': 'outer_parts:ddim'}), world.run)
  return world.run / 'samples', '*.npz'


def interrupted(world):
  """Samples whose batches are drawn, but not joined."""
  with world.patch.context() as patch:
    patch.setattr(sample, 'write', stop)
    with pytest.raises(KeyboardInterrupt):
      samples(world)
  return world.run / 'samples', '*.parts/*.npz'


def stop(*args):
  raise KeyboardInterrupt


def edits(world):
  fields = within('edit', 'sdedit', image=world.image, num_samples=1)
  fields['sampling.sampler'] = 'outer_parts:ddim'
  few = {n: x for n, x in FEW.items() if n != 'sampling.num_samples'}
  MODES['edit'](of_run(world.run, **few, **fields), world.run)
  return world.run / 'edits', '*.npz'


def scores(world):
  """The samples of scores, whose scores are computed in any case."""
  fields = within('evaluation', metrics='outer_parts:score', num_generated=2, batch_size=2)
  fields['sampling.sampler'] = 'outer_parts:ddim'
  MODES['evaluate'](of_run(world.run, **FEW, **fields), world.run)
  return world.run / 'evaluation', 'drawn/*.npz'


def losses(world):
  fields = within('evaluation', metrics='loss', num_images=2, batch_size=2)
  MODES['evaluate'](of_run(world.weighted, **fields), world.weighted)
  return world.weighted / 'evaluation', '*/*.parts/*.npz'


def exact_losses(world):
  lines = [{'linear': {'all': Estimate(1.0, float('nan'))}}]
  with world.patch.context() as patch:
    patch.setattr(floors, 'measure', lambda *args: ('loss', lines))
    model = model_of(world.place, smoke(**{'objective.weight': 'outer_parts:weight'}))
    model.objective()
    computed(model)
  return world.place, floors.FILE


def latents(world):
  """Their folder has the user's name, so that other ones are refused."""
  config = trial(
    'digits_latent',
    small=True,
    **{'latent.run': str(world.autoencoder), 'latent.path': str(world.place / 'latents')},
  )
  try:
    MODES['encode'](config, world.place / 'new')
  except UserError as error:
    assert 'latents: opened.' in str(error)
    (world.place / 'latents').rename(world.place / f'latents{len(os.listdir(world.place))}')
    return latents(world)
  return world.place / 'latents', '*.npy'


def simulations(world):
  simulate = importlib.import_module('outer_parts').simulate
  of_simulator(simulate, num_examples=3, kept_in=world.place / 'kept')
  return world.place / 'kept', '*.npz'


# What is written after a thing is made, by a new number: (file, text).
CHANGES = {
  'a file': lambda n: ('own/number.txt', f'{n}'),
  'a module by its name': lambda n: ('elsewhere/outer_late.py', f'B = {n}\n'),
  'a hidden file': lambda n: ('own/.hidden.txt', f'{n}'),
  'a file of a folder': lambda n: ('own/tables/a.txt', f'{n}'),
  'another file in a folder': lambda n: (f'own/tables/{n}.txt', '0'),
  'a file that was missing': lambda n: ('own/missing.txt', f'{n}'),
  'a package': lambda n: (f'site-packages/outer_package-{n}.dist-info/RECORD', LISTED),
}
CONTROLS = {
  'a comment': lambda n: ('elsewhere/outer_late.py', f'# {n}\nB = 0.001\n'),
  'the same': lambda n: ('own/number.txt', '0.001'),
  'a file that is not read': lambda n: ('own/unread.txt', f'{n}'),
  'a file that it writes': lambda n: ('own/scratch.txt', f'{n}'),
}
THINGS = samples, interrupted, edits, scores, losses, exact_losses, latents, simulations


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    yield World(tmp_path_factory.mktemp('outer'), patch)


def made(world, thing):
  """Makes a thing as a new process does; returns its files, each of which is written as a whole."""
  world.begin()
  place, names = thing(world)
  files = {path: path.stat() for path in place.glob(names)}
  assert files
  return {path: (x.st_ino, x.st_mtime_ns) for path, x in files.items()}


# Samples of scores are kept as samples are, and so are the parts of samples.
AS_OTHERS = interrupted, scores, losses, latents
ROWS = [slow(thing) if thing in AS_OTHERS else thing for thing in THINGS]


@pytest.mark.parametrize('thing', ROWS, ids=lambda thing: thing.__name__)
def test_a_change_of_what_a_part_reads_makes_it_anew(thing, world):
  for control in CONTROLS.values():
    world.write(*control(0))
  before, kept = made(world, thing), []
  for control in CONTROLS.values():
    world.write(*control(next(world.numbers)))
  assert made(world, thing) == before
  # A simulation is made without a program.
  for name in CHANGES if thing is simulations else [*CHANGES][:2]:
    world.write(*CHANGES[name](next(world.numbers)))
    after = made(world, thing)
    kept += [name] * (after.items() <= before.items())
    before = after
  assert not kept


SIMULATOR = """
from pathlib import Path
SHIFT = float(Path(__file__).with_name('shift.txt').read_text())

def simulate(rng, n):
  return {'x': SHIFT + rng.uniform(size=(n, 2)), 'context': rng.normal(size=(n, 2))}
"""


@pytest.mark.parametrize('workers', [0, 2])
def test_what_a_simulator_reads_at_its_import_is_of_all_workers(workers, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'outer_simulator.py').write_text(SIMULATOR)
  fields = within('data', 'outer_simulator:simulate', workers=workers, num_examples=3, num_test=3)
  workdir, means = RunFolder.at(tmp_path / 'run'), []
  for shift in 1.0, 8.0:
    (tmp_path / 'shift.txt').write_text(f'{shift}')
    sys.modules.pop('outer_simulator', None)
    forget_reads()
    config = datasets.of_run(trial('two_moons', **fields), workdir)
    means.append(datasets.source_of(config).read(np.arange(3))['x'].mean())
  assert_allclose(np.diff(means), 7.0, rtol=1e-6)  # of equal random numbers


def test_a_training_that_goes_on_says_what_has_changed(world, capsys):
  """It is not refused: a mended part may go on."""
  for control in CONTROLS.values():
    world.write(*control(0))
  notes = []
  for steps, changes in enumerate(([], [], [*CHANGES][:2]), 1):
    for name in changes:
      world.write(*CHANGES[name](next(world.numbers)))
    world.begin()
    fields = within('training', num_steps=steps, batch_size=4, checkpoints__every=1)
    weight = {'objective.weight': 'outer_parts:weight'}
    MODES['train'](smoke(**fields, **weight), world.place / 'trained')
    lines = capsys.readouterr().out.splitlines()
    notes.append([line for line in lines if 'since the last start' in line])
  assert notes[:2] == [[], []]
  names = 'elsewhere/outer_late.py, own/number.txt'
  assert notes[2] == [f'note: {names} changed since the last start: the training goes on with it']


OPENED = []  # the paths that this process opens while a test listens
LISTENS = []


def hear(event, args):
  if LISTENS and event == 'open' and isinstance(args[0], str | os.PathLike):
    if not (args[2] or 0) & (os.O_WRONLY | os.O_CREAT):
      OPENED.append(os.path.abspath(os.fspath(args[0])))


sys.addaudithook(hear)
COMMANDS = {
  'sample': FEW,
  'edit': within('edit', 'sdedit', num_samples=1) | within('sampling', batch_size=2),
  'evaluate': within('evaluation', metrics='loss', num_images=2, batch_size=2),
}


@pytest.mark.parametrize('mode', ['sample', slow('edit'), 'evaluate'])
def test_our_own_code_opens_what_settings_cover(mode, world):
  """They are files of the run, of fields, of packages, of the system, and caches."""
  fields = dict(COMMANDS[mode])
  if mode == 'edit':
    fields['edit.image'] = str(world.image)
  covered = (*reads._left_out(), str(world.run), f'{Path(__file__).parents[1]}/', str(world.image))
  covered += (jax.config.values['jax_compilation_cache_dir'],)
  LISTENS.append(mode)
  MODES[mode](of_run(world.run, **fields), world.run)
  LISTENS.clear()
  found = {x for x in OPENED if code_sums.INSTALLED.isdisjoint(x.split(os.sep))}
  assert str(world.run / 'config.json') in found
  assert not [x for x in found if not x.startswith(covered)]

"""Law: every byte of a run folder is summed or harmless.

A bit of a file is flipped, and each mode gives the same result bit for bit, or one line. Planted
faults: the rows of tests/faults.txt with this file, such as a sum that is not compared.
By default a bit of each kind of file of a run, for two modes; the slow product has the other kinds
of runs and modes. Of `--mode=report` it is what the page is made of.
"""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil

import jax
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app.config import folder
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.data import drawings
from diffusion_jax.errors import UserError
from diffusion_jax.interop import weight_files
from diffusion_jax.report import record
from diffusion_jax.runtime.files import make_folder, read_summed, write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.weights import load
from tests.app.conftest import (
  TRACKED,
  arrays_of,
  as_flags,
  kept,
  printed_by,
  smoke,
  trial,
  untrained,
)
from tests.app.fields import typed, within
from tests.app.small_network import SmallAutoencoder

HELD_OUT = typed('training.held_out.every=4 training.held_out.batches=1')
FEW = TRACKED | HELD_OUT | {'optimizer.decay': 'constant'}
RESULTS = 'samples', 'edits', 'evaluation'


# -- modes: each returns a result ------------------------------------------------


def command(mode, run, **fields):
  """Runs a mode as --config=<run> does."""
  config = store.of_run(RunFolder.at(run), None, [*as_flags(fields)])
  MODES[mode](config, str(run))


def drawn(run):
  fields = within('sampling', num_samples=4, batch_size=4, name='new')
  command('sample', run, **fields)
  return {n: x for n, x in arrays_of(run, 'new').items() if n != 'settings'}


def of_a_width(run):
  fields = within('sampling.weights', 'width', sigma_rel=0.07)
  command('sample', run, **fields, **within('sampling', num_samples=4, batch_size=4, name='width'))
  return arrays_of(run, 'width')['arr_0']


def edited(run):
  fields = typed('edit=sdedit edit.num_samples=2 edit.output=new sampling.batch_size=4')
  command('edit', run, **fields, **{'edit.image': str(run.parent / 'image.png')})
  return arrays_of(run, 'new', 'edits')['arr_0']


def evaluated(run):
  command('evaluate', run, **typed('evaluation.metrics=loss evaluation.num_images=4'))
  content = read_summed(kept(run / 'evaluation', 'loss-test') / 'result.json')
  return {name: x for name, x in content.items() if name != 'settings'}


def converted(run):
  out = run / 'weights.safetensors'
  command('convert', run, **{'convert.to': 'safetensors', 'convert.out': str(out)})
  return dict(weight_files.open_tensors(out))


def continued(run):
  config = store.open_run(RunFolder.at(run), skip=(*roles.NOT_READ, 'facts'), as_saved=False)
  MODES['train'](store.with_flags(config, [('training.num_steps', '5')]), str(run))
  return load.open(run, 'raw', 5).params


def opened(run):
  return dj.open_run(run, num_samples=2, batch_size=4).draw(2)


# -- runs ------------------------------------------------------------------------


def plain(place):
  """Trains a run with snapshots."""
  MODES['train'](smoke(**FEW), str(place / 'plain'))
  return place / 'plain'


def adapters(place):
  """Trains adapters of a run's weights."""
  run = untrained(smoke(), place / 'base')
  fields = within('training.start', 'adapters', rank=2, alpha=3.0, run=str(run))
  MODES['train'](smoke(**FEW | fields), str(place / 'adapters'))
  return place / 'adapters'


def latents(place):
  """Trains a diffusion model of latents."""
  network = f'{SmallAutoencoder.__module__}:SmallAutoencoder'
  untrained(trial('digits_autoencoder', network=network), place / 'autoencoder')
  fields = {'latent.run': str(place / 'autoencoder'), **FEW}
  MODES['train'](trial('digits_latent', small=True, **fields), str(place / 'latents'))
  return place / 'latents'


def moons(place):
  """Trains a run of real numbers, of a simulator with a context."""
  fields = typed('data.num_examples=200 data.num_test=32 training.checkpoints.best=None')
  fields |= typed('sampling.checkpoint=latest')
  MODES['train'](trial('two_moons', **FEW | fields), str(place / 'moons'))
  return place / 'moons'


IMAGES = drawn, of_a_width, edited, evaluated, converted, continued, opened
OTHERS = drawn, continued, opened
USES = {plain: IMAGES, adapters: IMAGES, latents: OTHERS, moons: (*OTHERS, evaluated)}


class Place:
  """A run with kept results, and the result of each use of it."""

  def __init__(self, run, uses, place):
    self.place, self.run = place, place / 'run'
    drawings.write_png(place / 'image.png', np.zeros((8, 8, 1), np.uint8))
    shutil.copytree(run, self.run)
    self.results = {}
    for use in uses:
      if use in (drawn, edited, evaluated):
        self.results[use] = quiet(use, self.run)
      else:
        with self.copied(use) as copy:
          self.results[use] = quiet(use, copy)

  @contextlib.contextmanager
  def copied(self, use):
    """Yields a copy of the run, of links unless the use appends to files."""
    copies = shutil.copy2 if use is continued else os.link
    copy = shutil.copytree(self.run, self.place / 'copy', copy_function=copies)
    yield copy
    shutil.rmtree(copy)

  def files_by_kind(self):
    """Returns {kind: files}; files whose names differ in digits and sums are of a kind."""
    kinds = {}
    for path in sorted(self.run.rglob('*')):
      name = str(path.relative_to(self.run))
      if path.is_file() and path.stat().st_size:
        kind = re.sub(r'/d/\w+|[0-9a-f]{8,}|\d+', '#', name)
        kinds.setdefault(kind, []).append(name)
    return kinds

  def outcome(self, use, name, bit, is_kept):
    """Returns what becomes of a result: 'same', 'another', or a line.

    is_kept: whether results are there already.
    """

    with self.copied(use) as copy:
      data = bytearray((copy / name).read_bytes())
      data[bit // 8] ^= 1 << bit % 8
      (copy / name).unlink()
      (copy / name).write_bytes(data)
      for results in () if is_kept else RESULTS:
        shutil.rmtree(copy / results, ignore_errors=True)
      try:
        return 'same' if same(quiet(use, copy), self.results[use]) else 'another'
      except UserError as error:
        return str(error)


def quiet(use, run):
  """Returns a result, without what is printed."""
  results = []
  with contextlib.redirect_stderr(io.StringIO()):
    printed_by(lambda: results.append(use(run)))
  return results[0]


def same(a, b):
  """Returns whether two results are the same bit for bit."""
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def check(place, cases, seed):
  """Flips a bit of one of the files of each case; cases: (use, files)."""
  rng, wrong = random.Random(seed), []
  for use, names in cases:
    name = rng.choice(names)
    bit = rng.randrange(8 * (place.run / name).stat().st_size)
    is_kept = name.startswith(RESULTS) or rng.random() < 0.5
    outcome = place.outcome(use, name, bit, is_kept)
    if outcome == 'another' or '\n' in outcome:
      wrong.append((use.__name__, name, bit, is_kept, outcome))
  assert not wrong


def shown(run):
  """Returns what the page of a run is made of besides its weights, and what is printed."""
  with contextlib.redirect_stderr(io.StringIO()) as text:
    content = json.dumps(record.read('run', run, {})._asdict(), default=str)
  # A sum without its name is an entry that no page shows.
  return re.sub(r', "[^"]+": "[0-9a-f]{16}"', '', content), text.getvalue()


def test_a_flipped_bit_of_each_kind_of_file_changes_no_result(averaged, tmp_path):
  """Of a checkpoint one file; all of them are flipped below, where `load.open` alone reads them."""
  # An evaluation, whose program is traced each time, of its own files and of each tenth other.
  place = Place(averaged, (drawn, evaluated), tmp_path)
  uses = itertools.cycle((*[drawn] * 9, evaluated))
  kinds = place.files_by_kind().items()
  checkpoint, *others = [kind for kind, _ in kinds if kind.startswith('checkpoints/')]
  cases = (
    (evaluated if kind.startswith('evaluation') else use, names)
    for use, (kind, names) in zip(uses, kinds, strict=False)
    if kind not in others
  )
  check(place, cases, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'make, use',
  [(make, use) for make, uses in USES.items() for use in uses],
  ids=lambda function: function.__name__,
)
def test_flipped_bits_change_no_result_of_any_mode(make, use, tmp_path):
  place = Place(quiet(make, tmp_path), [use], tmp_path)
  check(place, ((use, names) for names in place.files_by_kind().values()), seed=1)


def test_a_flipped_bit_of_any_file_changes_no_page(averaged, tmp_path):
  """The report is made of the same, or one line names the damaged file."""
  run = shutil.copytree(averaged, tmp_path / 'run')
  floors = {'losses': {'loss': {'linear': {'value': 0.5, 'error': 0.1}}}, 'settings': {'seed': 1}}
  write_summed(run / 'loss_floors.json', floors)
  write_summed(make_folder(run / 'evaluation', 'test') / 'result.json', {'scores': {'fd': [1.5]}})
  before = shown(run)
  assert not before[1] and all(x in before[0] for x in ('grad_norm', 'linear', 'fd', 'commits'))

  def is_right(path):
    content, text = shown(run)
    return content == before[0] or path.name in text and text.count('\n') == 1

  assert not wrongs(run, 2, is_right)


def test_a_flipped_bit_of_any_file_of_a_checkpoint_changes_no_weights(averaged, tmp_path):
  """The weights are the same, or one line says what is damaged."""
  run = shutil.copytree(averaged, tmp_path / 'run')
  before = load.open(run, 'average', 4).params

  def is_right(path):
    try:
      return same(load.open(run, 'average', 4).params, before)
    except (UserError, ValueError) as error:
      return 'damaged' in str(error) and '\n' not in str(error)

  assert not wrongs(run / 'checkpoints' / '4', 1, is_right)


def wrongs(folder, count, is_right):
  """Returns the flipped bits, `count` of each file below a folder, that are not right."""
  rng, wrong = random.Random(0), []
  for path in [x for x in sorted(folder.rglob('*')) if x.is_file() and x.stat().st_size]:
    data = path.read_bytes()
    for bit in rng.choices(range(8 * len(data)), k=count):
      flipped = bytearray(data)
      flipped[bit // 8] ^= 1 << bit % 8
      path.write_bytes(flipped)
      if not is_right(path):
        wrong.append((path.name, bit))
    path.write_bytes(data)
  return wrong


def test_a_flipped_bit_of_a_config_is_refused_or_changes_no_value(averaged, tmp_path):
  """The bit is in any byte of config.json; the run has no checkpoints, whose copy would tell."""
  path = tmp_path / 'config.json'
  data = (averaged / 'config.json').read_bytes()
  path.write_bytes(data)
  before, changed = folder.read_config(RunFolder.at(tmp_path)), []
  rng = random.Random(0)
  for place in range(len(data)):
    bit = 1 << rng.randrange(8)
    path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
    folder._read_once.cache_clear()  # of a file of the same size and time
    with contextlib.suppress(UserError):
      content = folder.read_config(RunFolder.at(tmp_path))
      # Without its name the sum is a field, which no config has.
      if {name: content.get(name) for name in before} != before or len(content) > len(before) + 1:
        changed.append((place, bit))
  assert not changed

"""Law: no mode of any kind of model ends in a traceback, whatever happened to the files of a run.

A file of a run is cut, zeroed, missing, or a stranger's: of other types than were written, with
sums that are right. Each mode then works, or one line says what is wrong. Planted faults: a list
of exceptions at the door to Orbax; a card that reads the protocol of any result; a record of
snapshots whose numbers are not compared.
"""

import json
import random
import re
import shutil
import zlib

import numpy as np
import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.interop import weight_files as of_weights
from diffusion_jax.runtime.files import (
  SUM,
  parted,
  summed_line,
  write_json,
  write_npz,
  write_summed,
)
from diffusion_jax.weights import checksums
from tests.app import test_cli
from tests.app.conftest import SMALL, TRACKED, of_run, smoke
from tests.app.fields import typed, within
from tests.damage import cut
from tests.laws.test_kinds_and_modes import KINDS, run_of

command = test_cli.command  # a fixture
# Values of other types than a file has at some place.
OTHERS = [], {}, [[1]], {'a': 1}, 'x', '', None, True, -1, 1.5, 10**30
HOW = 'cut', 'zeroed', 'gone', 'unsummed', 'another', 'another'
FEW = '--config.sampling.num_samples=4 --config.sampling.batch_size=4'
WIDTH = '--config.sampling.weights=width --config.sampling.weights.sigma_rel=0.07'
SCORED = '--config.evaluation.num_images=4 --config.evaluation.batch_size=4'
# The flags that each mode is run with; a mode of two words is tried in two ways.
CELLS = {
  'sample': FEW,
  'sample width': f'{FEW} {WIDTH}',
  'evaluate': f'{SCORED} --config.evaluation.metrics=loss',
  'explain': f'{SCORED} --config.evaluation.features=pixels --config.evaluation.num_generated=4',
  'average': '--config.average.sigma_rel=0.07',
  'convert': '--config.convert.to=huggingface --config.convert.out=out',
  'report': '--config.report.trajectory=False',
  'train': '--config.training.num_steps=5',
}
MADE = """
  sample sampling.num_samples=4 sampling.batch_size=4
  evaluate evaluation.metrics=fd evaluation.features=pixels evaluation.num_generated=16
  evaluate evaluation.metrics=loss evaluation.num_images=4 evaluation.sweep=weights=average,raw
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Makes a run with everything that a run may have."""
  run = tmp_path_factory.mktemp('damaged') / 'run'
  fields = typed('training.held_out.every=2 training.held_out.batches=1 training.sample_every=2')
  fields |= within('training.checkpoints', best__number=1) | {'optimizer.decay': 'constant'}
  MODES['train'](smoke(**TRACKED | fields), str(run))
  for line in MADE.strip().splitlines():
    mode, _, flags = line.strip().partition(' ')
    MODES[mode](of_run(run, **typed(flags)), str(run))
  return run


# -- damage: each returns whether it can be done ---------------------------------


def places(tree, place=()):
  """Yields the paths of all values in a tree of JSON."""
  yield place
  inner = tree if isinstance(tree, dict) else dict(enumerate(tree)) if type(tree) is list else {}
  for name, x in inner.items():
    yield from places(x, (*place, name))


def changed(tree, rng):
  """Returns a tree with a value of another type at a random place, mostly near its root."""
  found = sorted({place[: rng.randint(0, 4)] for place in places(tree)}, key=str)
  place, new = rng.choice(found), rng.choice(OTHERS)
  if not place:
    return new
  tree = part = json.loads(json.dumps(tree))
  for name in place[:-1]:
    part = part[name]
  part[place[-1]] = new
  return tree


def change_arrays(path, rng):
  with np.load(path) as arrays:
    arrays = dict(arrays)
  name = rng.choice(sorted(arrays))
  array = arrays[name]
  if array.dtype.kind == 'U' and not array.ndim:
    arrays[name] = np.array(json.dumps(changed(json.loads(array.item()), rng)))
  else:
    wide = array if array.dtype.kind == 'U' else array.astype(np.longdouble)
    arrays[name] = rng.choice([array[..., :0], wide, np.zeros(3), array.astype(str)])
  write_npz(path, arrays)
  return True


def change_metadata(path, rng):
  metadata, tensors = of_weights.read_metadata(path), of_weights.read_tensors(path)
  texts = {name: json.dumps(changed(json.loads(text), rng)) for name, text in metadata.items()}
  of_weights.write_safetensors(path, tensors, **texts)
  return True


def change_json(path, rng):
  """Changes an object, or that of a line, and its sum with it."""
  try:
    text = path.read_text()
    lines = text.splitlines() if path.suffix == '.jsonl' else [text]
    objects = [json.loads(line) for line in lines]
  except (UnicodeDecodeError, ValueError):
    return False
  i = rng.randrange(len(objects))
  before = objects[i]
  summed = isinstance(before, dict) and SUM in before
  objects[i] = after = changed(parted(before)[0] if summed else before, rng)
  if path.suffix == '.jsonl':
    lines[i] = summed_line(after) if isinstance(after, dict) else json.dumps(after)
    path.write_text('\n'.join(map(str.strip, lines)) + '\n')
  else:
    write = write_summed if summed and isinstance(after, dict) else write_json
    write(path, after)
  return True


CHANGES = {'.npz': change_arrays, '.safetensors': change_metadata}


def damage(path, how, rng):
  """Damages a file of a run; a stranger's checkpoint has sums of its own."""
  above = next((x for x in path.parents if (x / checksums.NAME).exists()), None)
  if how == 'cut':
    cut(path)
  elif how == 'zeroed':
    size = path.stat().st_size
    with path.open('rb+') as file:
      file.seek(rng.randrange(size))
      file.write(bytes(min(64, size)))
  elif how == 'gone':
    path.unlink()
  elif path.name == checksums.NAME or how == 'unsummed' and not above:
    return False
  elif how == 'unsummed' and above:
    (above / checksums.NAME).unlink()
    cut(path)
  elif not CHANGES.get(path.suffix, change_json)(path, rng):
    return False
  elif above:
    checksums.write(above)
  return True


# -- the law ---------------------------------------------------------------------


def files_by_kind(run):
  """Returns {kind: files}; names that differ in digits and sums are of a kind."""
  kinds = {}
  for path in sorted(run.rglob('*')):
    if path.is_file() and path.stat().st_size:
      name = str(path.relative_to(run))
      kinds.setdefault(re.sub(r'/d/\w+|[0-9a-f]{8,}|\d+', '#', name), []).append(name)
  return kinds


def said_by(cell, run, place, command):
  """Runs a mode of a run; returns what is no line for a user, or ''."""
  flags = [f'--mode={cell.partition(" ")[0]}', f'--allow={SMALL}', *CELLS[cell].split()]
  try:
    result = command(f'--config={run.relative_to(place)}', *flags, cwd=place)
  except Exception as error:
    return f'{type(error).__name__}: {error}'
  said = result.stdout + result.stderr
  errors = [x for x in result.stderr.splitlines() if not x.startswith('warning: ')]
  is_line = len(errors) == 1 and errors[0].startswith('error: ')
  is_right = result.returncode == 0 or result.returncode == 2 and is_line
  return '' if is_right and 'Traceback' not in said else said


def check(cell, run, place, command, count, seed=0):
  """Damages `count` files of copies of a run, each of another kind, and runs a mode of each."""
  wrong, rng = [], random.Random(zlib.crc32(f'{cell} {run.name} {seed}'.encode()))
  kinds = [*files_by_kind(run).values()]
  for names in rng.sample(kinds, min(count, len(kinds))):
    name, how, copy = rng.choice(names), rng.choice(HOW), place / 'damaged'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(place / 'out', ignore_errors=True)
    shutil.copytree(run, copy)
    if damage(copy / name, how, rng) and (said := said_by(cell, copy, place, command)):
      wrong.append((name, how, said[-600:]))
  assert not wrong


def test_every_mode_that_reads_a_run_is_tried():
  reads = {name for name, mode in MODES.items() if mode.uses_a_run} | {'train', 'convert'}
  assert {cell.partition(' ')[0] for cell in CELLS} == reads - {'serve', 'edit'}


@pytest.mark.parametrize('cell', CELLS)
def test_no_damage_of_a_run_is_a_traceback(cell, run, tmp_path, command):
  slow = cell in ('report', 'train', 'evaluate', 'explain')  # charts, programs and losses
  check(cell, run, tmp_path, command, count=1 if slow else 3)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('cell', CELLS)
def test_no_damage_of_any_file_is_a_traceback(cell, seed, run, tmp_path, command):
  check(cell, run, tmp_path, command, count=1000, seed=seed + 1)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  return tmp_path_factory.mktemp('kinds')


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_no_damage_of_any_kind_of_model_is_a_traceback(name, place, command, monkeypatch):
  monkeypatch.chdir(place)
  run = run_of(name, place / 'all')
  for cell in CELLS:
    check(cell, run, place, command, count=6)

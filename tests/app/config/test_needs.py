"""What needs levels, pictures, a grid or a context says so in one line."""

import pytest

from diffusion_jax.app.config import needs, store
from diffusion_jax.app.inputs import datasets
from diffusion_jax.data.sources import Facts
from diffusion_jax.data.spec import ArraySpec
from tests.app.conftest import DIGITS, read

NUMBERS = Facts(ArraySpec((8, 8, 1)))
TEXTS = Facts(ArraySpec((16,), 256))
VECTORS = Facts(ArraySpec((4,)))
GIVEN = DIGITS._replace(context=ArraySpec((3,)))

# Path -> a config, a value of the path, flags that it needs.
ROWS = {
  'sampling.clip': ('digits', 'true'),
  'sampling.dynamic_threshold': ('digits', '0.9'),
  'conditioning.self_conditioning': ('digits', 'true'),
  'latent': ('digits_latent', ''),
  'training.random_flip': ('digits', 'true'),
  'conditioning.augment': ('digits_edm', '0.1'),
  'conditioning.image': ('digits', 'inpaint'),
  'conditioning.context': ('digits', 'auto'),
  'conditioning.known': ('joint', ''),
  'sampling.context': ('digits', 'y.npz'),
}
CHOICES = {
  'hybrid': 'digits',
  'vlb': 'digits',
  'masked': 'digits_masked',
  'd3pm': 'digits_d3pm',
  'vae': 'digits_vae',
  'hvae': 'digits_hvae',
  'classifier': 'digits_classifier',
}


def cases():
  """Yields (path, value, config, mode, what it needs) for each row."""
  for path, values, needed in needs.NEEDS:
    for value in values or (None,):
      name, given = ROWS.get(path) or (CHOICES.get(str(value), 'digits'), value)
      yield path, given, name, 'train', needed
  for name, needed in needs.METRICS.items():
    config = {'iw': 'digits_vae', 'accuracy': 'digits_classifier'}
    place = config.get(name, 'digits')
    yield 'evaluation.metrics', name, place, 'evaluate', needed
  for name in needs.EDITS:
    yield 'edit', name, 'digits', 'edit', needs.EDITED
  for name in needs.OPERATORS:
    yield 'edit.operator', name, 'digits', 'edit', needs.EDITED


@pytest.mark.parametrize('path, value, name, mode, needed', [*cases()])
def test_each_row_is_one_line(path, value, name, mode, needed):
  flags = [(path, value)] if value else []
  if path == 'edit.operator':
    flags = [('edit', 'restore'), *flags]
  config = store.with_flags(read(name), flags)
  have = VECTORS if needed is needs.VECTORS else GIVEN
  found = [
    line for line in needs.problems(config, have, mode) if line.startswith(f'config.{path}=')
  ]
  assert not found  # digits with a context have everything
  without = {
    needs.LEVELS[0]: NUMBERS,
    needs.PICTURES[0]: TEXTS,
    needs.GRID[0]: TEXTS,
    needs.CONTEXT[0]: NUMBERS,
    needs.VECTORS[0]: NUMBERS,
  }[needed[0]]
  what, advice = needed
  lines = [
    line for line in needs.problems(config, without, mode) if line.startswith(f'config.{path}=')
  ]
  (line,) = lines
  assert f' needs {what}, and these data are ' in line and advice in line
  assert '\n' not in line and needs.described(without) in line


def test_a_table_without_a_context_hears_of_training_without():
  (line,) = needs.problems(read('two_moons'), VECTORS, 'train')
  assert 'or train without, by conditioning.context=None' in line
  given = store.with_flags(read('vectors'), [('sampling.context', 'y.npy')])
  (line,) = needs.problems(datasets.with_conditions(given, VECTORS), VECTORS, 'sample')
  assert line.startswith('config.sampling.context=y.npy needs a context, and')
  assert line.endswith('without a context: leave it out')


def test_data_are_described_by_their_kind_and_shape():
  assert needs.described(GIVEN) == '17 levels [8, 8, 1]'
  assert needs.described(NUMBERS) == 'real numbers [8, 8, 1] without a context'

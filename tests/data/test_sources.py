import ast
from pathlib import Path

import numpy as np

from diffusion_jax.data import small_sets, sources


def test_importing_sources_is_light():
  """Only the module of tfds builders imports a heavy package at its top."""
  package, imported = Path(sources.__file__).parents[1], set()
  for path in (*package.glob('data/*.py'), *package.glob('demos/*.py')):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.ImportFrom):
        imported.add((node.module.partition('.')[0], path.stem))
      elif isinstance(node, ast.Import):
        names = [name.name.partition('.')[0] for name in node.names]
        imported |= {(name, path.stem) for name in names}
  heavy = {
    'grain',
    'tensorflow_datasets',
    'PIL',
    'sklearn',
    'scipy',
    'requests',
  }
  found = {(name, stem) for name, stem in imported if name in heavy}
  assert found == {('tensorflow_datasets', 'builders')}


def test_two_levels_are_the_halves_of_any_others():
  whole = small_sets.digits('test')
  halves = sources.TwoLevels(whole)
  index = np.array([5, 0, 7])
  images, labels = halves.read(index)
  expected, same = whole.read(index)
  np.testing.assert_array_equal(images, np.where(expected > 8, 1, 0))
  np.testing.assert_array_equal(labels, same)
  assert images.dtype == np.uint8 and halves.num_levels == 2
  assert (len(halves), halves.image_shape) == (360, (8, 8, 1))
  assert halves.num_classes == 10 and halves.in_memory
  every = sources.ArraySource(
    np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
  )
  images, _ = sources.TwoLevels(every).read(np.arange(256))
  np.testing.assert_array_equal(images.ravel(), np.repeat([0, 1], 128))

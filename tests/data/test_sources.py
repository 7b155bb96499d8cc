import ast
from pathlib import Path

import numpy as np

from diffusion_jax.data import pipeline, small_sets, sources


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
  halves = sources.Binarized(whole, 'threshold')
  index = np.array([5, 0, 7])
  images, labels = halves.read(index).values()
  expected, same = whole.read(index).values()
  np.testing.assert_array_equal(images, np.where(expected > 8, 1, 0))
  np.testing.assert_array_equal(labels, same)
  assert images.dtype == np.uint8 and halves.facts.x.levels == 2
  assert (len(halves), halves.facts.x.shape) == (360, (8, 8, 1))
  assert halves.facts.num_classes == 10 and halves.in_memory
  every = sources.ArraySource(
    np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1)
  )
  images = sources.Binarized(every, 'threshold').read(np.arange(256))['x']
  np.testing.assert_array_equal(images.ravel(), np.repeat([0, 1], 128))


def test_binarized_images_are_drawn_once_and_anew_in_each_epoch():
  """Each pixel is 1 with the probability grey level / highest level."""
  whole = small_sets.digits('test')
  source = sources.Binarized(whole)
  index = np.array([5, 0, 7, 5])
  x, labels = source.read(index).values()
  np.testing.assert_array_equal(x, source.read(index)['x'])
  np.testing.assert_array_equal(x[0], x[3])
  np.testing.assert_array_equal(labels, whole.read(index)['label'])
  assert x.dtype == np.uint8 and source.facts.x.levels == 2
  assert (len(source), source.facts.x.shape) == (360, (8, 8, 1))
  draws = 4000
  rows = np.full(draws, 7)
  drawn = source.redrawn(3, np.arange(draws)).read(rows)['x']
  p = whole.read(index)['x'][2] / 16
  deviation = np.sqrt(p * (1 - p) / draws)
  assert np.abs(drawn.mean(axis=0) - p).max() > 0  # random
  assert np.all(np.abs(drawn.mean(axis=0) - p) <= 4.5 * deviation)
  pairs = drawn.reshape(draws, -1)[:, (0 < p.ravel()) & (p.ravel() < 1)]
  correlation = np.corrcoef(pairs.T) - np.eye(pairs.shape[1])
  assert np.abs(correlation).max() < 5 / np.sqrt(draws)  # pixels, and epochs
  other = source.redrawn(4, np.arange(draws)).read(rows)['x']
  assert not np.array_equal(drawn, other)


def test_batches_of_binarized_images_follow_from_seed_and_epoch():
  """The rows of a host are those of the whole batch, over an epoch's end."""
  source = sources.Binarized(small_sets.digits('test'))
  whole = pipeline.batch_at(source, 100, 0, 3)['x']
  assert set(np.unique(whole)) == {-1, 1}
  part = pipeline.batch_at(source, 100, 0, 3, rows=slice(50, 75))['x']
  np.testing.assert_array_equal(part, whole[50:75])
  epochs = [
    np.concatenate(
      [pipeline.batch_at(source, 90, 0, 4 * e + i)['x'] for i in range(4)]
    )
    for e in range(2)
  ]
  grey = source.source.read(np.arange(360))['x']
  ones = [int(np.sum(x > 0)) for x in epochs]
  assert ones[0] != ones[1]
  np.testing.assert_allclose(ones, np.sum(grey / 16.0), rtol=0.02)

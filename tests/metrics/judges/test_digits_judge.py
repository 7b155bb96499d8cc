"""The judge of digits is as accurate as its SVM, and notices wrong labels and noise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_jax.data import small_sets
from diffusion_jax.metrics.judges import digits_judge
from diffusion_jax.metrics.judges.digits_judge import diversity, judge
from tests import as_main


@pytest.fixture(scope='module')
def test_split():
  source = small_sets.digits('test')
  values = source.facts.x
  return values.decode(values.encode(source.x)), source.label


def test_real_digits_are_read_and_the_figure_is_the_svms_own(test_split):
  result = judge(*test_split)
  assert result['accuracy'] == result['real']  # nothing is lost in the file
  assert result['real'] > 0.98
  p = result['real']
  assert_allclose(result['error'], (p * (1 - p) / 360) ** 0.5)


def test_wrong_labels_and_noise_are_noticed(test_split):
  pictures, labels = test_split
  assert judge(pictures, (labels + 1) % 10)['accuracy'] < 0.02
  noise = np.random.default_rng(0).integers(0, 256, pictures.shape, np.uint8)
  assert judge(noise, labels)['accuracy'] < 0.2


def test_diversity_is_the_mean_distance_within_classes(test_split):
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (9, 4, 3, 1), np.uint8)
  labels = np.array([0, 1, 0, 2, 1, 0, 1, 3, 0])
  x = pictures / 127.5 - 1
  apart = [
    np.linalg.norm(x[i] - x[j]) for i in range(9) for j in range(i) if labels[i] == labels[j]
  ]
  assert_allclose(diversity(pictures, labels), np.mean(apart))
  assert diversity(np.repeat(pictures[:1], 4, 0), np.zeros(4)) < 1e-6
  assert np.isnan(diversity(pictures, np.arange(9)))
  # real digits of a class are closer than digits of any
  assert diversity(*test_split) < 0.85 * diversity(test_split[0], 0 * test_split[1])


def test_the_command(tmp_path, test_split):
  path = tmp_path / 'samples.npz'
  for name in ('arr_0', 'images'):
    np.savez(path, **{name: test_split[0]}, labels=test_split[1])
    result = as_main.run(digits_judge, path)
    assert result.returncode == 0
    first, second = result.stdout.splitlines()
    assert first.startswith('360 samples: 99.4% +- 0.4% classified')
    apart = second.split()  # the samples are the real test digits
    assert float(apart[0]) == float(apart[-1].strip(')')) > 1.0

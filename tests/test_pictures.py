"""What docs/pictures.py and benchmarks.memorised measure, and the pages print."""

import functools
import importlib.util
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from benchmarks import memorised
from diffusion_jax.data import images
from diffusion_jax.metrics.judges import digits_judge
from tests.test_readme import ROOT


@functools.cache
def pictures():
  """Imports docs/pictures.py, which is in no package."""
  spec = importlib.util.spec_from_file_location('pictures', ROOT / 'docs' / 'pictures.py')
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def printed(page, start, end):
  """Returns the numbers of a page between two words."""
  text = ' '.join((ROOT / 'docs' / page).read_text().split())
  (part,) = re.findall(f'{re.escape(start)}(.*?){re.escape(end)}', text)
  return [float(x.replace(',', '')) for x in re.findall(r'(?<![\w.])\d[\d,]*(?:\.\d+)?', part)]


def autoencoder(encode):
  """An encoder of two latents, and a decoder of nearly certain mean 0."""
  output = jnp.concatenate([jnp.zeros((8, 8, 1)), jnp.full((8, 8, 1), -20.0)], axis=-1)
  return SimpleNamespace(
    measured=SimpleNamespace(
      encode=lambda params, t, x: encode(x.reshape(len(x), -1)[:, 20:22]),
      decode=lambda params, t, z: jnp.broadcast_to(output, (len(z), 8, 8, 2)),
      latent_shape=lambda: (2,),
    )
  )


@pytest.mark.docs
def test_the_aggregate_posterior_of_known_encoders():
  """An encoder that ignores x has the prior; one of N points far apart has log N nats."""
  same = autoencoder(lambda x: dj.Normal(jnp.zeros_like(x), jnp.ones_like(x)))
  numbers, z, x, _ = pictures().two_consistencies(same, {'network': {}}, draws=4000)
  assert numbers['KL(q(z) | p(z))'] == pytest.approx(0, abs=1e-9)
  assert numbers['mean of KL(q(z|x) | p(z))'] == pytest.approx(0, abs=1e-9)
  assert_allclose(z.std(axis=0), 1, atol=5 / 8000**0.5)
  assert not x['p(z)'].any()
  assert numbers['covariance, p(z)'] == pytest.approx(1)  # All of the digits' is missing.

  def apart(x):  # a place of its own for each, whatever it shows
    place = jnp.arange(float(len(x)))
    return dj.Normal(jnp.stack([place, -place], axis=1), jnp.full_like(x, 1e-4))

  numbers, *_ = pictures().two_consistencies(autoencoder(apart), {'network': {}}, draws=4000)
  information = numbers['mean of KL(q(z|x) | p(z))'] - numbers['KL(q(z) | p(z))']
  # The mean over all examples, for that over those drawn: 4.5 standard errors.
  assert abs(information - np.log(1437)) < 4.5 * numbers['its standard error']


@pytest.mark.docs
def test_the_numbers_of_the_consistencies_fit_each_other():
  """E KL = KL of the average + information, which is at most log N and nearly so."""
  smallest, largest, kl, error, mean, _, most = printed(
    'from_vae_to_diffusion.md', '1,437 digits has a', '. The covariance'
  )
  assert most == pytest.approx(np.log(1437), abs=5e-3)
  assert smallest < 1 < largest and mean - most - 2 * error < kl < mean - most + 0.1


@pytest.mark.docs
def test_the_edge_of_digits_and_of_their_regression():
  """Test digits have the error of the page; other lower halves a larger one."""
  x = images.PICTURES.encode(digits_judge.real('test')[:200])
  digits, error = printed('posterior.md', 'Of 200 test digits', ', by replacement')
  assert pictures().edge(x) == pytest.approx((digits, error), abs=6e-4)
  *_, of_digits = printed('posterior.md', 'The plain jump', ').*')
  assert pictures().jump(x) == pytest.approx(of_digits, abs=5e-3)
  others = np.concatenate([x[:, :4], np.roll(x, 1, axis=0)[:, 4:]], axis=1)
  assert pictures().edge(others)[0] > 0.6


@pytest.mark.docs
def test_a_large_network_memorises_eight_digits():
  """The loss on the eight digits comes nearer to the exact denoiser's, that on others does not."""
  curve = memorised.learn(8, (0, 50, 400), channels=64)
  assert curve.train[0] == pytest.approx(1, abs=0.01) == curve.test[0]
  assert curve.memorised < curve.train[2] < curve.train[1] < curve.test[1]
  assert curve.test[2] > 3 * curve.train[2]
  assert curve.closer > 0.8


@pytest.mark.slow
def test_the_curves_of_memorisation_are_the_pages():
  curves = {size: memorised.learn(size) for size in memorised.SIZES}
  numbers = printed('from_vae_to_diffusion.md', 'On 50 digits', '[Remedies]')
  found = []
  for size, last in ((50, True), (300, True), (1437, False)):
    curve = curves[size]
    at = int(np.argmin(curve.test))
    found += [min(curve.test), curve.steps[at]] * last + [curve.test[-1]]
    if size == 50:
      found += [curve.train[-1], curve.memorised]
    found += [curve.closer]
  numbers = [x for x in numbers if x not in (4000, 300, 1437)]
  assert_allclose(numbers, [*found, curves[50].linear], rtol=0.05)


@pytest.mark.slow
def test_the_consistencies_of_the_digits_vae_are_the_pages(tmp_path, monkeypatch):
  """Trains `digits_vae`; another machine rounds otherwise."""
  monkeypatch.chdir(tmp_path)
  numbers, *_ = pictures().two_consistencies(*pictures().run('digits_vae'))
  smallest, largest, kl, _, mean, *_ = printed(
    'from_vae_to_diffusion.md', '1,437 digits has a', '. The covariance'
  )
  assert_allclose(numbers['least deviation of z'], smallest, rtol=0.03)
  assert_allclose(numbers['largest'], largest, rtol=0.05)
  assert_allclose(numbers['KL(q(z) | p(z))'], kl, rtol=0.1)
  assert_allclose(numbers['mean of KL(q(z|x) | p(z))'], mean, rtol=0.1)
  found = [100 * numbers[f'covariance, {name}'] for name in ('p(z)', 'q(z)', 'test digits')]
  percent = printed('from_vae_to_diffusion.md', 'The covariance of draws', '![coordinates')
  assert_allclose(found, percent, atol=3)


@pytest.mark.slow
def test_the_edges_of_three_methods_are_the_pages(tmp_path, monkeypatch):
  """Trains two networks."""
  monkeypatch.chdir(tmp_path)
  results = pictures().lower_halves()
  found = {name: pictures().edge(x)[0] for name, x in results.items()}
  numbers = printed('posterior.md', 'Of 200 test digits', '(`python docs')
  numbers = [x for x in numbers if x != 10][::2]  # without RePaint's, and errors
  assert found['replacement'] > found['RePaint(10)'] > found['trained (Palette)']
  assert_allclose([*found.values()], numbers, atol=0.04)
  both, _ = printed('posterior.md', 'The plain jump', ').*')
  assert_allclose(
    [pictures().jump(results[n]) for n in ('replacement', 'RePaint(10)')], both, atol=0.05
  )

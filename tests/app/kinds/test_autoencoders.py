"""Runs of VAEs, from training to pictures: vector, chain, latent image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.autoencoders import model as vae
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.drawing import generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.keys import fold_each
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training.objectives import Context
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_eval_step
from tests.app import small_network
from tests.app.conftest import DIGITS, arrays_of, kept, lines_of, normal_params, trial
from tests.app.fields import within

SMALL = {'vae': 'SmallAutoencoder', 'hvae': 'SmallChain'}


def smoke(kind='vae', **changes):
  fields = {'network': f'{small_network.__name__}:{SMALL[kind]}'}
  fields |= within('training', checkpoints__best=None, checkpoints__every=4)
  fields |= within('training.average', warmup=False, decay=0.0)
  fields |= within('sampling', checkpoint='latest', num_samples=4, batch_size=3)
  return trial(f'digits_{kind}', **fields | changes)


def made(workdir='nowhere', **fields) -> Any:
  return make_model(smoke(**fields), RunFolder.at(workdir))


SEEN = within('training', held_out__every=2, checkpoints__best='lowest', checkpoints__every=2)


@pytest.fixture(scope='module')
def hvae(tmp_path_factory):
  """Trains a chain for four steps, with an evaluation after two."""
  workdir = tmp_path_factory.mktemp('runs') / 'hvae'
  MODES['train'](smoke('hvae', **SEEN), workdir)
  return workdir


def test_it_trains_and_evaluates_the_plain_bound(hvae):
  test_line = [x for x in lines_of(hvae) if 'test_loss' in x][-1]
  parts = test_line['test_reconstruction'] + test_line['test_kl']
  assert test_line['test_loss'] == pytest.approx(parts, rel=1e-5)
  assert test_line['test_beta'] == 1.0 and 'test_kl_3' in test_line


@pytest.mark.parametrize('kind', SMALL)
def test_a_test_loss_is_the_loss_of_the_training_after_its_warm_up(kind, key):
  """The best checkpoint is not chosen by a bound that is not trained, with another beta."""
  fields = within('objective', beta=0.01, free_bits=500.0, kl_warmup=50)
  model = made(kind=kind, **fields)
  params, test = normal_params(model), make_eval_step(model.objective(test=True))
  x = DIGITS.x.encode(datasets.source_of(model.config, 'test').read(np.arange(6))['x'])

  @jax.jit
  def run(step):
    state = init_state(params, optax.sgd(0.0))._replace(step=step)
    context = Context(50, params)
    _, (trained, _) = model.objective()(params, context, key, {'x': x})
    return test(state, {'x': x}, key), trained

  for step in (0, 7):
    found, right = ({n: float(x.total) for n, x in part.items()} for part in run(step))
    assert found == pytest.approx(right, rel=1e-5)
    assert found['beta'] == pytest.approx(0.01)
    plain = found['reconstruction'] + found['kl']
    assert found['bits_per_dim'] == pytest.approx(plain, rel=1e-5)
    weighted = found['reconstruction'] + 0.01 * found['kl']
    assert found['loss'] > weighted + 1e-4  # the free bits are in the loss


def test_it_writes_samples_reconstructions_and_ways_between(hvae):
  MODES['sample'](smoke('hvae'), hvae)
  out = hvae / 'samples'
  for name in ('', '-reconstructions', '-interpolation'):
    assert kept(out, 'samples', f'{name}.png').exists()
  arrays = arrays_of(hvae)
  assert arrays['arr_0'].shape == (4, 8, 8, 1)
  decoded = arrays['reconstructions']
  assert decoded.shape == (4, 3, 8, 8, 1)
  way = arrays['interpolation']  # from image 0 to 2, and from 1 to 3
  assert way.shape == (2, vae.COLUMNS, 8, 8, 1)
  for ends, i in ((way[:, 0], slice(0, 2)), (way[:, -1], slice(2, 4))):
    difference = np.abs(ends.astype(int) - decoded[i, 0])
    assert difference.max() <= 16  # one grey level, by rounding
  test = datasets.source_of(smoke('hvae'), 'test').read(np.arange(4))['x']
  levels = np.rint(arrays['originals'] * (16 / 255))
  assert_array_equal(levels, test)


def test_samples_are_draws_of_the_prior_decoded():
  """A sample decodes a z from the prior, and depends on the seed and its index only."""
  model = made()
  params = normal_params(model)
  drawing = generate(model, make_mesh(model.config))
  whole, *_ = drawing(params, np.arange(4), {})
  assert_allclose(drawing(params, np.arange(2, 4), {})[0], whole[2:], atol=1e-5)
  assert np.ptp(whole, axis=0).max() > 1e-4
  key = jax.random.fold_in(stream(0, 'vae_sampling'), 3)
  own = model.measured
  shape = own.latent_shape()
  z = jax.random.normal(jax.random.split(key, 1)[0], shape)[None]
  decode = jax.jit(lambda p, z: own.image(own.decode(p, 1, z)))
  expected = decode(params['network'], z)
  assert_allclose(whole[3:], expected, atol=1e-5)


def test_a_chain_literally():
  """Reconstructions, samples and interpolations are computed layer by layer."""
  model = made(kind='hvae')
  own = model.measured
  params, rng = normal_params(model, 3, 0.8), np.random.default_rng(4)
  x = rng.uniform(-1.0, 1.0, (2, 8, 8, 1))
  seed = model.config.sampling.seed
  keys = jax.random.fold_in(stream(seed, 'vae_sampling'), 5)

  @jax.jit
  def literally(params, x):
    up = lambda t, z: own.encode(params, t, z).mean
    down = lambda t, z: own.decode(params, t, z)
    shown = lambda z: own.image(down(1, z))
    z1 = up(1, x)
    z2 = up(2, z1)
    z3 = up(3, z2)
    back = down(2, z2).mean, down(2, down(3, z3).mean).mean
    rows = jnp.stack([shown(z) for z in (z1, *back)], axis=1)
    part = 1 / (vae.COLUMNS - 1)
    second = (1 - part) * z1[:1] + part * z1[1:]
    ends = shown(z1[:1]), shown(second), shown(z1[1:])
    noise = lambda key: jax.random.normal(key, (1, *z3.shape[1:]))
    eps_1, eps_2, eps_3 = map(noise, jax.random.split(keys, 3))
    z = eps_3
    for t, eps in ((3, eps_2), (2, eps_1)):
      p = down(t, z)
      z = p.mean + jnp.sqrt(p.variance) * eps
    ours = own.reconstruct(params, x)
    ways = own.interpolate(params, x[:1], x[1:])
    return rows, ends, shown(z), ours, ways

  rows, ends, drawn, ours, ways = literally(params['network'], x)
  assert np.ptp(rows, axis=1).max() > 0.1  # the layers tell apart
  assert_allclose(ours, rows, atol=1e-5)
  assert np.abs(ends[0] - ends[2]).max() > 0.1
  for i, end in zip((0, 1, -1), ends, strict=True):
    assert_allclose(ways[:, i], end, atol=1e-5)
  drawing = generate(model, make_mesh(model.config))
  sample, *_ = drawing(params, np.arange(5, 6), {})
  assert_allclose(sample, drawn, atol=1e-5)


def measuring(model, name, params, **fields):
  """Returns index -> a metric of test images, with the noise of their indices."""
  source = datasets.source_of(model.config, 'test')
  metric = model.schema.metrics[name](**fields)
  measure = jax.jit(metric.measure(model.measured))

  def of(index):
    keys = fold_each(jax.random.key(0), index)
    return jax.device_get(measure(params, keys, DIGITS.x.encode(source.read(index)['x']), {}))

  return of


@pytest.mark.parametrize('kind', SMALL)
def test_its_bounds_and_those_of_more_draws(kind):
  """The terms add up; an image has one bound in any batch."""
  model = made(kind=kind)
  params, index = normal_params(model), np.arange(5)
  elbo = measuring(model, 'elbo', params)(index)
  kl = elbo['kl_of_layers' if kind == 'hvae' else 'kl_of_channels']
  assert kl.shape == (5, 3 if kind == 'hvae' else 4)
  total = elbo['reconstruction'] + kl.sum(axis=1) / (64 * np.log(2))
  assert_allclose(elbo['total'], total, rtol=1e-5)
  many = measuring(model, 'iw', params, num_samples=40)
  total = many(index)['total']
  assert total.mean() < elbo['total'].mean()
  assert_allclose(many(index + 3)['total'][:2], total[3:], rtol=1e-5)


def test_two_grey_levels_and_bernoullis(key):
  """A new network says 1/2 of black and white pixels, a bit for each."""
  fields = within('network', 'autoencoder', channels=8, num_groups=4, multipliers=(1,))
  fields |= within('decoding', decoder='bernoulli')
  threshold, drawn = (
    made(**fields, **within('data', 'binarized', how=how)) for how in ('threshold', 'drawn')
  )
  params, objective = jax.jit(threshold.init)(key), threshold.objective(test=True)
  loss, context = jax.jit(objective.__call__), Context()
  for model in (threshold, drawn):
    pictures = datasets.source_of(model.config).read(np.arange(8))['x']
    assert set(np.unique(pictures)) == {0, 1}
    _, (metrics, _) = loss(params, context, key, {'x': model.facts.x.encode(pictures)})
    assert metrics['reconstruction'].total == pytest.approx(1.0, abs=1e-3)

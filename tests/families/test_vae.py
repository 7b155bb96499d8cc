"""Runs of VAEs, from training to pictures: vector, chain, latent image."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, digits_autoencoder, digits_hvae, digits_vae
from diffusion_jax import build, families
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.families import vae
from diffusion_jax.programs import PROGRAMS, evaluate, sample, train
from diffusion_jax.training import checkpoints
from diffusion_jax.training.objectives import Context
from diffusion_jax.runtime.sharding import replicated

CONFIGS = {
  'vae': digits_vae,
  'hvae': digits_hvae,
  'autoencoder': digits_autoencoder,
}
LAYERS = {'vae': 1, 'hvae': 3}


def smoke(kind='vae', **changes):
  config = CONFIGS[kind].get_config('smoke')
  config.training.mesh = (1, 1)
  if kind != 'autoencoder':  # latents of 4x4 need two levels
    config.network.multipliers = (1,)
  config.training.sample_every = 0
  config.training.evaluate_every = 0
  config.training.keep_best = 0
  config.sampling.checkpoint = 'latest'
  config.training.checkpoint_every = 4
  config.training.ema_warmup = False
  config.training.ema_decay = 0.0
  config.sampling.num_samples = 4
  config.sampling.batch_size = 3
  config.evaluation.num_images = 5
  config.evaluation.batch_size = 5
  config.update_from_flattened_dict(changes)
  return config


def trained(kind, tmp_path_factory, **changes):
  """Returns (kind, workdir) of a run of four steps, evaluated after two."""
  workdir = tmp_path_factory.mktemp('runs') / kind
  PROGRAMS['train'](smoke(kind, **SEEN | changes), str(workdir))
  return kind, workdir


SEEN = {
  'training.sample_every': 4,
  'training.evaluate_every': 2,
  'training.keep_best': 1,
  'training.checkpoint_every': 2,
}
WARM = {'objective.kl_warmup': 8}


@pytest.fixture(scope='module')
def warm(tmp_path_factory):
  return trained('vae', tmp_path_factory, **WARM)


@pytest.fixture(scope='module')
def hvae(tmp_path_factory):
  return trained('hvae', tmp_path_factory)


@pytest.fixture(scope='module', params=['warm', 'hvae'])
def run(request):
  return request.getfixturevalue(request.param)


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_it_trains_and_evaluates_the_plain_bound(run):
  kind, workdir = run
  assert (workdir / 'samples' / 'step_00000004.png').exists()
  train_line = [x for x in lines(workdir) if 'loss' in x][-1]
  test_line = [x for x in lines(workdir) if 'test_loss' in x][-1]
  parts = test_line['test_reconstruction'] + test_line['test_kl']
  assert test_line['test_loss'] == pytest.approx(parts, rel=1e-5)
  assert test_line['test_beta'] == 1.0
  # None is the default of the objective, 1, here after 3 of 8 steps.
  beta = smoke(kind).objective.beta or (1.0 if kind == 'hvae' else 3 / 8)
  assert train_line['beta'] == pytest.approx(beta)
  assert ('test_kl_3' in test_line) == (kind == 'hvae')


def test_a_latent_image_trains_and_gives_samples(tmp_path):
  config = smoke('autoencoder')
  PROGRAMS['train'](config, str(tmp_path))
  assert vae.latent_shape(config, vae.build_model(config)) == (4, 4, 4)
  beta = [x['beta'] for x in lines(tmp_path) if 'beta' in x][-1]
  assert beta == pytest.approx(config.objective.beta)
  PROGRAMS['sample'](config, str(tmp_path))
  with np.load(tmp_path / 'samples' / 'samples.npz') as arrays:
    assert arrays['reconstructions'].shape == (4, 1, 8, 8, 1)


def test_its_bounds_and_those_of_more_draws(run, capsys):
  kind, workdir = run
  fields = {'evaluation.metrics': ('elbo', 'iw'), 'evaluation.num_samples': 40}
  PROGRAMS['evaluate'](smoke(kind, **fields), str(workdir))
  elbo, many = (
    json.loads((workdir / f'evaluation/{m}-test/result.json').read_text())
    for m in ('elbo', 'iw')
  )
  total = elbo['reconstruction'] + elbo['kl']
  assert elbo['bits_per_dim'] == pytest.approx(total, rel=1e-5)
  assert sum(elbo['kl_parts']) == pytest.approx(elbo['kl'], rel=1e-5)
  assert ('z_1..z_3' in capsys.readouterr().out) == (kind == 'hvae')
  assert many['bits_per_dim'] < elbo['bits_per_dim']
  assert many['num_samples'] == 40


def test_an_image_is_measured_alike_in_any_batch(run):
  kind, workdir = run
  config = smoke(kind)
  mesh = build.build_mesh(config)
  params = sample.restore(config, workdir)
  pictures, _ = build.build_source(config, 'test').read(np.arange(5))
  measure = evaluate.make_measure('iw', config, mesh)
  whole = measure(params, np.arange(5), pictures, {})['log_p']
  alone = measure(params, np.arange(3, 5), pictures[3:5], {})['log_p']
  np.testing.assert_allclose(alone, whole[3:5], rtol=1e-5)


def test_it_writes_samples_reconstructions_and_ways_between(run):
  kind, workdir = run
  PROGRAMS['sample'](smoke(kind), str(workdir))
  out = workdir / 'samples'
  for name in ('samples', 'samples-reconstructions', 'samples-interpolation'):
    assert (out / f'{name}.png').exists()
  with np.load(out / 'samples.npz') as arrays:
    arrays = dict(arrays)
  assert arrays['arr_0'].shape == (4, 8, 8, 1)
  known = arrays['reconstructions']
  assert known.shape == (4, LAYERS[kind], 8, 8, 1)
  way = arrays['interpolation']  # of images 0 to 2, and 1 to 3
  assert way.shape == (2, vae.COLUMNS, 8, 8, 1)
  for ends, i in ((way[:, 0], slice(0, 2)), (way[:, -1], slice(2, 4))):
    difference = np.abs(ends.astype(int) - known[i, 0])
    assert difference.max() <= 16  # one grey level, by rounding
  test = build.build_source(smoke(kind), 'test').read(np.arange(4))[0]
  levels = np.rint(arrays['originals'] * (16 / 255))
  np.testing.assert_array_equal(levels, test)


def test_samples_are_draws_of_the_prior_decoded(run):
  """Each a function of the seed and its index; of the exact prior's z."""
  kind, workdir = run
  config = smoke(kind)
  params = checkpoints.restore_params(workdir)[0]
  mesh = build.build_mesh(config)
  params = jax.device_put(params, replicated(mesh))
  generate = families.of(config).generate(config, mesh)
  whole = generate(params, np.arange(4), {})
  np.testing.assert_allclose(
    generate(params, np.arange(2, 4), {}), whole[2:], atol=1e-5
  )
  assert np.ptp(whole, axis=0).max() > 1e-4
  if kind == 'hvae':
    return
  model = vae.build_model(config)
  key = jax.random.fold_in(stream(0, 'vae_sampling'), 3)
  shape = vae.latent_shape(config, model)
  z = jax.random.normal(jax.random.split(key, 1)[0], shape)[None]
  decode = jax.jit(lambda p, z: model.image(model.decode(p, 1, z)))
  expected = decode(params['network'], z)
  np.testing.assert_allclose(whole[3:], expected, atol=1e-5)


def test_a_chain_literally():
  """Up by means, down by means or by draws; z_1 of lines between two means."""
  config = smoke('hvae')
  shapes, rng = families.abstract_params(config), np.random.default_rng(3)
  params = jax.tree.map(
    lambda x: np.float32(0.2 * rng.standard_normal(x.shape)), shapes
  )
  model, x = vae.build_model(config), rng.uniform(-1.0, 1.0, (2, 8, 8, 1))
  keys = jax.random.fold_in(stream(config.sampling.seed, 'vae_sampling'), 5)

  @jax.jit
  def literally(params, x):
    up = lambda t, z: model.encode(params, t, z).mean
    down = lambda t, z: model.decode(params, t, z)
    shown = lambda z: model.image(down(1, z))
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
    ours = vae.reconstruct(model, params, x)
    ways = vae.interpolate(model, params, x[:1], x[1:])
    return rows, ends, shown(z), ours, ways

  rows, ends, drawn, found, ways = literally(params['network'], x)
  assert np.ptp(rows, axis=1).max() > 0.1  # the layers tell apart
  np.testing.assert_allclose(found, rows, atol=1e-5)
  assert np.abs(ends[0] - ends[2]).max() > 0.1
  for i, end in zip((0, 1, -1), ends, strict=True):
    np.testing.assert_allclose(ways[:, i], end, atol=1e-5)
  generate = families.of(config).generate(config, build.build_mesh(config))
  sample = generate(params, np.arange(5, 6), {})
  np.testing.assert_allclose(sample, drawn, atol=1e-5)


def test_warm_up_goes_on_after_an_interruption(warm, tmp_path):
  """Bit for bit: the count of steps is restored with the state."""
  _, whole = warm
  parts = tmp_path / 'parts'
  shutil.copytree(whole, parts)
  shutil.rmtree(parts / 'checkpoints' / '4')
  PROGRAMS['train'](smoke(**WARM), str(parts))
  for ema in (True, False):
    a, b = (checkpoints.restore_params(x, ema)[0] for x in (whole, parts))
    jax.tree.map(np.testing.assert_array_equal, a, b)
  betas = [x['beta'] for x in lines(parts) if 'beta' in x]
  assert betas == [0.0, 0.125, 0.25, 0.375]


def test_two_grey_levels_and_bernoullis(key):
  """Black and white digits; a new network says 1/2, a bit for each pixel."""
  config = smoke(**{'objective.decoder': 'bernoulli', 'data.num_levels': 2})
  pictures, _ = build.build_source(config).read(np.arange(8))
  assert set(np.unique(pictures)) == {0, 1}
  params = jax.jit(families.of(config).init(config))(key)
  objective = families.of(config).objective(config, test=True)
  batch = {'image': images.scale(pictures, 2)}
  context = Context(state=objective.init())
  _, (metrics, _) = jax.jit(objective.__call__)(params, context, key, batch)
  assert metrics['reconstruction'].total == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'network.name': 'unet'}, "'vae' with network.name='unet': of these take"),
    (
      {'objective.name': 'denoising'},
      "'denoising' with network.name='autoencoder'",
    ),
    ({'objective.name': 'hvae'}, 'take .*vae with autoencoder, hvae with hier'),
    (
      {'objective.decoder': 'student'},
      'is not one of logistic, gaussian, unit_gaussian, ber',
    ),
    ({'objective.decoder': 'bernoulli'}, 'has 2 grey levels, not 17: take'),
    ({'conditioning.labels': True}, 'conditioning.labels=True: a run of obj'),
    ({'sampling.sampler': 'ddim'}, 'sampling.sampler=ddim: a run of'),
    ({'sampling.guidance_scale': 2.0}, 'sampling.guidance_scale=2.0: a run'),
    ({'objective.augment': 0.5}, 'objective.augment=0.5'),
    ({'network.num_groups': 3}, 'config.network: num_groups=3 does not divide'),
    (
      {'objective.free_bits': 0.1, 'training.accumulate': 2},
      'free_bits are of a whole batch: set training.accumulate=1',
    ),
  ],
)
def test_what_does_not_fit_together_is_one_line(changes, message, tmp_path):
  with pytest.raises(UserError, match=message):
    train.run(smoke(**changes), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_the_fields_without_use_are_those_of_base():
  """At its defaults, or every run would be refused."""
  config: Any = base.get_config()
  for field, unused in vae.NO_USE.items():
    section, name = field.split('.')
    assert config[section][name] == unused, field


def test_what_cannot_be_asked_of_a_vae_is_one_line(run):
  kind, workdir = run
  for mode, fields, message in [
    ('edit', {}, 'this run is a VAE, which changes no picture: --mode=sample'),
    ('evaluate', {'evaluation.metrics': ('ode',)}, 'is a VAE, and ode is not'),
    (
      'evaluate',
      {'evaluation.metrics': ('iw',), 'evaluation.num_samples': 0},
      'evaluation.num_samples=0 is not in',
    ),
    ('sample', {'sampling.trajectory': True}, 'trajectory=True: a run of'),
  ]:
    with pytest.raises(UserError, match=message):
      PROGRAMS[mode](smoke(kind, **fields), str(workdir))

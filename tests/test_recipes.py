"""Sizes, noise, rates and steps of published recipes against the papers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.app.kinds import choices, store
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import setup
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training import optimizer
from diffusion_jax.training.objectives import Context
from tests.app.config.test_overrides import ALL
from tests.app.conftest import read
from tests.core import test_schedules as marginals
from tests.interop.test_reader import CIFAR10, make, of_edm
from tests.transcribed import transcribes

SIZES = {  # recipes 0
  'cifar10': 35_746_307,
  'cifar10_vdm': 30_578_181,
  'cifar10_edm': 55_733_891,
  # EDM's network and two layers for t - s; the release has 55,932,419
  'cifar10_meanflow': 55_733_891 + (128 + 1) * 512 + (512 + 1) * 512,
  'imagenet256_autoencoder': 83_653_863,
  'imagenet256_dit': 674_834_720,
  # without half of the outputs, which the release discards
  'imagenet256_sit': 674_834_720 - (1152 + 1) * 2 * 2 * 4,
  'imagenet256_jit': 131_123_712,
}


# Networks of releases, whose sizes tests/interop/test_reader.py has, and how
# ours differ in what has no parameters. The stem has the channels by default.
RELEASES = {
  'cifar10_improved': (make('cifar10_uncond_50M_500K'), dict(dtype='float32', stem_channels=None)),
  'cifar10_edm:conditional': (of_edm(**CIFAR10, label_dim=10), dict(dtype='float32')),
  'imagenet64': (
    make('64x64_diffusion'),
    dict(dtype='bfloat16', stem_channels=None, remat=True, downsample_padding='same'),
  ),
}


def model_of(name, workdir='x') -> Any:
  return make_model(read(name), RunFolder.at(workdir))


@functools.cache  # tracing takes up to a second
def abstract_params(name):
  return model_of(name).shapes()


def optimizer_of(config):
  facts = {'total_steps': config.training.num_steps}
  return config.optimizer.make(facts)


BUILT = [f'{name}:{variant}' if variant else name for name, variant in ALL]
assert {*SIZES, *RELEASES} <= {*BUILT}


@pytest.mark.parametrize('name', SIZES)
def test_the_network_of_a_published_recipe_has_its_size(name):
  assert sum(x.size for x in jax.tree.leaves(abstract_params(name))) == SIZES[name]


@pytest.mark.parametrize('name', RELEASES)
def test_the_network_of_a_published_recipe_is_that_of_the_release(name):
  release, changes = RELEASES[name]
  assert model_of(name).noisy.network == release.network.clone(**changes)


def cosine_alpha_bar(num_steps):
  """recipes 3.2: betas capped at 0.999."""
  f = lambda i: np.cos((i / num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
  i = np.arange(num_steps)
  return np.cumprod(1 - np.minimum(1 - f(i + 1) / f(i), 0.999))


def variance_preserving(alpha_bar):
  return lambda t: (
    np.sqrt(alpha_bar[np.rint(t * len(alpha_bar)).astype(int) - 1]),
    np.sqrt(1 - alpha_bar[np.rint(t * len(alpha_bar)).astype(int) - 1]),
  )


def edm(t):
  return marginals.karras(t, 0.002, 80, 7)


def flow(t):
  return marginals.flow(t, 1)


def on_line(t):
  """VDM's gamma before training: alpha^2 = sigmoid(-gamma)."""
  gamma = -13.3 + t * (5.0 + 13.3)
  return np.sqrt(1 / (1 + np.exp(gamma))), np.sqrt(1 / (1 + np.exp(-gamma)))


LINEAR = variance_preserving(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
NOISE = {  # t -> (alpha, sigma), in float64
  'cifar10': LINEAR,
  'cifar10_classifier': LINEAR,
  'cifar10_improved': variance_preserving(cosine_alpha_bar(4000)),
  'imagenet64': variance_preserving(cosine_alpha_bar(1000)),
  'cifar10_vp:vp': lambda t: marginals.variance_preserving(t, 0.1, 20),
  'cifar10_vp:subvp': lambda t: marginals.sub_vp(t, 0.1, 20),
  # x in [0, 1] + sigma z, then 2x - 1 inside the network (Song et al. 2021)
  'cifar10_vp:ve': lambda t: marginals.geometric_ve(t, 2 * 0.01, 2 * 50),
  'cifar10_edm': edm,
  'imagenet64_edm2': edm,
  'cifar10_flow': flow,
  'cifar10_vdm': on_line,
  'imagenet256_sit': flow,
  'imagenet256_jit': flow,
}


@pytest.mark.parametrize('name', NOISE)
def test_the_noise_of_a_published_recipe(name):
  """Checks t = 1/1000, 1/2 and 1."""
  line = {'bias': jnp.array(-13.3), 'weight': jnp.array(18.3)}
  schedule = model_of(name).noisy.schedule({'schedule': line})
  t = np.array([0.001, 0.5, 1.0])
  level = jax.jit(schedule.__call__)(t.astype(np.float32))
  alpha, sigma = NOISE[name](t)
  assert_allclose(level.alpha, alpha, rtol=1e-4, atol=1e-7)
  assert_allclose(level.sigma, sigma, rtol=1e-4)


@pytest.mark.parametrize('name', ['cifar10_flow', 'digits_flow'])
def test_flows_have_the_plain_loss_of_the_velocity(name):
  """Lipman et al. 2023: the weight of the error of v is 1 at all levels."""
  model = model_of(name)
  weight = model.config.objective.weight.make()

  @jax.jit
  def level_and_weights(t):
    level = model.noisy.schedule()(t)
    scale = dj.error_scale(model.noisy.process.parametrization.kind, level) ** 2
    return level, weight(level), scale

  t = np.linspace(0.1, 0.9, 5, dtype=np.float32)
  level, found, scale = jax.device_get(level_and_weights(t))
  assert_allclose(found, scale, rtol=1e-6)
  assert_allclose(level.alpha + level.sigma, 1.0, rtol=1e-6)


@pytest.mark.parametrize('sde', ['vp', 'subvp', 've'])
def test_the_noise_inputs_of_the_three_sdes(sde):
  """999 t, or log sigma (Song et al. 2021)."""
  noisy = model_of(f'cifar10_vp:{sde}').noisy

  level = noisy.schedule()(0.5)
  label = np.log(level.sigma) if sde == 've' else 999 / 2
  assert_allclose(noisy.process.noise_input(level), label, rtol=1e-6)


def test_adm_samples_the_published_steps():
  """recipes 3.2: '250' of 1000, 0-based, one step at a time."""
  kept = [round(i * (1000 - 1) / (250 - 1)) for i in range(250)]
  model = model_of('imagenet64')

  @jax.jit
  def levels_seen_and_even():
    schedule = model.noisy.schedule()
    levels = model.plan().levels
    seen = model.noisy.process.noise_input(levels)  # what the network is given
    return levels, seen, dj.level_grid(schedule, 250, 'linspace')

  levels, seen, linspace = jax.device_get(levels_seen_and_even())
  steps = np.rint(1000 * np.asarray(levels.t)).astype(int)
  assert_array_equal(steps, [*(np.array(kept[::-1]) + 1), 0])
  assert_allclose(seen[:-1], kept[::-1], atol=1e-3)
  assert_array_equal(levels.t, linspace.t)


def decayed(params, mask):
  """Returns whether each parameter decays, and the count of such numbers."""
  leaves = jax.tree_util.tree_leaves_with_path(mask(params))
  names = {'/'.join(key.key for key in path): on for path, on in leaves}
  sizes = (x.size for x in jax.tree.leaves(params))
  return names, sum(n for n, on in zip(sizes, names.values(), strict=True) if on)


def test_vdm_decays_what_the_release_does():
  """VDM's release decays all leaves except biases; its norms are GroupNorm_*.

  Biases, by 128 channels: the stem, 32 blocks down and 2 in the middle with a
  norm, a convolution, a norm, a convolution, 33 up, whose first norm has 256
  channels and which have a shortcut, the attention (a norm and 4 maps), 2
  layers of the embedding, the last norm and 3 channels.
  """
  config = read('cifar10_vdm')
  mask = optimizer.WEIGHT_DECAY_MASKS[config.optimizer.weight_decay_mask]
  params = abstract_params('cifar10_vdm')
  biases = 128 + 34 * 4 * 128 + 33 * 6 * 128 + 5 * 128 + 2 * 512 + 128 + 3
  names, count = decayed(params, mask)
  assert count == 30_578_181 - biases
  # The release calls the line's parameters w and b: both decay.
  assert names['schedule/bias'] and names['schedule/weight']
  assert names['network/up_0/norm_1/scale'] and names['network/norm_out/scale']
  assert not any(
    on for name, on in names.items() if name.startswith('network') and name.endswith('/bias')
  )

  kernels, count = decayed(params, optimizer.kernels)
  scales = 34 * 2 * 128 + 33 * 3 * 128 + 128 + 128
  assert count == 30_578_181 - biases - scales - 2
  assert {name.split('/')[-1] for name, on in kernels.items() if on} == {'kernel'}


def test_the_larger_network_of_vdm_and_its_monotone_gamma():
  """cifar10_aug of the release: l1 and l2 have a bias, which does not decay."""
  flags = [('network.channels', '256'), ('schedule.gamma', 'network')]
  config = store.with_flags(read('cifar10_vdm'), flags)
  params = make_model(config, RunFolder.at('x')).shapes()
  assert sum(x.size for x in jax.tree.leaves(params)) == 122_140_677
  names, _ = decayed(
    params['schedule'], lambda params: optimizer.not_biases({'schedule': params})['schedule']
  )
  assert names == {
    'line/weight': True,  # l1/kernel
    'line/bias': False,
    'inner_weight': True,  # l2/kernel
    'inner_bias': False,
    'outer_weight': True,  # l3/kernel
  }


@pytest.mark.parametrize('name', ['cifar10_edm', 'cifar10_edm:conditional'])
def test_learning_rate_and_average_of_edm(name):
  """recipes 6, in images."""
  c = read(name)
  assert c.training.num_steps * c.training.batch_size == 200_000_000
  rate, images = jax.jit(optimizer_of(c)[1]), c.training.batch_size
  for step in (1000, 19_531, 10**5):
    expected = 1e-3 * min(step * images / 10e6, 1)
    assert_allclose(rate(step), expected, rtol=5e-5)
  rate, more, *_ = setup.averages_of(c)
  assert not more
  for step in (10, 1000, 10**5):
    half_life = min(500_000, 0.05 * step * images)
    expected = 1 - 0.5 ** (512 / half_life)
    assert_allclose(rate(step), expected, rtol=1e-6)


# Decays of the averages of the releases; the first is sampled.
AVERAGES = {
  'cifar10': (0.9999,),
  'cifar10_improved': (0.9999,),
  'cifar10_vdm': (0.9999,),
  'cifar10_vp:vp': (0.9999,),
  'cifar10_vp:ve': (0.999,),
  'cifar10_ect': (0.9999,),
  'cifar10_meanflow': (0.9999, 0.99995, 0.9996),
  'imagenet64': (0.9999,),
  'imagenet256_dit': (0.9999,),
  'imagenet256_sit': (0.9999,),
  'imagenet256_jit': (0.9999, 0.9996),
}


@pytest.mark.parametrize('name', AVERAGES)
def test_the_averages_of_a_published_recipe_have_constant_decays(name):
  """Published averages have no warm-up, which the program has by default."""
  main, more, *_ = setup.averages_of(read(name))
  for decay, rate in zip(AVERAGES[name], [main, *more.values()], strict=True):
    rates = [float(rate(step)) for step in (1, 100, 100_000)]
    assert_allclose(rates, 1 - decay, rtol=1e-6)


@pytest.mark.parametrize(
  'fields, weight',
  [
    ('average.warmup=False average.decay=0.9999', 0.9999**99),
    ('average.warmup=False average.decay=0.97 num_steps=70', 0.97**69),
    ('average=half_life average.images=1000 batch_size=10', 0.5 ** (10 * 99 / 1000)),
    ('average.decay=0.9999', 0),
    ('average.warmup=False average.decay=0.97 num_steps=80', 0),
    ('average.warmup=False average.decay=0', 0),
    ('average=half_life average.images=1000 average.rampup=0.05 batch_size=10', 0),
  ],
)
def test_a_short_run_is_told_that_its_average_is_long(fields, weight):
  """0.97^69 = 0.122 and 0.97^79 = 0.090; the last line forgets the start."""
  values = {'num_steps': '100', **dict(x.split('=') for x in fields.split())}
  flags = [(f'training.{name}', value) for name, value in values.items()]
  line = setup.slow_average(store.with_flags(read('digits'), flags))
  assert f'be {weight:.0%} the first ones' in line if weight else not line


REMEDY = 'objective.weight', 'snr'


@pytest.mark.parametrize('weight', choices.WEIGHTS)
@pytest.mark.parametrize('kind', choices.PARAMETRIZATIONS)
def test_a_loss_of_nothing_but_noise_is_told(kind, weight):
  """An error of eps is one of sigma / alpha times as much in x_0: 20,000 at the cosine's end."""
  flags = [('parametrization', kind), ('objective.weight', weight)]
  line = setup.heavy_noise(store.with_flags(read('digits'), flags))
  bounded = kind not in ('eps', 'score') or weight in ('snr', 'min_snr')
  assert bool(line) != bounded
  if not bounded:
    assert f'parametrization={kind}, objective.weight={weight} weighs an error in eps ' in line
    assert line.endswith('set objective.weight=snr')
    assert not setup.heavy_noise(store.with_flags(read('digits'), [flags[0], REMEDY]))


def test_levels_that_are_hardly_drawn_are_no_noise():
  """EDM's times are at sigma = 80 with a probability of 1e-6; uniform ones are told."""
  flags = [('parametrization', 'eps')]
  edm = store.with_flags(read('digits_edm'), flags)
  assert edm.objective.times.name == 'log_normal' and not setup.heavy_noise(edm)
  assert setup.heavy_noise(store.with_flags(edm, [('objective.times', 'uniform')]))


@pytest.mark.parametrize('kind', ['eps', 'score'])
@pytest.mark.parametrize('schedule', ['karras', 'geometric_ve'])
def test_a_plain_loss_in_eps_is_no_loss_of_noise(schedule, kind):
  """Catches the weight of an error in the score itself, sigma^2 times that in eps."""
  flags = [('schedule', schedule), ('noise_input', 'logsnr'), ('objective.times', 'uniform')]
  flags += [('parametrization', kind), REMEDY]
  assert not setup.heavy_noise(store.with_flags(read('digits'), flags))


# The gradient of a release, as a multiple of ours: our loss is a mean.
SUMS = {
  'cifar10_edm': 3072.0,
  'imagenet64_edm2': 12_288.0,
  'cifar10_vp:ve': 1536.0,  # half of the sum
  'cifar10_meanflow': 3072.0**0.25,  # e / (e + c)^0.75 of a sum e
}


@pytest.mark.parametrize('name', SUMS)
def test_a_step_of_adam_equals_a_release_that_sums(name):
  """Kingma & Ba 2015, Alg. 1, in float64; eps = 1e-8 in all four releases."""
  config = read(name)
  adam, rate = optimizer_of(config)
  b2, clip_norm = config.optimizer.b2, {'cifar10_vp:ve': 1.0}.get(name, np.inf)
  params = {'network': {'kernel': jnp.zeros(5)}}
  state, updates, update = adam.init(params), params, jax.jit(adam.update)
  m, v = np.zeros((2, 5))
  for g in np.array([1e-12, 1e-10, 1e-8, 1e-6, 1e-2]) * [[1.0], [2.0]]:
    grads = {'network': {'kernel': jnp.asarray(g, jnp.float32)}}
    updates, state = update(grads, state, params)
    theirs = SUMS[name] * g
    theirs *= min(1.0, clip_norm / np.linalg.norm(theirs))
    m, v = 0.9 * m + 0.1 * theirs, b2 * v + (1 - b2) * theirs**2
  expected = m / (1 - 0.9**2) / (np.sqrt(v / (1 - b2**2)) + 1e-8)
  assert_allclose(rate(1) * updates['network']['kernel'], -rate(1) * expected, rtol=1e-3)


@transcribes(
  'JiT (Li & He 2025)', 'Heun in t, v divided by max(t, 0.05)', '`velocity_heun(min_sigma=0.05)`'
)
def test_jit_samples_as_the_release_does(key):
  """The release's loop in tau = 1 - t, for Gaussian data, guided by a class."""
  model = model_of('imagenet256_jit')
  laws = (0.4, 0.1), (-0.2, 0.5)  # means and deviations

  def estimate(x, alpha, sigma, law):
    mean, std = law
    share = std**2 * alpha / ((std * alpha) ** 2 + sigma**2)
    return mean + share * (x - alpha * mean)

  def denoiser(law):
    return lambda x, level: dj.Prediction(estimate(x, level.alpha, level.sigma, law))

  @jax.jit
  def sample(x):
    guidance = model.config.sampling.guidance.make()
    guided = guidance.guide(dj.paired(*map(denoiser, laws)), guidance.scale)
    _, levels, sampler, *_ = model.plan()
    return dj.sample(key, guided, sampler, levels, x)

  def velocity(z, tau):
    cond, uncond = (estimate(z, tau, 1 - tau, law) for law in laws)
    scale = 2.9 if 0.1 < tau < 1.0 else 1.0
    return (uncond + scale * (cond - uncond) - z) / max(1 - tau, 0.05)

  z = np.linspace(-2.0, 2.0, 6)[:, None]
  found = sample(jnp.asarray(z, jnp.float32))
  taus = np.linspace(0.0, 1.0, 51)
  for tau, after in zip(taus[:-2], taus[1:-1], strict=True):
    v = velocity(z, tau)
    z = z + (after - tau) * (v + velocity(z + (after - tau) * v, after)) / 2
  z = z + (taus[-1] - taus[-2]) * velocity(z, taus[-2])
  assert_allclose(found, z, atol=2e-5)


def test_ect_trains_with_the_boundary_of_the_release(key, monkeypatch):
  """c_skip and c_out of EDM, sigma_min = 0: the loss for F(x) = sin(x)."""
  output = lambda self, params, x, *rest: jnp.sin(x)
  monkeypatch.setattr(dj.Network, 'output', output)
  objective = model_of('cifar10_ect').objective()
  images = np.random.default_rng(0).uniform(-1.0, 1.0, (8, 32, 32, 3))

  @jax.jit
  def evaluate(key, images):
    context = Context(step=80_000)  # of the fourth stage
    inputs, keys = objective.draw(key, {'x': images}, context)
    return objective.loss({'network': {}}, context, inputs, keys)[0], inputs[0]

  loss, inputs = jax.device_get(evaluate(key, jnp.asarray(images, jnp.float32)))
  t = inputs.level.sigma.astype(float)
  r = t * np.maximum(1 - (1 + 8 / (1 + np.exp(t))) / 2**4, 0)

  def f(sigma):
    sigma = sigma[:, None, None, None]
    x = inputs.x0 + sigma * inputs.eps
    skip = 0.25 / (sigma**2 + 0.25)
    return skip * x + sigma * 0.5 / np.sqrt(sigma**2 + 0.25) * np.sin(x)

  norm = np.sqrt(np.sum((f(t) - f(r)) ** 2, axis=(1, 2, 3)))
  assert_allclose(loss, np.mean(norm / (t - r)), rtol=1e-4)


def test_two_calls_of_ect_pass_through_the_published_sigma():
  config = store.with_flags(read('cifar10_ect'), [('sampling.num_steps', '2')])
  model: Any = make_model(config, RunFolder.at('x'))
  assert_allclose(model.plan().levels.sigma, [80.0, 0.821, 1e-6], rtol=1e-3)


@pytest.mark.parametrize('name, noted', [('digits', True), ('digits_flow', False)])
def test_a_coupling_on_curved_paths_gets_a_note(name, noted):
  config = store.with_flags(read(name), [('objective.coupling', 'exact')])
  assert ('on curved paths' in setup.crooked_coupling(config)) == noted
  assert not setup.crooked_coupling(read(name))

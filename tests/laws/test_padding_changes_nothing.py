"""Law: padding examples by any amount, of any values, changes no number of their valid part.

Data: facts and batches of files that differ in what pads their series. Losses, their quarters
and gradients, at equal draws; samples by equal keys; metrics and bits. Of a DiT, whose tokens do
not see what pads, and of networks of states. Planted, each caught: mean and deviation of all
elements; `valid_share` of 1; weights of states that pad; `hold_padding` that holds nothing, or only
the start; an order gap along a path of padding; a density with that of padding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax.data.npz import npz
from diffusion_jax.data.pipeline import batch_at
from diffusion_jax.data.sources import measured
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.discrete import objectives as discrete_objectives
from diffusion_jax.metrics import likelihoods, order_gap, state_bits, vectors
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.inputs import Inputs
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.sampling.inpainting import hold_padding
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context
from tests.refusals import one_line
from tests.rows import slow

AMOUNTS = 1, 7, 64
VALUES = np.nan, 0.0, 1e30
B, T = 8, 6
RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 3, 1, 4, 6, 2, 5, 6])
VALID = np.arange(T) < LENGTHS[:, None]


def padded(x, amount, value):
  """Returns x [B, T, ...] with `amount` more elements, all that pads being `value`."""
  widths = [(0, amount * (axis == 1)) for axis in range(x.ndim)]
  x = np.pad(x, widths)
  valid = np.arange(x.shape[1]) < LENGTHS[:, None]
  return np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, np.asarray(value, x.dtype))


def series():
  """Returns 8 beginnings of an AR(1) in units of 280 and 10, [B, T, 1]."""
  x = np.zeros((B, T))
  for i in range(T):
    x[:, i] = (0.8 * x[:, i - 1] if i else 0.0) + 0.6 * RNG.standard_normal(B)
  return 280.0 + 10.0 * x[..., None]


X = series()


@pytest.mark.parametrize('value', VALUES, ids=str)
@pytest.mark.parametrize('amount', AMOUNTS)
def test_data(amount, value, tmp_path):
  np.savez(tmp_path / 'a.npz', x=padded(X, amount, value), lengths=LENGTHS)
  source = npz(tmp_path / 'a.npz', bounds=(200.0, 400.0))
  facts = measured(source)
  valid = X[VALID].astype(np.float64)
  assert_allclose(facts.x.mean, valid.mean(), rtol=1e-12)
  assert_allclose(facts.x.std, valid.std(), rtol=1e-12)
  assert facts.lengths == (1, 1, 1, 1, 1, 3) + (0,) * amount
  batch = batch_at(source, B, seed=0, step=0, facts=facts)
  order = np.argsort(batch['valid'].sum(axis=1), kind='stable')
  lengths = np.sort(LENGTHS)
  assert_array_equal(batch['valid'][order], np.arange(T + amount) < lengths[:, None])
  expected = np.sort(((valid - valid.mean()) / valid.std()).ravel())
  assert_allclose(np.sort(batch['x'][batch['valid']].ravel()), expected, rtol=1e-5, atol=1e-6)
  assert np.isfinite(batch['x']).all()


NETWORK = DiT(8, 1, 2, patch_size=1, out_channels=1, positions='rotary', inputs=Inputs(valid=True))
PARAMS = jax.tree.map(
  lambda a: np.float32(0.2) * RNG.standard_normal(a.shape, np.float32),
  jax.eval_shape(NETWORK.init, jax.random.key(0), np.zeros((1, T, 1)), np.zeros(1))['params'],
)


def objective(level_axes):
  network = dj.Network(
    network_fn(NETWORK),
    dj.logsnr_input,
    parametrization='v',
    level_axes=level_axes,
    condition=objectives.make_condition(labels=False, valid=True),
  )
  return objectives.denoising(
    network,
    dj.CosineSchedule(),
    times=dj.uniform_times,
    weight=dj.v_weight,
    levels=dj.independent_levels() if level_axes == 2 else None,
  )


@functools.cache
def loss_of(level_axes):
  return jax.jit(jax.value_and_grad(objective(level_axes).loss, has_aux=True))


def with_padding(draws, amount, value):
  """Returns draws of a batch with more elements, which are `value`, as numbers or as weights."""

  def pad(a, fill=0.0):
    a = np.asarray(a)
    return a if a.ndim < 2 or not amount else padded(a, amount, fill)

  level = jax.tree.map(lambda a: pad(a, 0.5), draws.level)
  valid = np.pad(VALID, ((0, 0), (0, amount)))
  x0, eps, weight = (pad(a, value) for a in (draws.x0, draws.eps, draws.time_weight))
  share = objectives.valid_share(jnp.asarray(valid))
  return draws._replace(
    x0=x0, eps=eps, level=level, time_weight=weight, cond={'valid': valid}, valid_share=share
  )


@pytest.mark.parametrize('level_axes, amount', [slow(1, 1), (2, 7), (1, 64)])
def test_losses_and_gradients(level_axes, amount, key):
  """The loss is a mean over the valid elements: the sum of them over their number."""
  x = np.float32((X - 280.0) / 10.0)
  batch = {'x': x, 'valid': VALID}
  draws, keys = jax.jit(lambda key: objective(level_axes).draw(key, batch, Context()))(key)
  params = {'network': PARAMS}
  (loss, (metrics, _)), slope = loss_of(level_axes)(params, Context(), draws, keys)
  total, count = metrics['loss']
  assert_allclose(loss, total * VALID.size / VALID.sum(), rtol=1e-6)
  more = with_padding(draws, amount, 3.0)
  (other, (others, _)), slopes = loss_of(level_axes)(params, Context(), more, keys)
  assert_allclose(other, loss, rtol=1e-5)
  for name, mean in metrics.items():
    assert_allclose(others[name].total / others[name].count, mean.total / mean.count, rtol=2e-5)
    share = T / (T + amount)
    assert_allclose(others[name].count, mean.count * (share if name == 'loss' else 1.0), rtol=1e-5)
  scale = max(np.abs(a).max() for a in jax.tree.leaves(slope))
  jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), slopes, slope)
  assert scale > 1e-3


def held_samples(sampler, amount, seed=0):
  """Returns x at all levels, in series of `amount` more elements, by the same keys."""
  network = dj.Network(network_fn(NETWORK), dj.logsnr_input, parametrization='v')
  valid = np.pad(VALID, ((0, 0), (0, amount)))
  levels = dj.level_grid(dj.CosineSchedule(), 5)

  @jax.jit
  def draw(keys):
    x = dj.prior_sample(keys, (B, T + amount, 1), levels.take(0))
    denoise = network.denoiser(PARAMS, {'valid': valid})
    return dj.trajectory(keys, denoise, hold_padding(sampler, valid), levels, x)

  return np.asarray(draw(jax.random.split(jax.random.key(seed), B)))


SAMPLERS = {
  'ddim': dj.ddim(),
  'ancestral': dj.ancestral(),
  'dpm_solver_pp': dj.dpm_solver_pp(),
  'churned': dj.churn(dj.heun(), dj.CosineSchedule(), 0.3),
}


# The others take no more than a step of these, without the noise of a churn.
PLAIN = 'ancestral', 'dpm_solver_pp'


@pytest.mark.parametrize('name', [slow(n) if n in PLAIN else n for n in SAMPLERS])
def test_samples(name):
  """A sample of a length is the same in series of any length, and 0 beyond it."""
  amount = {'ddim': 64, 'ancestral': 1}.get(name, 7)
  found, more = held_samples(SAMPLERS[name], 0), held_samples(SAMPLERS[name], amount)
  assert_allclose(more[:, :, :T][:, VALID], found[:, VALID], rtol=2e-4, atol=2e-5)
  assert not found[1:, ~VALID].any() and not more[1:, :, T:].any() and found[:, VALID].all()


PROCESSES = {'masked': dj.masking_process(5), 'uniform': dj.uniform_process(5)}
OF_STATES = {
  'ancestral': ('masked', lambda process, schedule: dj.ancestral_states(process)),
  'of uniform': ('uniform', lambda process, schedule: dj.ancestral_states(process)),
  'first_hitting': ('masked', dj.first_hitting),
  'confidence': ('masked', lambda process, schedule: dj.confidence_ordered(process)),
  'remasked': (
    'masked',
    lambda process, schedule: dj.remasked(dj.ancestral_states(process), process, 0.5),
  ),
}
LOGITS = RNG.standard_normal((T + max(AMOUNTS), 6))


# Those that are masked again are ancestral's.
@pytest.mark.parametrize('name', [slow(n) if n == 'ancestral' else n for n in OF_STATES])
def test_samples_of_states(name):
  """The network's logits at an element depend on all valid elements."""
  kind, make = OF_STATES[name]
  process, schedule = PROCESSES[kind], dj.PolynomialMasking()
  count = len(process.prior)

  def apply(params, x, noise, cond, *, key=None):
    others = jnp.sum(jnp.where(cond['valid'], x, 0), axis=1, keepdims=True)
    row = LOGITS[: x.shape[1], :count]
    return row[None] * (1.0 + 0.3 * others[..., None])

  network = dj.Network(apply, dj.time_input())

  def draw(amount):
    valid = np.pad(VALID, ((0, 0), (0, amount)))
    levels = dj.level_grid(schedule, 4)

    @jax.jit
    def run(keys):
      x = dj.prior_sample_states(keys, (B, T + amount), process)
      denoise = dj.make_state_denoiser(network, {}, {'valid': valid}, process=process)
      return dj.sample(keys, denoise, hold_padding(make(process, schedule), valid), levels, x)

    return np.asarray(run(jax.random.split(jax.random.key(3), B)))

  found, more = draw(0), draw(7)
  assert_array_equal(more[:, :T][VALID], found[VALID])
  assert not found[~VALID].any() and not more[:, T:].any()
  assert np.unique(found[VALID]).size > 1 and (found < 5).all()


# -- metrics -------------------------------------------------------------------


class Model:
  """A DiT as metrics measure it, of series in their own units."""

  facts = Facts(ArraySpec((T, 1), 0, (280.0,), (10.0,)), lengths=(1, 1, 1, 1, 1, 3))
  shared, levels_differ = 1, True

  def __init__(self, level_axes):
    self.network = dj.Network(
      network_fn(NETWORK), dj.logsnr_input, parametrization='v', level_axes=level_axes
    )

  def schedule(self, params):
    return dj.CosineSchedule()

  def denoiser(self, params, cond):
    return self.network.denoiser(params, cond)


MEASURED = {
  'order_gap': (2, lambda: order_gap.order_gap(num_times=3)),
  'ode': (1, lambda: likelihoods.ode(tolerance=1e-5)),
}


# A density is that of the valid numbers, below.
@pytest.mark.parametrize('name', [slow(n) if n == 'ode' else n for n in MEASURED])
def test_metrics_of_a_model(name):
  level_axes, make = MEASURED[name]
  model, metric = Model(level_axes), make()
  keys, x = jax.random.split(jax.random.key(0), B), np.float32((X - 280.0) / 10.0)

  def arrays(amount):
    cond = {'valid': np.pad(VALID, ((0, 0), (0, amount)))}
    model.facts = Model.facts._replace(x=Model.facts.x._replace(shape=(T + amount, 1)))
    return jax.device_get(
      jax.jit(metric.measure(model))(PARAMS, keys, padded(x, amount, 3.0), cond)
    )

  found, more = arrays(0), arrays(7)
  assert_array_equal(found['numbers'], LENGTHS)
  for name, array in found.items():
    assert_allclose(more[name], array, rtol=2e-3, atol=2e-4)
  scores, others = metric.compute(found), metric.compute(more)
  assert_allclose([x.estimate for x in others], [x.estimate for x in scores], rtol=2e-3, atol=2e-4)


def test_a_density_of_lengths_is_that_of_the_valid_numbers():
  """The numbers are independent N(0, 1), exactly denoised, in units of 10."""
  model = Model(1)

  def denoiser(params, cond):
    valid = cond['valid'][..., None]
    return lambda x, level: dj.Prediction(jnp.where(valid, level.expand_to(x).alpha * x, 0.0))

  model.denoiser = denoiser
  x = np.random.default_rng(1).standard_normal((B, T, 1), np.float32)
  measure = jax.jit(likelihoods.ode(tolerance=1e-5).measure(model))
  found = measure((), jax.random.split(jax.random.key(0), B), x, {'valid': VALID})
  nats = 0.5 * np.log(2.0 * np.pi) + 0.5 * x[..., 0] ** 2 + np.log(10.0)
  expected = (nats * VALID).sum(axis=1) / LENGTHS
  assert_allclose(found['nats'], expected, rtol=1e-3)
  [score] = likelihoods.ode().compute(jax.device_get(found))
  assert_allclose(score.estimate.value, (nats * VALID).sum() / VALID.sum(), rtol=1e-3)


@pytest.mark.parametrize('amount', AMOUNTS)
def test_moments(amount):
  """Each number is of the examples that have it."""
  rng = np.random.default_rng(2)
  x, y = rng.standard_normal((2, B, T, 1)) * [[[[2.0]]], [[[1.0]]]]

  def scores(amount):
    sets = ({'values': padded(each, amount, np.nan)} for each in (x, y))
    return [score.estimate for score in vectors.moments(0).compute(*sets)]

  found = scores(amount)
  assert_allclose(found, scores(0), equal_nan=True, rtol=1e-12)
  scale = y[VALID].std()
  columns = [(a[VALID[:, i], i, 0], b[VALID[:, i], i, 0]) for i in range(T) for a, b in [(x, y)]]
  mean = max(abs(a.mean() - b.mean()) / b.std() for a, b in columns)
  std = max(abs(a.std() / b.std() - 1.0) for a, b in columns)
  assert_allclose([found[0].value, found[1].value], [mean, std], rtol=1e-9)
  assert scale > 0.0


def test_moments_refuse_numbers_that_are_missing_within_an_example():
  x = padded(X, 0, np.nan)
  inner = np.where(np.arange(T)[:, None] == 0, np.nan, x)
  for wrong in (inner, np.full_like(x, np.nan), np.where(np.isnan(x), np.inf, x), x[..., 0]):
    with one_line('not finite'):
      vectors.moments(0).compute({'values': wrong}, {'values': wrong})


# -- states --------------------------------------------------------------------

K = 5
BYTES = RNG.integers(0, K, (B, T))
OBJECTIVES = {
  'masked': (discrete_objectives.masked, dj.masking_process(K)),
  'uniform': (discrete_objectives.uniform, dj.uniform_process(K)),
}


def state_network(count, level_axes=1):
  """A network whose logits at an element depend on all valid ones."""

  def apply(params, x, noise, cond, *, key=None):
    others = jnp.sum(jnp.where(cond['valid'], x, 0), axis=1, keepdims=True)
    return params[None, : x.shape[1], :count] * (1.0 + 0.1 * others[..., None])

  condition = objectives.make_condition(labels=False, valid=True)
  return dj.Network(apply, dj.time_input(), level_axes=level_axes, condition=condition)


@pytest.mark.parametrize(
  'name, level_axes', [slow('masked', 1), ('masked', 2), ('uniform', 1), slow('uniform', 2)]
)
def test_losses_of_states(name, level_axes, key):
  """Sums over the valid elements, over their number; what pads has no gradient."""
  make, process = OBJECTIVES[name]
  levels = dj.independent_levels(clean=0.2) if level_axes == 2 else None
  network, schedule = state_network(len(process.prior), level_axes), dj.PolynomialMasking()
  loss = make(network, process, schedule, levels=levels)
  params, batch = {'network': np.float32(LOGITS)}, {'states': BYTES, 'valid': VALID}
  draws, _ = jax.jit(lambda key: loss.draw(key, batch, Context()))(key)
  step = jax.jit(jax.value_and_grad(loss.loss, has_aux=True))
  (value, (metrics, _)), slope = step(params, Context(), draws, key)
  assert_allclose(value, metrics['loss'].total * VALID.size / VALID.sum(), rtol=1e-6)

  valid = np.pad(VALID, ((0, 0), (0, 7)))
  level = jax.tree.map(
    lambda a: padded(np.asarray(a), 7, 0.5) if level_axes == 2 else a, draws.level
  )
  weight = draws.time_weight if level_axes == 1 else padded(np.asarray(draws.time_weight), 7, 3.0)
  x0, xt = (padded(np.asarray(a), 7, 1) for a in (draws.x0, draws.xt))
  share = objectives.valid_share(jnp.asarray(valid))
  more = draws._replace(
    x0=x0, xt=xt, level=level, time_weight=weight, cond={'valid': valid}, valid_share=share
  )
  (other, (others, _)), slopes = step(params, Context(), more, key)
  assert_allclose(other, value, rtol=1e-5)
  assert_allclose(slopes['network'], slope['network'], rtol=1e-4, atol=1e-6)
  for name, mean in metrics.items():
    assert_allclose(others[name].total / others[name].count, mean.total / mean.count, rtol=1e-5)


def test_a_masked_loss_is_the_cross_entropy_of_valid_tokens(key):
  """Equal logits everywhere have a bound that is written out token by token, in bits."""
  process, schedule = dj.masking_process(K), dj.PolynomialMasking()
  row = LOGITS[0, :K].astype(np.float32)

  def apply(params, x, noise, cond, *, key=None):
    return jnp.broadcast_to(jnp.append(params, 0.0), (*x.shape, K + 1))

  condition = objectives.make_condition(labels=False, valid=True)
  loss = discrete_objectives.masked(
    dj.Network(apply, dj.time_input(), condition=condition), process, schedule
  )
  batch = {'states': np.where(VALID, BYTES, 999), 'valid': VALID}
  draws, _ = jax.jit(lambda key: loss.draw(key, batch, Context()))(key)
  value, _ = jax.jit(loss.loss)({'network': row}, Context(), draws, key)
  nats = np.log(np.exp(row.astype(np.float64)).sum()) - row.astype(np.float64)[BYTES]
  masked = (np.asarray(draws.xt) == K) & VALID
  weight = 1.0 / np.asarray(draws.level.t, np.float64)[:, None]  # -alpha' / (1 - alpha)
  expected = (weight * masked * nats).sum() / VALID.sum() / np.log(2.0)
  assert masked.any()
  assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize('name', ['masked', slow('uniform')])
def test_bits_of_states(name):
  """The bound of the valid tokens, in bits of each, at equal draws."""
  _, process = OBJECTIVES[name]
  bound_of = {'masked': dj.masked_bound, 'uniform': dj.uniform_bound}[name]
  network, params = state_network(len(process.prior)), np.float32(LOGITS)

  class States:
    facts, num_steps = Facts(ArraySpec((T,), K)), None

    def state_bound(self, params, keys, x0, cond, num_times, order):
      denoise = dj.make_state_denoiser(network, params, cond, process=process)
      schedule = dj.PolynomialMasking()
      return {'total': bound_of(keys, denoise, process, schedule, x0, num_times=num_times)}

  metric = state_bits.state_elbo(num_times=4)
  measure = jax.jit(metric.measure(States()))
  keys = jax.random.split(jax.random.key(1), B)
  found, more = (
    jax.device_get(
      measure(
        params,
        keys,
        padded(BYTES, amount, 0),
        {'valid': np.pad(VALID, ((0, 0), (0, amount)))},
      )
    )
    for amount in (0, 7)
  )
  assert_array_equal(found['numbers'], LENGTHS)
  assert_allclose(more['total'], found['total'], rtol=1e-4)
  [score] = metric.compute(found)
  assert_allclose(score.estimate.value, (found['total'] * LENGTHS).sum() / LENGTHS.sum(), rtol=1e-6)


@pytest.mark.parametrize('kind', [slow(AxisType.Auto), AxisType.Explicit], ids=str)
def test_a_mesh_changes_no_loss(kind, key):
  """The share of valid elements is of the whole batch, whatever device has which lengths."""
  mesh = Mesh(np.array(jax.devices()[:4]), ('devices',), axis_types=(kind,))
  batch = {'x': np.float32((X - 280.0) / 10.0), 'valid': VALID}
  loss = jax.jit(lambda batch: objective(1)({'network': PARAMS}, Context(), key, batch)[0])
  split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('devices')))
  assert_allclose(loss(split), loss(batch), rtol=1e-5)

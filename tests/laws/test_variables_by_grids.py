"""Law: of several variables, grids alone say what is drawn, and each draw has its exact law.

On the exact denoiser of numbers, a label and an angle (tests/joint/worlds.py) each variable is
drawn, given, or at noise: all 19 patterns in which one is drawn, which are the 2^3 - 1 laws of
the joint and of the marginals, and all that are given some. The bound of the exact network is
the entropy. Each variable that `joint` ships alone is as among others that are held.

Planted, each caught: `joint_sampler` that shares a call at another level; `held` that takes the
last level for noise; a step whose own denoiser has the others at level s; `states` without its
weight; `hold_known` whose clean rows are those that are drawn; `geodesic` that stops at t_end.
"""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.elbo import prior_kl
from diffusion_jax.core.keys import split_key
from diffusion_jax.training.objectives import Context, of_each
from tests.joint import worlds
from tests.rows import slow

PROCESSES = {'masking': dj.masking_process(3), 'uniform': dj.uniform_process(3)}
SCHEDULE = dj.CosineSchedule(-12.0, 12.0)
SAMPLERS = {
  'ddim': (dj.ddim(), 'uniform'),
  'ancestral': (dj.ancestral('fixed_large'), 'uniform'),
  'heun': (dj.heun(), 'logsnr'),
  'dpm_solver_pp': (dj.dpm_solver_pp(), 'uniform'),
}
NAMES = 'x', 'c', 'a'
PATTERNS = [p for p in itertools.product(('drawn', 'given', 'noise'), repeat=3) if 'drawn' in p]


def variables_of(process):
  return {
    'x': joint.gaussian(SCHEDULE),
    'c': joint.states(process, dj.PolynomialMasking()),
    'a': joint.directions(worlds.CIRCLE),
  }


def drawn(name, process, num_steps, count, seed=0):
  """Returns (x at the start, samples), `count` rows of each pattern, from one program."""
  variables, size = variables_of(process), count * len(PATTERNS)
  sampler, spacing = SAMPLERS[name]
  levels = joint.level_grids(variables, num_steps)
  levels['x'] = dj.level_grid(SCHEDULE, num_steps, spacing)
  rows = {
    what: {n: np.repeat([p[i] == what for p in PATTERNS], count) for i, n in enumerate(NAMES)}
    for what in ('given', 'noise')
  }
  by_rows = joint.held(levels, rows['given'], rows['noise'])
  all_of = {'x': sampler, 'c': dj.ancestral_states(process), 'a': joint.geodesic(worlds.CIRCLE)}

  @jax.jit
  def run(key, data):
    first, second = jax.random.split(key)
    x = joint.draw_prior(first, variables, {n: a.shape for n, a in data.items()}, levels)
    x = {n: jnp.where(expand_to(rows['given'][n], x[n]), data[n], x[n]) for n in NAMES}
    denoise = worlds.denoiser(process)
    return x, dj.sample(second, denoise, joint.joint_sampler(all_of), by_rows, x)

  return jax.device_get(run(jax.random.key(seed), worlds.sample(seed, size)))


# Heun's second call and a memory are what others lack.
LESS = 'ddim', 'ancestral'
CASES = [(slow if name in LESS else pytest.param)(name, 'masking', 50, 500) for name in SAMPLERS]
CASES += [
  slow('ddim', 'uniform', 100, 500),
  *(slow(name, 'masking', 200, 4000) for name in SAMPLERS),
]


@pytest.mark.parametrize('name, process, num_steps, count', CASES)
def test_all_joint_marginal_and_conditional_laws(name, process, num_steps, count):
  start, samples = drawn(name, PROCESSES[process], num_steps, count)
  for i, pattern in enumerate(PATTERNS):
    rows = slice(i * count, (i + 1) * count)
    visible = [n for n, what in zip(NAMES, pattern, strict=True) if what != 'noise']
    found = worlds.features({n: a[rows] for n, a in samples.items()}, visible)
    error = np.maximum(found.std(0), 1e-9) / count**0.5
    z = np.abs(found.mean(0) - worlds.exact_features(visible)) / error
    assert z.max() < 4.5, (pattern, z.max())
    for n, what in zip(NAMES, pattern, strict=True):
      if what != 'drawn':
        assert_array_equal(samples[n][rows], start[n][rows])


# -- the bound ---------------------------------------------------------------------------------


@dj.pytree_dataclass
@dataclasses.dataclass(frozen=True)
class EvenLogSNR:
  """log-SNRs from 7 to -5, linear in t: the integrand of the bound is then even."""

  def __call__(self, t):
    logsnr = 7.0 - 12.0 * jnp.asarray(t, jnp.float32)
    half = jax.nn.sigmoid(logsnr), jax.nn.sigmoid(-logsnr)
    return dj.NoiseLevel(jnp.asarray(t, jnp.float32), *map(jnp.sqrt, half))

  def from_logsnr(self, logsnr):
    return self((7.0 - logsnr) / 12.0)


EVEN, COMPONENTS = EvenLogSNR(), np.arange(worlds.K)
COUNT = 120_000


@functools.cache
def bound_of(process):
  """Returns (inputs, the function of inputs -> nats of each row) of the exact network."""
  process = {'masking': dj.masking_process, 'uniform': dj.uniform_process}[process](worlds.K)
  variables = {
    'x': joint.gaussian(EVEN, weight=dj.vdm_weight(EVEN)),
    'c': joint.states(process, dj.PolynomialMasking()),
  }

  def exact(params, x, noise, cond, *, key=None):
    level = {'x': EVEN(noise['x']), 'c': dj.PolynomialMasking()(noise['c'])}
    x0 = worlds.denoiser(process, COMPONENTS)(x, level)['x'].x0
    v = dj.target('v', x0, dj.eps_from_x0(x0, x['x'], level['x']), level['x'])
    log_p = worlds.log_posterior({'x': x['x']}, level, process, COMPONENTS)
    return {'x': v, 'c': worlds.class_logits(log_p, process, COMPONENTS)}

  objective = joint.denoising(joint.JointNetwork(exact, variables))
  rng = np.random.default_rng(0)
  k = rng.choice(worlds.K, COUNT, p=worlds.WEIGHTS)
  noise = rng.standard_normal((COUNT, 2))
  x = worlds.MEANS[k] + np.einsum('nij,nj->ni', np.linalg.cholesky(worlds.COVS)[k], noise)
  batch = {'x': jnp.asarray(x, jnp.float32), 'c': jnp.asarray(k)}
  inputs, keys = jax.jit(lambda key: objective.draw(key, batch, Context()))(jax.random.key(1))

  @jax.jit
  def nats(inputs):
    fixed = dataclasses.replace(objective, draw=lambda *_: (inputs, keys))
    parts = of_each(fixed, {'network': ()}, Context(), None, {})
    return {n: parts[f'loss_{n}'].total for n in variables}

  return inputs, nats


def total(inputs, parts, weights=(1.0, 1.0)):
  """Returns the bound and its standard error.

  The mean of |eps|^2 is known: what follows it in the rows of each eighth of time is taken off.
  """
  rows = weights[0] * np.float64(parts['x']) + weights[1] * np.float64(parts['c'])
  # At the cleanest level c is known, and x given it and x_t is normal.
  left = np.linalg.inv(np.linalg.inv(worlds.COVS) + np.exp(7.0) * np.eye(2))
  decoder = worlds.WEIGHTS @ np.linalg.slogdet(2.0 * np.pi * np.e * left)[1] / 2.0
  rows += np.asarray(prior_kl(inputs.x0['x'], EVEN(1.0))) + decoder
  eighth = np.ceil(8.0 * np.asarray(inputs.level['x'].t)) == np.arange(1, 9)[:, None]
  known = (eighth * (np.sum(np.square(inputs.noise['x']), 1) - 2.0)).T
  rows -= known @ np.linalg.lstsq(known, rows - rows.mean(), rcond=None)[0]
  return rows.mean(), rows.std() / COUNT**0.5


def is_the_entropy(bound, error):
  return error < 0.025 and abs(bound - worlds.entropy()) < 4.5 * error


@pytest.mark.parametrize('process', ['masking', slow('uniform')])
def test_the_bound_of_the_exact_network_is_the_entropy(process):
  inputs, nats = bound_of(process)
  assert is_the_entropy(*total(inputs, nats(inputs)))


def at(schedule, i, name, factor):
  """Returns inputs whose loss takes another level of a variable than its x_t has."""
  return i._replace(level={**i.level, name: schedule(factor * i.level[name].t)})


# Of inputs: others, and the weights of x and c.
WRONG = {
  'the weight of x': lambda i: (i, (1.1, 1.0)),
  'the weight of c': lambda i: (i, (1.0, 1.1)),
  'the level of x': lambda i: (at(EVEN, i, 'x', 0.95), (1.0, 1.0)),
  'the level of c': lambda i: (at(dj.PolynomialMasking(), i, 'c', 0.9), (1.0, 1.0)),
  'the target of x': lambda i: (i._replace(noise={**i.noise, 'x': i.x0['x']}), (1.0, 1.0)),
  'the target of c': lambda i: (i._replace(x0={**i.x0, 'c': jnp.roll(i.x0['c'], 1)}), (1.0, 1.0)),
}


@pytest.mark.parametrize('what', WRONG)
def test_another_loss_is_not_the_entropy(what):
  inputs, nats = bound_of('masking')
  changed, weights = WRONG[what](inputs)
  assert not is_the_entropy(*total(inputs, nats(changed), weights))


# -- every variable ----------------------------------------------------------------------------

FLOW = dj.RectifiedFlowSchedule()
SPHERE, ROTATIONS = joint.sphere(), joint.rotations()
UNIFORM = dj.uniform_process(3)
MASKING = PROCESSES['masking']
# Each is (variable, its sampler, the shape of an example).
VARIABLES = {
  'gaussian': (joint.gaussian(SCHEDULE), dj.ddim(1.0), (2,)),
  'gaussian, 2M': (joint.gaussian(SCHEDULE), dj.dpm_solver_pp(), (2,)),
  'gaussian, 2S': (joint.gaussian(SCHEDULE), dj.dpm_solver_pp_2s(SCHEDULE), (3,)),
  'states': (
    joint.states(PROCESSES['masking'], FLOW),
    dj.ancestral_states(PROCESSES['masking']),
    (),
  ),
  'states, uniform': (joint.states(UNIFORM, FLOW), dj.ancestral_states(UNIFORM), (2,)),
  'directions, circle': (joint.directions(worlds.CIRCLE), joint.geodesic(worlds.CIRCLE), (2,)),
  'directions, sphere': (joint.directions(SPHERE), joint.geodesic(SPHERE), (3,)),
  'directions, rotations': (joint.directions(ROTATIONS), joint.geodesic(ROTATIONS), (2, 4)),
}
ALL = {name: variable for name, (variable, _, _) in VARIABLES.items()}
SHAPES = {name: (4, *shape) for name, (_, _, shape) in VARIABLES.items()}


def mixed(params, x, noise, cond, *, key=None):
  """A network all of whose outputs depend on all variables and levels."""
  h = sum(jnp.sin(x[n].reshape(4, -1).astype(jnp.float32)).sum(1) + noise[n] for n in sorted(x))
  outputs = {}
  for name, shape in SHAPES.items():
    if 'states' in name:
      shape = *shape, 4 if name == 'states' else 3
    if 'rotations' in name:
      shape = *shape[:-1], 3
    ramp = jnp.broadcast_to(jnp.arange(float(shape[-1])), shape)
    outputs[name] = jnp.cos(expand_to(h, ramp) + ramp)
  return outputs


@functools.cache
def alone_and_in_a_joint():
  """Returns the programs (both, alone, among others) of all variables, and the arguments."""
  denoise = joint.JointNetwork(mixed, ALL).denoiser(())
  sampler = joint.joint_sampler({name: own for name, (_, own, _) in VARIABLES.items()})
  levels = joint.level_grids(ALL, 5)
  x = jax.jit(lambda key: joint.draw_prior(key, ALL, SHAPES, levels))(jax.random.key(2))
  keys = dict(zip(sorted(ALL), split_key(jax.random.key(3), len(ALL)), strict=True))

  def alone(x, name):
    others = {n: own.take(0) for n, own in levels.items()}
    one = joint.given_others(denoise, name, x, others)
    return dj.sample(keys[name], one, VARIABLES[name][1], levels[name], x[name])

  def among(x, name):
    held = joint.held(levels, noise={*ALL} - {name})
    return dj.sample(jax.random.key(3), denoise, sampler, held, x)

  return alone, among, x


FIRST = 'states', 'directions, rotations'


@pytest.mark.parametrize('name', [n if n in FIRST else slow(n) for n in VARIABLES])
def test_a_variable_alone_is_as_among_others_that_are_held(name):
  """Bit for bit operation by operation; XLA fuses these otherwise in each, and rounds so."""
  alone, among, x = alone_and_in_a_joint()
  with jax.disable_jit():
    one, every = alone(x, name), among(x, name)
  assert_array_equal(one, every[name])
  assert not np.array_equal(one, x[name])
  for other in {*ALL} - {name}:
    assert_array_equal(every[other], x[other])
  for of_program in jax.jit(lambda x: (alone(x, name), among(x, name)[name]))(x):
    assert_allclose(of_program, one, atol=5e-6)


def test_the_table_has_every_variable_and_every_manifold():
  returns = {
    name: inspect.signature(value).return_annotation
    for name, value in vars(joint).items()
    if inspect.isfunction(value)
  }
  made = {name for name, kind in returns.items() if kind is joint.Variable}
  assert made == {name.partition(',')[0] for name in VARIABLES}
  spaces = {name for name, kind in returns.items() if kind is joint.Manifold}
  assert spaces == {name.partition(', ')[2] for name in VARIABLES if 'directions' in name}

"""The bound along a path of levels: an exact network has one value in every order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import joint
from tests.joint import worlds
from tests.transcribed import transcribes

SCHEDULE, MASKED, END = dj.CosineSchedule(), dj.PolynomialMasking(), 0.1
PROCESS, COMPONENTS = dj.masking_process(worlds.K), np.arange(worlds.K)
VARIABLES = {
  'x': joint.gaussian(SCHEDULE, 'x0', weight=dj.vdm_weight(SCHEDULE)),
  'c': joint.states(PROCESS, MASKED),
}
COUNT, TIMES = 8000, 8
# Times of steps whose levels are even in log(1 + SNR), and of a last step of c alone.
SNR = np.expm1(np.linspace(0.0, np.log1p(float(SCHEDULE(END).snr)), 9))
UNTIL = np.append(2.0 / np.pi * np.arctan(1.0 / np.sqrt(np.maximum(SNR, 1e-12))), END)
LEVELS = {
  'x': SCHEDULE(jnp.asarray(UNTIL, jnp.float32)),
  'c': MASKED(jnp.asarray([*UNTIL[:-1], 0.0], jnp.float32)),
}
ORDERS = {'together': [['c', 'x']], 'c first': [['c'], ['x']], 'x first': [['x'], ['c']]}


def exact(sees_c, params, x, noise, cond, *, key=None):
  """The exact network, or one whose x is estimated without c."""
  level = {'x': SCHEDULE(noise['x']), 'c': MASKED(noise['c'])}
  seen = x if sees_c else {'x': x['x']}
  log_p = worlds.log_posterior(seen, level, PROCESS, COMPONENTS)
  x0 = sum(
    jnp.exp(log_p[:, k, None]) * worlds.NUMBERS.component(k).denoise(x['x'], level['x']).x0
    for k in range(worlds.K)
  )
  of_c = worlds.log_posterior({'x': x['x']}, level, PROCESS, COMPONENTS)
  return {'x': x0, 'c': worlds.class_logits(of_c, PROCESS, COMPONENTS)}


@functools.cache
def program(sees_c):
  network = joint.JointNetwork(functools.partial(exact, sees_c), VARIABLES)

  def nats(keys, levels, x0):
    return joint.path_loss(keys, network, (), levels, x0, num_times=TIMES)

  return jax.jit(nats)


def losses(order, sees_c=True):
  """Returns the nats of each example, the sum over the groups of an order."""
  rng = np.random.default_rng(0)
  k = rng.choice(worlds.K, COUNT, p=worlds.WEIGHTS)
  noise = rng.standard_normal((COUNT, 2))
  x = worlds.MEANS[k] + np.einsum('nij,nj->ni', np.linalg.cholesky(worlds.COVS)[k], noise)
  x0 = {'x': np.float32(x), 'c': k.astype(np.int32)}
  grids, n = joint.in_turn(LEVELS, ORDERS[order]), len(UNTIL) - 1
  keys = jax.random.split(jax.random.key(1), COUNT)
  parts = [
    {name: a.take(slice(i * n, (i + 1) * n + 1)) for name, a in grids.items()}
    for i in range(len(ORDERS[order]))
  ]
  return np.sum([np.float64(program(sees_c)(keys, part, x0)) for part in parts], axis=0)


def information():
  """H(c) + I(x_0; x_t | c) at the last level of x, in closed form."""
  left = np.eye(2) + float(SCHEDULE(END).snr) * worlds.COVS
  of_x = worlds.WEIGHTS @ np.linalg.slogdet(left)[1] / 2.0
  return of_x - np.sum(worlds.WEIGHTS * np.log(worlds.WEIGHTS))


@transcribes('VDM (Kingma et al. 2021)', '15: along a path of variables', '`joint.path_loss`')
@pytest.mark.parametrize('order', ORDERS)
def test_the_exact_network_has_one_value_in_every_order(order):
  """It is the information that the path gives, H(c) + I(x_0; x_t | c)."""
  nats = losses(order)
  error = nats.std() / COUNT**0.5
  assert error < 0.05 and abs(nats.mean() - information()) < 4.5 * error


def test_a_network_that_does_not_see_a_variable_contradicts_itself():
  """x without c costs I(c; x_t) where c is known; with c not yet drawn it costs nothing."""
  other = losses('x first', False)
  gap = losses('c first', False) - other
  assert gap.mean() > 10.0 * gap.std() / COUNT**0.5
  assert abs(other.mean() - information()) < 4.5 * other.std() / COUNT**0.5


def test_levels_of_elements_are_refused():
  variables = VARIABLES | {'x': VARIABLES['x']._replace(level_axes=2)}
  network = joint.JointNetwork(functools.partial(exact, True), variables)
  x0 = {'x': np.zeros((2, 2), np.float32), 'c': np.zeros(2, np.int32)}
  with pytest.raises(ValueError, match='a level for each example'):
    joint.path_loss(jax.random.key(0), network, (), LEVELS, x0)

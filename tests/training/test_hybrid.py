"""L_hybrid and L_vlb of Nichol & Dhariwal 2021, literally, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context, Network
from tests.papers import paper
from tests.papers.paper import bound_terms, ddpm, network_fn
from tests.transcribed import transcribes

T, BINS = 12, 17
P = ddpm(dj.cosine_betas(T))
X0 = np.random.default_rng(0).choice(np.linspace(-1.0, 1.0, BINS), (64, 2, 3))
BATCH = {'x': jnp.asarray(X0, jnp.float32)}
NETWORK = Network(network_fn, dj.step_input(T), learned_variance=True)


def noisy_start(t):
  """Returns the levels of steps 1..T, with a noisy level at t = 0."""
  return P.schedule(jnp.maximum(t, 0.5 / T))


def make(objective, schedule=P.schedule, **kw):
  return objective(NETWORK, schedule, schedule_steps=T, num_levels=BINS, **kw)


def value_and_grad(objective):
  return jax.jit(jax.value_and_grad(objective, has_aux=True))


PARAMS = {'network': (0.9, 1.1)}  # of eps and of v
HYBRID = value_and_grad(make(objectives.hybrid))
# The bound ends at x_0 even if schedule(0) is noisy.
VLB = make(objectives.vlb, noisy_start)


@jax.jit
def draw(key):
  time_key, eps_key, _, _ = jax.random.split(key, 4)
  step = jax.random.randint(time_key, (64,), 1, T + 1)
  return step, jax.random.normal(eps_key, X0.shape)


def literal(key, network):
  """Computes the mean of |eps - eps_theta|^2, and T L_{t-1} in bits/dim."""
  step, eps = map(np.asarray, draw(key))
  eps = np.float64(eps)
  same = np.broadcast_to(eps, (T + 1, *eps.shape))
  _, L, L_0 = bound_terms(P, X0, same, 'learned', False, network, BINS)
  nats = np.concatenate([L_0[:, None], L], axis=1)[np.arange(64), step - 1]
  assert (step == 1).any() and (step == T).any()
  alpha_bar = P.alpha_bar[step][:, None, None]
  xt = np.sqrt(alpha_bar) * X0 + np.sqrt(1 - alpha_bar) * eps
  eps_hat, _ = paper.network(network, xt, step[:, None, None] - 1.0, np)
  simple = np.mean((eps - eps_hat) ** 2)
  return simple, T * np.mean(nats) / 6 / np.log(2)


@transcribes(
  'IDDPM (Nichol & Dhariwal 2021)',
  '16: L_hybrid, its mean detached',
  '`training.objectives.hybrid`',
)
def test_iddpm_eq_16_hybrid_loss(key):
  """The loss is L_simple + 0.001 L_vlb."""
  (loss, (metrics, state)), _ = HYBRID(PARAMS, Context(), key, BATCH)
  simple, vlb = literal(key, (0.9, 1.1))
  assert_allclose(metrics['simple'].total, simple, rtol=1e-5)
  assert_allclose(metrics['vlb'].total, vlb, rtol=1e-4)
  assert_allclose(loss, simple + 0.001 * vlb, rtol=1e-5)
  assert state == ()


@transcribes('IDDPM (Nichol & Dhariwal 2021)', '16: L_hybrid, its mean detached')
def test_the_bound_trains_the_variance_alone(key):
  """The mean has the gradient of L_simple, as without the bound."""
  of_hybrid = HYBRID(PARAMS, Context(), key, BATCH)[1]['network']
  h = 1e-4
  for i, weight in enumerate((1.0, 0.001)):
    step = h * np.eye(2)[i]
    up, down = (literal(key, tuple((0.9, 1.1) + d))[i] for d in (step, -step))
    assert_allclose(of_hybrid[i], weight * (up - down) / (2 * h), rtol=1e-4)


@transcribes('IDDPM (Nichol & Dhariwal 2021)', '4: L_vlb', '`training.objectives.vlb`')
def test_the_pure_bound_trains_mean_and_variance(key):
  (loss, _), grads = value_and_grad(VLB)(PARAMS, Context(), key, BATCH)
  assert_allclose(loss, literal(key, (0.9, 1.1))[1], rtol=1e-4)
  h = 1e-4
  for i, found in enumerate(grads['network']):
    step = h * np.eye(2)[i]
    up, down = (literal(key, tuple((0.9, 1.1) + d))[1] for d in (step, -step))
    assert_allclose(found, (up - down) / (2 * h), rtol=1e-3)

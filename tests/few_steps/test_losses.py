"""The adaptive weight, and errors of exact maps; tests/training/ has losses."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.few_steps import losses as flow_losses
from diffusion_jax.testing import oracles
from tests.transcribed import transcribes


@transcribes(
  'MeanFlow (Geng et al. 2025)',
  '9 to 11: the loss; guidance trained in; adaptive weight',
)
def test_the_adaptive_loss_has_the_gradient_of_a_power():
  """The power is (e + c)^(1 - p) / (1 - p), or log(e + c) for p = 1."""
  e, c = np.float32([0.0, 0.3, 5.0]), 0.2
  loss = lambda e, p: flow_losses.adaptive_loss(e, p, c).sum()
  powers = 0.0, 0.5, 0.75, 1.0
  gradients = jax.jit(lambda e: [jax.grad(loss)(e, p) for p in powers])(e)
  for gradient, power in zip(gradients, powers, strict=True):
    expected = (np.float64(e) + c) ** -power
    assert_allclose(gradient, expected, rtol=1e-5)


@transcribes('Self-distillation (Boffi et al. 2025)', 'Lagrangian: ∂X/∂s = u(X, s, s)')
@transcribes('Self-distillation (Boffi et al. 2025)', 'progressive: one step is two')
def test_exact_flow_maps_have_no_error_of_self_distillation():
  """Exact maps have no error at any point; the velocity in place of their average has some."""
  data = oracles.gaussian([-1.0, 0.5], [[0.1, 0.05], [0.05, 0.3]])
  schedule = dj.RectifiedFlowSchedule()
  rng = np.random.default_rng(0)
  t = rng.uniform(0.3, 1.0, 16)
  args = rng.normal(size=(16, 2)), t, t * rng.uniform(0.1, 0.8, 16), rng.uniform(size=16)

  @jax.jit
  def errors(euler, xt, t, s, share):
    def u(x, t, s):
      return data.average_velocity(x, schedule(t), schedule(jnp.where(euler, t, s)))

    target = flow_losses.two_step_velocity(u, xt, t, s, share)
    lagrangian = flow_losses.lagrangian_error(u, xt, t, s)
    return lagrangian, flow_losses.squared_error(target, u(xt, t, s))

  args = [np.float32(a) for a in args]
  assert np.max(errors(False, *args)) < 1e-5
  assert np.mean(errors(True, *args), axis=1).min() > 1e-2

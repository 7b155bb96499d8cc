"""Progressive distillation and reflow against exact teachers."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.few_steps import distillation
from diffusion_jax.few_steps.losses import two_step_target
from diffusion_jax.testing import oracles
from diffusion_jax.training.objectives import Context, Network
from tests.jitted import level_grid
from tests.transcribed import transcribes

STRAIGHT = dj.RectifiedFlowSchedule()
ORACLE = oracles.mixture(
  [0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [np.eye(2) * 0.05, [[0.2, 0.1], [0.1, 0.3]]]
)
N = 4


@transcribes(
  'Progressive distillation (Salimans & Ho 2022)',
  'Alg. 2: two DDIM steps in one',
  '`few_steps.losses.two_step_target`, `few_steps.distillation.progressive_distillation`',
)
def test_the_optimum_of_progressive_distillation_is_two_ddim_steps(key):
  """Predicting the v of two steps by `dj.sample` has no loss."""
  seen, schedule = {}, dj.CosineSchedule()

  def student(params, x, noise, cond, *, key=None):
    seen['x'], seen['t'] = x, noise
    return params['value']

  network = Network(student, dj.time_input(1.0), parametrization='v')
  objective = distillation.progressive_distillation(
    network, schedule, num_steps=N, teacher=lambda frozen, cond: ORACLE.denoise, solver=dj.ddim()
  )

  @jax.jit
  def run(key, value):
    data = {'x': ORACLE.sample(key, 32)}
    loss, _ = objective({'network': {'value': value}}, Context(), key, data)
    lt, ls = schedule(seen['t']), schedule(seen['t'] - 1 / N)
    target = lambda xs: two_step_target(xs, seen['x'], ls, lt)
    _, tangent = jax.jvp(target, (seen['x'],), (seen['x'],))
    return loss, seen['t'], seen['x'], (lt, ls), tangent

  found = jax.device_get(run(key, np.zeros((32, 2))))
  loss, t, xt, (lt, ls), tangent = found
  assert_allclose(t * N, np.rint(t * N), atol=1e-6)
  assert (ls.t < 1e-6).any() and (tangent == 0.0).all()

  def two_steps(x, t):
    grid = schedule(t - jnp.arange(3) / (2 * N))
    return dj.sample(key, ORACLE.denoise, dj.ddim(), grid, x[None])[0]

  xs = np.asarray(jax.jit(jax.vmap(two_steps))(xt, t), np.float64)
  a_t, s_t, a_s, s_s = (
    np.asarray(a, np.float64)[:, None] for a in (lt.alpha, lt.sigma, ls.alpha, ls.sigma)
  )
  target = (xs - s_s / s_t * xt) / (a_s - s_s / s_t * a_t)
  weight = np.maximum((a_t / s_t) ** 2, 1.0)
  # v = 0 is x_0 = alpha x_t / (alpha^2 + sigma^2)
  at_0 = a_t * xt / (a_t**2 + s_t**2)
  expected = np.mean(weight * (target - at_0) ** 2)
  assert_allclose(loss, expected, rtol=1e-4)
  v = a_t * (xt - a_t * target) / s_t - s_t * target
  assert run(key, np.float32(v))[0] < 1e-8 * expected


@transcribes(
  'Reflow (Liu et al. 2022)',
  'flow matching on pairs of a teacher',
  '`few_steps.distillation.reflow`, `on_pairs`',
)
def test_reflow_literally(key):
  """The loss is |u - (noise - image)|^2 on pairs of the batch or a teacher."""

  def network(params, x, noise, cond, *, key=None):
    return params['w'] * x + noise[:, None]

  params = {'network': {'w': 0.3}}
  rng = np.random.default_rng(0)
  noise, image = rng.normal(size=(2, 16, 2))
  data = {'x': np.float32(image)}
  pairs = data | {'noise': np.float32(noise)}
  flow = Network(network, dj.time_input(1.0), parametrization='flow')

  def check(objective, batch, noise, make_image):
    @jax.jit
    def run(key, context):
      inputs, keys = objective.draw(key, batch, context)
      return objective.loss(params, context, inputs, keys)[0], inputs

    loss, inputs = jax.device_get(run(key, Context(frozen=2.0)))
    t = np.asarray(inputs.level.t, np.float64)[:, None]
    noise = np.asarray(inputs.eps, np.float64) if noise is None else noise
    image = make_image(noise)
    u = 0.3 * ((1 - t) * image + t * noise) + t
    expected = np.mean((u - (noise - image)) ** 2)
    assert_allclose(loss, expected, rtol=1e-5)

  plain = distillation.on_pairs(flow, STRAIGHT)
  check(plain, pairs, noise, lambda noise: image)
  teacher = lambda frozen, cond, eps: frozen * jnp.sin(eps)
  taught = distillation.on_pairs(flow, STRAIGHT, teacher=teacher)
  check(taught, data, None, lambda noise: 2.0 * np.sin(noise))


def test_the_teacher_of_reflow_starts_from_the_noise_of_the_schedule(key):
  """The teacher's images are the ODE's map of sigma(1) eps, to 0.1 % in 64 steps."""
  oracle = oracles.gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.5]])
  network_fn = lambda params, x, noise, cond, *, key=None: 0.0 * x
  zeros = Network(network_fn, dj.time_input(1.0), parametrization='x0')
  for schedule in (dj.KarrasSchedule(), STRAIGHT):
    levels = level_grid(schedule, 64)
    draw = lambda denoise, x1, levels=levels: dj.sample(key, denoise, dj.unipc(), levels, x1)
    teacher = distillation.sampling_teacher(lambda frozen, cond: oracle.denoise, draw)
    weight = lambda level: jnp.ones_like(level.t)
    objective = distillation.on_pairs(zeros, schedule, weight=weight, teacher=teacher)

    @jax.jit
    def run(key, objective=objective, schedule=schedule):
      batch = {'x': jnp.zeros((64, 2))}
      inputs, keys = objective.draw(key, batch, Context())
      loss, _ = objective.loss({'network': ()}, Context(), inputs, keys)
      first = schedule(jnp.ones(()))
      x1 = first.sigma * inputs.eps
      return loss, oracle.ode_map(x1, first, dj.clean_level())

    loss, exact = jax.device_get(run(key))
    assert_allclose(loss, np.mean(exact**2), rtol=0.01)


def test_reflow_regresses_on_what_unipc_makes_of_the_noise(key):
  """A network that returns 0 has the mean of (eps - x_0)^2 as its loss."""
  normal = oracles.gaussian([0.5, -1.0], 0.3 * np.eye(2))
  schedule = dj.RectifiedFlowSchedule()
  zeros = dj.Network(
    lambda params, x, noise, cond, *, key=None: 0.0 * x, dj.logsnr_input, parametrization='flow'
  )
  teacher = lambda frozen, cond: normal.denoise
  objective = distillation.reflow(
    zeros, schedule, times=dj.uniform_times, teacher=teacher, teacher_steps=8
  )

  @jax.jit
  def both(key):
    inputs, keys = objective.draw(key, {'x': np.zeros((64, 2), np.float32)}, Context())
    x0 = dj.sample(key, normal.denoise, dj.unipc(), dj.level_grid(schedule, 8), inputs.eps)
    loss, _ = objective.loss({'network': ()}, Context(), inputs, keys)
    return loss, inputs.eps - x0

  loss, difference = both(key)
  assert_allclose(loss, np.mean(difference**2), rtol=1e-5)

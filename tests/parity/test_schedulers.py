"""Our grids and samplers against diffusers' schedulers of docs/samplers.md."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.sampling import ancestral, correctors, solvers

torch = pytest.importorskip('torch')
theirs = pytest.importorskip('diffusers')

TOLERANCE = 1e-5  # float32
N = 10
DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
FLOW = dj.RectifiedFlowSchedule()
BETAS = dict(beta_start=1e-4, beta_end=0.02)
TRAILING = BETAS | dict(timestep_spacing='trailing')
FREE = TRAILING | dict(clip_sample=False)
# On 'trailing' steps diffusers adds noise to the clean image.
LARGE = dict(variance_type='fixed_large', timestep_spacing='leading')
SDE = dict(algorithm_type='sde-dpmsolver++')
LOWEST = {'solver_order': 3, 'final_sigmas_type': 'sigma_min'}
SOLVER_2 = dj.dpm_solver_2(DDPM)

# (diffusers' class, its options, options of its step, ours)
SAMPLERS = [
  ('DDIMScheduler', FREE, {}, dj.ddim()),
  ('DDIMScheduler', FREE, {'eta': 0.7}, dj.ddim(0.7)),
  ('DDPMScheduler', FREE, {}, dj.ancestral('fixed_small')),
  ('DDPMScheduler', FREE | LARGE, {}, dj.ancestral('fixed_large')),
  ('EulerDiscreteScheduler', TRAILING, {}, dj.ddim()),
  ('EulerAncestralDiscreteScheduler', TRAILING, {}, dj.ddim(1.0)),
  ('HeunDiscreteScheduler', TRAILING, {}, dj.heun()),
  ('LMSDiscreteScheduler', TRAILING, {}, dj.lms(4)),
  ('KDPM2DiscreteScheduler', TRAILING, {}, dj.dpm_solver_2(DDPM)),
  ('KDPM2AncestralDiscreteScheduler', TRAILING, {}, dj.with_ancestral_noise(SOLVER_2, DDPM)),
  ('DPMSolverMultistepScheduler', TRAILING, {}, dj.dpm_solver_pp(2)),
  ('DPMSolverMultistepScheduler', TRAILING | SDE, {}, dj.dpm_solver_pp_sde()),
  ('UniPCMultistepScheduler', TRAILING | {'solver_order': 1}, {}, dj.unipc(1)),
  ('UniPCMultistepScheduler', TRAILING, {}, dj.unipc(2)),
  ('UniPCMultistepScheduler', TRAILING | {'solver_order': 3}, {}, dj.unipc(3, N)),
  ('UniPCMultistepScheduler', TRAILING | LOWEST, {}, dj.unipc(3, N)),
  ('FlowMatchEulerDiscreteScheduler', {'shift': 3.0}, {}, dj.ddim()),
  ('FlowMatchHeunDiscreteScheduler', {}, {}, dj.velocity_heun(FLOW)),
  ('EDMEulerScheduler', {}, {}, dj.ddim()),
  ('EDMDPMSolverMultistepScheduler', {}, {}, dj.dpm_solver_pp(2)),
]


def x0_hat(x, alpha, sigma, tanh):
  """Returns E[x_0 | x] of x_0 = +-1 with noise of variance 1/4."""
  variance = 0.25 * alpha**2 + sigma**2
  weight = 0.25 * alpha / variance
  return weight * x + (1.0 - weight * alpha) * tanh(alpha * x / variance)


def denoise(x, level):
  level = level.expand_to(x)
  return dj.Prediction(x0_hat(x, level.alpha, level.sigma, jnp.tanh))


def grid(name, timestep_spacing='', final_sigmas_type='', **_):
  if name == 'FlowMatchEulerDiscreteScheduler':
    return dj.level_grid(dj.RectifiedFlowSchedule(3.0), N), {'sigmas': np.linspace(1.0, 1.0 / N, N)}
  if name.startswith('FlowMatch'):
    levels = dj.level_grid(FLOW, N, t_end=1e-3)
  elif name.startswith('EDM'):
    levels = dj.level_grid(dj.KarrasSchedule(), N)
  else:
    levels = dj.level_grid(DDPM, N, timestep_spacing)
  if final_sigmas_type == 'sigma_min':
    levels = DDPM(jnp.append(levels.t[:-1], 1e-3))
  return levels, {'num_inference_steps': N}


def coefficients(name, scheduler, i, t):
  if name in ('DDIMScheduler', 'DDPMScheduler'):
    alpha_bar = float(scheduler.alphas_cumprod[int(t)])
    return alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
  sigma = float(scheduler.sigmas[i])
  if name.startswith('KDPM2') and i % 2:  # the middle of a step
    i -= 'Ancestral' in name
    sigma = float(scheduler.sigmas_interpol[i])
  if name.startswith('FlowMatch'):
    return 1.0 - sigma, sigma
  if name.startswith('EDM'):
    return 1.0, sigma
  alpha = (1.0 + sigma**2) ** -0.5  # sigmas are sigma / alpha
  return alpha, alpha * sigma


def output(name, x, alpha, sigma):
  """Returns what a network predicts: v of a flow, EDM's F, or eps."""
  x0 = x0_hat(x, alpha, sigma, torch.tanh)
  if name.startswith('FlowMatch'):
    return (x - x0) / sigma
  if name.startswith('EDM'):  # x0 = c_skip x + c_out F (Karras et al., Table 1)
    total = sigma**2 + 0.25
    return (x0 - 0.25 / total * x) * total**0.5 / (0.5 * sigma)
  return (x - alpha * x0) / sigma


@pytest.mark.parametrize(
  'name, options, step, sampler', SAMPLERS, ids=lambda x: x if isinstance(x, str) else ''
)
def test_a_sampler_of_the_table(name, options, step, sampler, monkeypatch):
  z = np.random.default_rng(0).standard_normal((2, 16, 1, 1, 1))
  scheduler = getattr(theirs, name)(**options)
  monkeypatch.setattr(
    sys.modules[type(scheduler).__module__],
    'randn_tensor',
    lambda shape, **options: torch.tensor(z[1]),
    raising=False,
  )
  for module in (ancestral, correctors, solvers):
    monkeypatch.setattr(module, 'draw_normal', lambda key, x: jnp.asarray(z[1], x.dtype))
  levels, asked = grid(name, **options)
  scheduler.set_timesteps(**asked)

  x = z[0] * float(levels.sigma[0])
  ratio = name.startswith(('Euler', 'Heun', 'LMS', 'KDPM2'))  # Their x is x / alpha.
  y = torch.tensor(x / float(levels.alpha[0]) if ratio else x)
  for i, t in enumerate(scheduler.timesteps):
    alpha, sigma = coefficients(name, scheduler, i, t)
    given = output(name, alpha * y if ratio else y, alpha, sigma)
    y = scheduler.step(given, t, y, return_dict=False, **step)[0]

  sample = jax.jit(lambda x: dj.sample(jax.random.key(0), denoise, sampler, levels, x))
  ours = sample(jnp.asarray(x, jnp.float32))
  assert np.std(ours) > 0.5
  assert_allclose(ours, y, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
  'name, option, spacing',
  [
    ('EulerDiscreteScheduler', 'use_karras_sigmas', 'karras'),
    ('HeunDiscreteScheduler', 'use_karras_sigmas', 'karras'),
    ('UniPCMultistepScheduler', 'use_karras_sigmas', 'karras'),
    ('DPMSolverMultistepScheduler', 'use_karras_sigmas', 'karras'),
    ('DPMSolverMultistepScheduler', 'use_exponential_sigmas', 'logsnr'),
    ('DPMSolverMultistepScheduler', 'use_lu_lambdas', 'logsnr'),
  ],
)
def test_the_levels_of_options(name, option, spacing):
  scheduler = getattr(theirs, name)(**BETAS, **{option: True})
  scheduler.set_timesteps(N)
  levels = dj.level_grid(DDPM, N, spacing)
  ours = (levels.sigma / levels.alpha)[::-1]
  assert_allclose(ours, np.unique(scheduler.sigmas), rtol=1e-4)


def timesteps(name, n, **options):
  scheduler = getattr(theirs, name)(**BETAS, **options)
  scheduler.set_timesteps(n)
  return np.unique(scheduler.timesteps)[::-1]


def test_the_steps_of_timestep_spacing():
  """diffusers' index i is our step i + 1."""
  names = 'DDPMScheduler', 'DDIMScheduler'
  leading = names + tuple(
    f'{name}DiscreteScheduler' for name in ('Euler', 'EulerAncestral', 'Heun')
  )
  multistep = 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler'
  table = {'linspace': names, 'leading': leading, 'trailing': leading + multistep}
  for spacing, classes in table.items():
    for n in (7, 50, 300):
      t = dj.level_grid(DDPM, n, spacing).t[:-1]
      for name in classes:
        expected = timesteps(name, n, timestep_spacing=spacing)
        assert_allclose(1000 * t - 1, expected, atol=1e-3)

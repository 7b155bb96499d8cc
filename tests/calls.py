"""Calls of every public function on the rows of a batch, for laws over all of them.

Rows do not depend on each other: a call of some rows gives some rows of the result.
`ROWS` holds functions Batch -> arrays [B, ...]; tests/fusions.py and
tests/laws/test_any_mesh.py run them, and tests/laws/test_compiled_rightly.py says
which names of `dj` are still without a call.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.kinds import choices
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.core.products import finished
from diffusion_jax.declared import declared_by
from diffusion_jax.discrete import oracles as discrete_oracles
from diffusion_jax.meshes import placed_as
from diffusion_jax.testing import oracles

D, K = 3, 4  # numbers of a row; particles
STATES = 5
RNG = np.random.default_rng(1)
MATRIX = RNG.standard_normal((D, D)).astype(np.float32)
COV = MATRIX @ MATRIX.T + 0.1 * np.eye(D)
MIXTURE = oracles.mixture([0.3, 0.5, 0.2], MATRIX, [COV, np.eye(D), 0.2 * COV])
TABLE = discrete_oracles.table(RNG.dirichlet(np.ones(STATES**2)).reshape(STATES, STATES))

COSINE, FLOW = dj.CosineSchedule(), dj.RectifiedFlowSchedule()
DDPM = dj.DiscreteSchedule.from_betas(dj.linear_betas(10, 0.01, 0.5))
MASKING, UNIFORM = dj.masking_process(STATES), dj.uniform_process(STATES)
GRID = jax.device_get(dj.level_grid(COSINE, 3))
KEY = jax.random.key(7)
S, T = COSINE(0.3), COSINE(0.6)
# Errors are then so small that each step is ten times the one before. Others follow the rounding
# of the errors: between programs results of tolerance 1e-3 differ by 2e-4.
ODE = {'rtol': 10.0, 'atol': 10.0}


class Batch(NamedTuple):
  """Rows: two points, a time in (0, 1), a key, two states, and pixels."""

  x: jax.Array  # [B, D]
  y: jax.Array  # [B, D]
  t: jax.Array  # [B]
  keys: jax.Array  # [B]
  states: jax.Array  # [B, 2]
  pixels: jax.Array  # [B, D], of 256 grey levels in [-1, 1]


def batch_of(rows):
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((2, rows, D)).astype(np.float32)
  t = rng.uniform(0.1, 0.9, rows).astype(np.float32)
  states = rng.integers(0, STATES, (rows, 2))
  pixels = rng.integers(0, 256, (rows, D)).astype(np.float32) / 127.5 - 1.0
  return Batch(x, y, t, jax.random.split(jax.random.key(0), rows), states, pixels)


def network(params, x, noise, cond, *, key=None):
  """A user's network: a product, a condition and a sum over the numbers of a row."""
  h = finished(x @ MATRIX) + expand_to(0.1 * noise, x)
  if cond and 'label' in cond:
    h += jnp.where(cond['drop'], 0.0, cond['label'])[:, None]
  return params * jnp.tanh(h)


NETWORK = dj.Network(network, dj.logsnr_input, parametrization='v')
NETWORK_EACH = dataclasses.replace(NETWORK, level_axes=2)
denoise = NETWORK.denoiser(1.0)
log_prob = lambda x, level: -0.5 * jnp.sum(x**2, axis=1)
linear = lambda x: x @ MATRIX[:, :2]


def pair_of(b):
  cond = {'label': b.x[:, 0], 'drop': jnp.zeros(len(b.x), bool)}
  return dj.make_paired_denoiser(NETWORK, 1.0, cond)


def measured(b, std=0.5):
  return dj.Measurement(linear(b.y), linear, std)


def sampled(sampler, of=lambda b: denoise, levels=GRID):
  """Returns the call of a sampler; sampler and denoiser may be functions of the batch."""

  def call(b):
    made = sampler if isinstance(sampler, dj.Sampler) else sampler(b)
    return dj.sample(b.keys, of(b), made, levels, b.x)

  return call


def particles(sampler, of=denoise):
  def call(b):
    x = b.x[:, None] + jnp.arange(K, dtype=b.x.dtype)[None, :, None]
    made = sampler if isinstance(sampler, dj.Sampler) else sampler(b)
    x, state = dj.sample_with_state(b.keys, of, made, GRID, x)
    return dj.pick(b.keys, x, state.log_weights), state

  return call


def logits_of(xt, level):
  """A user's denoiser of states."""
  hot = jax.nn.one_hot(xt, STATES + 1).sum(axis=1, keepdims=True)
  hot = jnp.broadcast_to(hot, (*xt.shape, STATES + 1))
  return hot + expand_to(level.t, hot)


def states_sampled(sampler, of=None):
  of = of or (lambda xt, level: dj.posterior_logits(logits_of(xt, level), xt, MASKING, level))
  grid = dj.level_grid(FLOW, 3)
  return lambda b: dj.sample(b.keys, of, sampler, grid, jnp.full_like(b.states, STATES))


def first_axis(x):
  return jnp.moveaxis(x, 1, 0)


LEVELS = {
  'cosine': COSINE,
  'linear_vp': dj.LinearVPSchedule(),
  'sub_vp': dj.SubVPSchedule(),
  'geometric_ve': dj.GeometricVESchedule(),
  'karras': dj.KarrasSchedule(),
  'flow': FLOW,
  'sigmoid': dj.SigmoidSchedule(),
  'shifted': dj.ShiftedSchedule(COSINE, 2.0),
  'learned': dj.LearnedSchedule(np.float32(1.0), lambda p, t: p * (10.0 * t - 5.0)),
  'steps': DDPM,
  'alphas': dj.DiscreteSchedule.from_alphas([0.9, 0.5, 0.2]),
  'zero_snr': dj.DiscreteSchedule.from_betas(dj.zero_terminal_snr(dj.cosine_betas(8))),
  'polynomial_masking': dj.PolynomialMasking(2.0),
  'cosine_masking': dj.CosineMasking(),
  'alpha_bar': dj.AlphaBarSchedule(DDPM),
}


def level_call(schedule):
  def call(b):
    level = schedule(b.t)
    return level, schedule.from_logsnr(level.logsnr), level.snr

  return call


def at_two(b):
  """Returns levels [B]: s = 0.8 t."""
  return COSINE(0.8 * b.t), COSINE(b.t)


PROCESS = {
  **{f'levels_{name}': level_call(schedule) for name, schedule in LEVELS.items()},
  'forward_step': lambda b: dj.forward_step(b.x, b.y, *at_two(b)),
  'q_sample': lambda b: dj.q_sample(b.x, b.y, COSINE(b.t)),
  'q_posterior': lambda b: dj.q_posterior(b.x, b.y, *at_two(b)).mean,
  'p_reverse': lambda b: dj.p_reverse(b.x, b.y, *at_two(b), 'learned', jnp.abs(b.y)),
  'reverse_variance': lambda b: dj.reverse_variance('fixed_large', *at_two(b)),
  'sde_coefficients': lambda b: dj.sde_coefficients(COSINE, b.t),
  'weighted_eps_loss': lambda b: dj.weighted_eps_loss(b.x, b.y, *at_two(b)),
  'simple_loss': lambda b: dj.simple_loss(b.x, b.y),
  'eps_from_x0': lambda b: dj.eps_from_x0(b.x, b.y, COSINE(b.t)),
  'score_from_x0': lambda b: dj.score_from_x0(b.x, b.y, COSINE(b.t)),
  'error_scale': lambda b: dj.error_scale('edm', COSINE(b.t)),
  'target': lambda b: dj.target('edm', b.x, b.y, COSINE(b.t)),
  'to_x0': lambda b: dj.to_x0('v', b.x, b.y, COSINE(b.t)),
  'kl': lambda b: dj.kl(dj.Normal(b.x, 1.0 + b.y**2), dj.Normal(0.0, 1.0)),
  'log_prob': lambda b: dj.log_prob(dj.Normal(b.x, 0.5), b.y),
  'discretized_log_prob': lambda b: dj.discretized_log_prob(dj.Normal(b.x, 0.3), b.pixels),
  'logistic': lambda b: dj.discretized_logistic_log_prob(b.x, b.y, b.pixels),
  'bernoulli_log_prob': lambda b: dj.bernoulli_log_prob(b.x, b.pixels),
  'bits_per_dim': lambda b: dj.bits_per_dim(b.t, (D,)),
  **{
    f'loss_{kind}': lambda b, k=kind, w=weight: dj.denoising_loss(k, b.x, b.y, b.x, COSINE(b.t), w)
    for kind, weight in {
      'eps': dj.snr_weight,
      'x0': dj.min_snr_weight(),
      'v': dj.truncated_snr_weight,
      'flow': dj.min_flow_weight(),
      'edm': dj.edm_weight(0.5),
      'score': dj.flow_weight,
    }.items()
  },
  'v_weight': lambda b: dj.v_weight(COSINE(b.t)),
  'snr_weight': lambda b: dj.snr_weight(COSINE(b.t)),
  'truncated_snr_weight': lambda b: dj.truncated_snr_weight(COSINE(b.t)),
  'flow_weight': lambda b: dj.flow_weight(COSINE(b.t)),
  'vdm_diffusion_loss': lambda b: dj.vdm_diffusion_loss(b.x, b.y, COSINE, b.t, 4),
  'vdm_weight': lambda b: dj.vdm_weight(COSINE)(COSINE(b.t)),
  **{
    f'{name}_input': lambda b, f=noise: f(DDPM(b.t))
    for name, noise in {
      'edm': dj.edm_input,
      'log_sigma': dj.log_sigma_input,
      'step': dj.step_input(10),
      'time': dj.time_input(),
    }.items()
  },
  'network': lambda b: NETWORK.output(1.0, b.x, COSINE(b.t), key=KEY),
  'network_loss': lambda b: NETWORK.denoising_loss(b.x, b.x, b.y, T, dj.snr_weight),
  'at_training_levels': lambda b: dj.at_training_levels(denoise, DDPM)(b.x, COSINE(b.t)),
  'prior_sample': lambda b: dj.prior_sample(b.keys, b.x.shape, T),
  'path_noise': lambda b: dj.path_noise(b.keys, b.x, *at_two(b)),
  'dequantize': lambda b: dj.dequantize(b.keys, b.pixels),
  'gaussian_dequantize': lambda b: dj.gaussian_dequantize(b.keys, b.pixels, S),
  'ode_bits_per_dim': lambda b: dj.ode_bits_per_dim(b.t, (D,)),
  'poisson_log_prob': lambda b: dj.poisson_log_prob(jnp.ones_like(b.x), jnp.tanh, 9.0)(b.x),
}

BOUNDS = {
  'prior_kl': lambda b: dj.prior_kl(b.x, COSINE(b.t)),
  'diffusion_kl': lambda b: dj.diffusion_kl(b.x, b.y, dj.p_reverse(b.y, b.y, S, T), S, T),
  'reconstruction_nll': lambda b: dj.reconstruction_nll(b.pixels, dj.Normal(b.x, 0.3)),
  'categorical_nll': lambda b: dj.categorical_nll(b.pixels, b.x, S),
  **{
    f'bound_{name}': lambda b, o=options, s=schedule: dj.variational_bound(
      b.keys, denoise, s, b.pixels, num_steps=4, **o
    )
    for name, schedule, options in (
      ('ddpm', DDPM, {}),
      ('some', DDPM, {'steps': 2, 'variance': 'fixed_large'}),
      (
        'vdm',
        COSINE,
        {'decoder': lambda x0, last: dj.categorical_nll(x0, last.z, last.level)},
      ),
    )
  },
  'path_bound': lambda b: dj.path_bound(b.keys, denoise, COSINE, GRID, b.x, num_times=2),
  'log_likelihood': lambda b: dj.log_likelihood(b.keys, denoise, COSINE, b.x, **ODE),
  'exact_likelihood': lambda b: dj.log_likelihood(
    None, denoise, COSINE, b.x, exact_trace=True, **ODE
  ),
  'probability_flow': lambda b: dj.probability_flow(denoise, COSINE, b.x, 1.0, 0.1, **ODE),
  'vae_elbo': lambda b: dj.vae_elbo(b.keys, b.x, encoder(b.x), decoder, num_samples=2),
  'vae_log_weight': lambda b: dj.vae_log_weight(b.keys, b.x, encoder(b.x), decoder),
  'importance_weighted_elbo': lambda b: dj.importance_weighted_elbo(
    b.keys, lambda key: dj.vae_log_weight(key, b.x, encoder(b.x), decoder), 3
  ),
  'hierarchical_elbo': lambda b: dj.hierarchical_elbo(
    b.keys, b.x, lambda t, z: encoder(z), lambda t, z: encoder(z), decoder, num_steps=2
  ),
  'rearranged_elbo': lambda b: dj.rearranged_elbo(
    b.keys,
    b.x,
    lambda t, x: encoder(x),
    lambda t, z, x: encoder(z + x),
    lambda t, z: encoder(z),
    decoder,
    num_steps=2,
  ),
  'reparameterize': lambda b: dj.reparameterize(b.keys, encoder(b.x)),
}


def encoder(x):
  return dj.Normal(0.5 * finished(x @ MATRIX), jnp.exp(-jnp.tanh(x)))


def decoder(x, z):
  return -0.5 * jnp.sum((x - finished(z @ MATRIX)) ** 2, axis=1)


CLUSTERS = dj.paired(denoise, lambda x, level: dj.Prediction(0.5 * denoise(x, level).x0))
GUIDERS = {
  'clip_denoised': lambda b: dj.clip_denoised(denoise)(b.x, COSINE(b.t)),
  'dynamic_threshold': lambda b: dj.dynamic_threshold(denoise, 0.8)(3.0 * b.x, COSINE(b.t)),
  'classifier_free': lambda b: dj.classifier_free(pair_of(b), 2.0, 0.5, (0.0, 3.0), 2)(
    b.x, COSINE(b.t)
  ),
  'adaptive_projected': lambda b: dj.adaptive_projected(pair_of(b), 2.0, 0.5, 1.0)(b.x, T),
  'cfg_zero_star': lambda b: dj.cfg_zero_star(pair_of(b), 2.0)(b.x, T),
  'classifier_guided': lambda b: dj.classifier_guided(denoise, log_prob, 2.0)(b.x, COSINE(b.t)),
  'observation_guided': lambda b: dj.observation_guided(denoise, linear, linear(b.y), std=0.5)(
    b.x, T
  ),
  'reconstruction_guided': lambda b: dj.reconstruction_guided(
    denoise, b.y, np.array([[True, False, True]])
  )(b.x, T),
  'pseudoinverse_guided': lambda b: dj.pseudoinverse_guided(denoise, measured(b), 3)(b.x, T),
  'twist_guided': lambda b: dj.twist_guided(denoise, dj.spread_twist(measured(b)))(b.x, T),
  'proximal': lambda b: dj.proximal(denoise, measured(b), num_iterations=3)(b.x, T),
  'unexplained': lambda b: dj.unexplained(measured(b), b.x, num_iterations=3),
  'gauss_composed': lambda b: dj.gauss_composed(
    lambda y: lambda x, level: dj.Prediction(denoise(x, level).x0 + y[None]),
    MATRIX,
    denoise,
    np.stack([COV * s for s in (0.3, 0.4, 0.5)]),
    COV,
  )(b.x, T),
  'bridged': lambda b: dj.bridged(
    lambda y: lambda x, level: dj.Prediction(denoise(x, level).x0 + y[None]), MATRIX, lambda x: -x
  )(b.x, T),
  'gaussian_draw': lambda b: dj.gaussian_draw(measured(b), 3)(b.keys, b.x, 0.5),
  'langevin_draw': lambda b: dj.langevin_draw(measured(b).log_prob, 0.1, 3)(b.keys, b.x, 0.5),
  'pseudoinverse_twist': lambda b: dj.pseudoinverse_twist(measured(b), 3)(b.x, T),
  'measurement': lambda b: (measured(b).log_prob(b.x), measured(b).distance(b.x)),
}

MASK = np.array([[True, False, True]])
denoise_each = NETWORK_EACH.denoiser(1.0)


def partly(y):
  return jnp.where(MASK, y, jnp.nan)


ADAPTIVE = dj.adaptive_ode(COSINE, **ODE, max_steps=64)
# Parameters other than the defaults, of more memory or fewer steps.
PARAMETERS = {
  'ddim': {'eta': 0.5},
  **dict.fromkeys(('lms', 'unipc', 'dpm_solver_pp'), {'order': 3}),
  'dpm_solver_pp_sde': {'brownian': True},
  'annealed_langevin': {'num_steps': 2},
}


def of_table(name):
  """Returns a sampler of configs."""
  make = getattr(dj, name, choices.SAMPLERS[name])  # tests/exchanges.py records calls of dj
  given = {'schedule': COSINE} if 'schedule' in parameters(make) else {}
  return make(**given, **PARAMETERS.get(name, {}))


SAMPLERS = {
  **{
    name: sampled(sampler)
    for name, sampler in {
      **{n: of_table(n) for n, x in choices.SAMPLERS.items() if not declared_by(x).takes_pairs},
      'ancestral': dj.ancestral(mean_shift=dj.log_prob_gradient(log_prob)),
      'adaptive_ode': ADAPTIVE,
      'churn': dj.churn(dj.heun(), COSINE, dj.churn_gamma(1.0, 10)),
      'with_ancestral_noise': dj.with_ancestral_noise(dj.heun(), COSINE),
      'with_corrector': dj.with_corrector(dj.ddim(), dj.langevin()),
      'renoised': dj.renoised(0.5),
      'replace_known': lambda b: dj.replace_known(dj.ddim(), b.y, MASK),
      'likelihood_guided': lambda b: dj.likelihood_guided(dj.ddim(), measured(b).distance, 0.3),
      'decoupled': lambda b: dj.decoupled(
        dj.gaussian_draw(measured(b), 2), estimate=dj.ode_estimate(COSINE, 2)
      ),
      'one_of': lambda b: dj.one_of(dj.steered(measured(b, 1.0).log_prob), 2),
    }.items()
  },
  'repaint': sampled(
    lambda b: dj.repaint(dj.ddim(1.0), b.y, MASK), levels=dj.repaint_levels(GRID, 2, 1)
  ),
  'cfg_plus_plus': sampled(dj.cfg_plus_plus(0.5), of=pair_of),
  'self_conditioned': sampled(
    dj.self_conditioned(dj.ddim()),
    of=lambda b: lambda x0: lambda x, level: dj.Prediction(denoise(x, level).x0 + 0.1 * x0),
  ),
  'steered': particles(
    dj.steered(lambda x0: jnp.sum(x0, axis=1), dj.tempered_twist(lambda x0: jnp.sum(x0, axis=1)))
  ),  # fmt: skip
  'feynman_kac': particles(dj.feynman_kac((2.0, -1.0)), CLUSTERS),
  'trajectory': lambda b: first_axis(dj.trajectory(b.keys, denoise, dj.ddim(), GRID, b.x)),
  'ddim_invert': lambda b: dj.ddim_invert(denoise, GRID, b.x),
  'sdedit': lambda b: dj.sdedit(b.keys, denoise, dj.ddim(1.0), GRID, b.x, 0.7, mask=MASK),
  'interpolate': lambda b: first_axis(
    dj.interpolate(denoise, GRID, b.x, b.y, np.float32([0.3, 0.6]))
  ),
  'slerp': lambda b: dj.slerp(b.x, b.y, 0.3),
  'split_gibbs': lambda b: dj.split_gibbs(
    b.keys,
    denoise,
    COSINE,
    dj.gaussian_draw(measured(b), 2),
    np.float32([1.0, 0.5]),
    b.x,
    num_steps=2,
  ),  # fmt: skip
  'red_diff': lambda b: dj.red_diff(
    b.keys, denoise, GRID, lambda x: measured(b).distance(x), b.x, Descent
  ),
}


class Descent:
  """An optimizer, as `red_diff` takes it."""

  init = staticmethod(lambda x: ())
  update = staticmethod(lambda gradient, state, x: (-0.1 * gradient, state))


def flow_map(kind):
  def call(b):
    made = dj.make_flow_map(NETWORK, 1.0, kind=kind)
    grid = dj.level_grid(dj.KarrasSchedule(), 2, end_clean=False)
    return dj.sample_map(b.keys, made, grid, b.x, stochastic=kind != 'average_velocity')

  return call


FLOW_MAPS = {
  f'sample_map_{kind}': flow_map(kind) for kind in ('average_velocity', 'consistency', 'trigflow')
}


def of_process(process):
  grey = lambda b: dj.q_sample_states(b.keys, b.states, process, FLOW(b.t))
  size = len(process.prior)
  scores = np.arange(size, dtype=np.float32)[None, None]
  logits = lambda b: jnp.broadcast_to(b.x[:, :1, None] * scores, (*b.states.shape, size))
  return {
    'q_states': lambda b: dj.q_states(b.states, process, FLOW(b.t)),
    'q_sample_states': grey,
    'q_posterior_states': lambda b: dj.q_posterior_states(
      b.states, grey(b), process, FLOW(0.5 * b.t), FLOW(b.t)
    ),
    'p_reverse_states': lambda b: dj.p_reverse_states(
      logits(b), grey(b), process, FLOW(0.5 * b.t), FLOW(b.t)
    ),
    'posterior_logits': lambda b: dj.posterior_logits(logits(b), grey(b), process, FLOW(b.t)),
    'prior_kl_states': lambda b: dj.prior_kl_states(b.states, process, FLOW(1.0)),
    'transition_kl_states': lambda b: dj.transition_kl_states(
      logits(b), b.states, grey(b), process, FLOW(0.5 * b.t), FLOW(b.t)
    ),
    'prior_sample_states': lambda b: dj.prior_sample_states(b.keys, b.states.shape, process),
    'draw_states': lambda b: dj.draw_states(b.keys, jnp.exp(logits(b))),
    'state_bound': lambda b: dj.state_bound(
      b.keys,
      lambda xt, level: logits(b) + expand_to(level.t, logits(b)),
      process,
      dj.level_grid(FLOW, 3),
      b.states,
    ),
    'jump_nats': lambda b: dj.jump_nats(logits(b), b.states, grey(b), process, FLOW(b.t)),
    'state_nll': lambda b: dj.state_nll(logits(b), b.states),
    'state_kl': lambda b: dj.state_kl(jax.nn.softmax(logits(b)), jax.nn.softmax(-logits(b))),
  }


GREY = dj.Network(
  dj.logistic_network(lambda params, x, noise, cond, *, key=None: jnp.stack(
    [jnp.tanh(x * 0.1), expand_to(noise, x) + 0.0 * x], axis=-1
  ), STATES),
  dj.logsnr_input,
)  # fmt: skip
posterior = lambda xt, level: dj.posterior_logits(logits_of(xt, level), xt, MASKING, level)
GAUSSIAN = dj.gaussian_process(STATES, np.linspace(0.1, 0.3, 3))
IN_TURN = jax.device_get(dj.staggered(dj.level_grid(FLOW, 1), [0, 1]))
STEPPED = dj.MatrixProcess.from_matrices([dj.gaussian_matrix(STATES, 0.2)] * 2)
DISCRETE = {
  **{f'masking_{name}': call for name, call in of_process(MASKING).items()},
  **{f'uniform_{name}': call for name, call in of_process(UNIFORM).items()},
  'stepped_q_states': lambda b: dj.q_states(b.states, STEPPED, FLOW(b.t)),
  'logistic_logits': lambda b: dj.logistic_logits(b.x, b.y, STATES),
  'gaussian_q_states': lambda b: dj.q_states(b.states, GAUSSIAN, FLOW(b.t)),
  'state_denoiser': lambda b: dj.make_state_denoiser(GREY, 1.0, process=UNIFORM)(
    b.states, FLOW(b.t)
  ),
  'states_of': lambda b: dj.states_of(dj.values_of(b.states, STATES), STATES),
  'masked_bound': lambda b: dj.masked_bound(
    b.keys, posterior, MASKING, FLOW, b.states, num_times=2, levels=IN_TURN
  ),
  'masked_weight': lambda b: dj.masked_weight(FLOW)(FLOW(b.t)),
  'uniform_bound': lambda b: dj.uniform_bound(
    b.keys, TABLE.denoiser(UNIFORM), UNIFORM, FLOW, b.states, num_times=2, levels=IN_TURN
  ),
  'uniform_weight': lambda b: dj.uniform_weight(FLOW)(FLOW(b.t)),
  'guided_states': lambda b: dj.guided_states(posterior, dj.top_p(posterior, 0.9), 2.0)(
    b.states, FLOW(b.t)
  ),
  **{
    name: states_sampled(sampler)
    for name, sampler in {
      'ancestral_states': dj.ancestral_states(MASKING),
      'first_hitting': dj.first_hitting(MASKING, FLOW),
      'confidence_ordered': dj.confidence_ordered(MASKING, 1.0),
      'remasked': dj.remasked(dj.ancestral_states(MASKING), MASKING, 0.5),
    }.items()
  },
  'keep_known': lambda b: states_sampled(
    dj.keep_known(dj.ancestral_states(MASKING), b.states, np.array([[True, False]]))
  )(b),
  'table': lambda b: TABLE.denoiser(UNIFORM)(b.states, FLOW(b.t)),
}

ORACLES = {
  'oracle': lambda b: MIXTURE.denoise(b.x, COSINE(b.t)),
  'oracle_score': lambda b: MIXTURE.score(b.x, COSINE(b.t)),
  'oracle_log_prob': lambda b: MIXTURE.log_prob(b.x, COSINE(b.t)),
}

# Examples have some elements that are known.
ROLLOUTS = {
  'hold_known': lambda b: dj.sample(
    b.keys, denoise_each, dj.ddim(), *dj.hold_known(GRID, b.x, partly(b.y))
  ),
  'given_known': lambda b: dj.sample(
    b.keys, dj.given_known(denoise_each, partly(b.y)), dj.ddim(), GRID, b.x
  ),
  'roll_out': lambda b: dj.roll_out(
    b.keys, lambda key, known: jnp.where(jnp.isnan(known), 2.0, known), partly(b.y), D - 1, 1
  ),
}

CIRCLE = joint.circle()
VARIABLES = {
  'x': joint.gaussian(COSINE, level_axes=2),
  'c': joint.states(MASKING, FLOW),
  'a': joint.directions(CIRCLE),
}
JOINT_GRIDS = jax.device_get(joint.level_grids(VARIABLES, 3))


def of_variables(params, x, noise, cond, *, key=None):
  """A user's network of several variables: each output depends on all of them."""
  h = finished(x['x'] @ MATRIX) + noise['x'] + jnp.sum(x['a'], axis=(1, 2))[:, None]
  h = params * jnp.tanh(h + expand_to(noise['c'], h) + jnp.mean(x['c'], axis=1)[:, None])
  logits = h[:, :1, None] * jnp.arange(STATES + 1.0)[None, None]
  return {'x': h, 'c': jnp.repeat(logits, 2, axis=1), 'a': h[:, :2]}


def jointly(b):
  """All that is drawn given some numbers, at levels of examples and of elements."""
  shapes = {'x': b.x.shape, 'c': b.states.shape, 'a': (len(b.x), 2)}
  start = placed_as(b.x, joint.draw_prior(b.keys, VARIABLES, shapes, JOINT_GRIDS)) | {'x': b.x}
  known = {'x': partly(b.y), 'c': jnp.where(b.t[:, None] > 0.5, b.states, -1)}
  levels, start = joint.hold_known(VARIABLES, JOINT_GRIDS, start, known)
  denoise = joint.JointNetwork(of_variables, VARIABLES).denoiser(1.0)
  samplers = {'x': dj.heun(), 'c': dj.ancestral_states(MASKING), 'a': joint.geodesic(CIRCLE)}
  return dj.sample(b.keys, denoise, joint.joint_sampler(samplers), levels, start)


PATH_VARIABLES = {
  'x': joint.gaussian(COSINE, weight=dj.vdm_weight(COSINE)),
  'c': joint.states(MASKING, FLOW),
}
PATH = jax.device_get(
  {'x': COSINE(jnp.array([1.0, 0.5, 0.1])), 'c': FLOW(jnp.array([1.0, 0.4, 0.0]))}
)


def of_path(params, x, noise, cond, *, key=None):
  h = finished(x['x'] @ MATRIX) + (noise['x'] + jnp.mean(x['c'], axis=1))[:, None]
  h = params * jnp.tanh(h)
  logits = h[:, :1, None] * jnp.arange(STATES + 1.0)[None, None]
  return {'x': h, 'c': jnp.repeat(logits, 2, axis=1)}


def along(b):
  """The bound of numbers and states along a path."""
  network = joint.JointNetwork(of_path, PATH_VARIABLES)
  x0 = {'x': b.x, 'c': b.states}
  return joint.path_loss(b.keys, network, 1.0, PATH, x0, num_times=2)


JOINT = {'joint': jointly, 'path_loss': along}
ROWS = PROCESS | BOUNDS | GUIDERS | SAMPLERS | FLOW_MAPS | DISCRETE | ORACLES | ROLLOUTS | JOINT

# Functions that draw a whole batch from one key, or whose arrays have no rows of examples.
WHOLE = {
  **{
    f'times_{name}': functools.partial(times, KEY, 8, COSINE)
    for name, times in {
      'uniform': dj.uniform_times,
      'antithetic': dj.antithetic_times,
      'steps': dj.step_times(10),
      'log_normal': dj.log_normal_times(),
      'logit_normal': dj.logit_normal_times(),
    }.items()
  },
  'independent_levels': lambda: dj.independent_levels(2, 0.3)(
    KEY, (4, 6), dj.uniform_times, COSINE
  ),
  'levels_in_turn': lambda: dj.levels_in_turn(2)(KEY, (4, 6), dj.uniform_times, COSINE),
  'subset_levels': lambda: dj.subset_levels(2)(KEY, (4, 6), dj.uniform_times, COSINE),
  'free_bits': lambda: dj.free_bits(MATRIX**2, 0.5),
  'kl_warmup': lambda: dj.kl_warmup(jnp.int32(3), 10),
  'noise_image': lambda: dj.noise_image(KEY, MATRIX, DDPM, [0, 3, 10]),
  'step_levels': lambda: dj.step_levels(DDPM, dj.respaced_steps(10, '5')),
  'staggered': lambda: dj.staggered(GRID, [0, 2, 3]),
  'transition_matrix': lambda: dj.transition_matrix(GAUSSIAN, FLOW(0.0), FLOW(0.5)),
  'at_step': lambda: (DDPM.at_step(3), DDPM.alphas, DDPM.betas, DDPM.alpha_bars, GRID.take(0)),
  **{
    betas.__name__: functools.partial(betas, 20)
    for betas in (
      *(dj.linear_betas, dj.quadratic_betas, dj.scaled_linear_betas, dj.sigmoid_betas),
      *(dj.constant_betas, dj.warmup_betas, dj.reciprocal_betas, dj.rescaled_linear_betas),
    )
  },
}

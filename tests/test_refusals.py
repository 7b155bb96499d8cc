"""A mistake in a call raises one line that says what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.core import flow_map, losses, operators
from diffusion_jax.core.keys import draw_normal, key_per_example
from diffusion_jax.testing import bounds, discrete_oracles, oracles
from diffusion_jax.training import (
  discrete,
  distillation,
  flow_maps,
  level_pairs,
  objectives,
  optimizer,
)
from diffusion_jax.training.lora import lora_init
from diffusion_jax.training.objectives import Context, Network, Objective
from diffusion_jax.training.step import accumulated
from tests.jitted import at_step, level_grid

STEPS = dj.DiscreteSchedule.from_betas(dj.linear_betas(100))
COSINE = dj.CosineSchedule()
LEVELS = level_grid(COSINE, 2)
PAIR = at_step(STEPS, 1), at_step(STEPS, 2)
KEY, X = jax.random.key(0), jnp.ones((2, 3))
INF, NAN = float('inf'), float('nan')

SCHEDULES = [
  STEPS,
  COSINE,
  dj.LinearVPSchedule(),
  dj.SubVPSchedule(),
  dj.GeometricVESchedule(),
  dj.KarrasSchedule(),
  dj.RectifiedFlowSchedule(),
  dj.SigmoidSchedule(),
  dj.ShiftedSchedule(COSINE, 2.0),
  dj.LearnedSchedule((), lambda _, t: 10.0 * t - 5.0),
]


def denoise(x, level):
  return dj.Prediction(0.5 * x)


def array(x, level):
  return 0.5 * x


def network_fn(params, x, noise, cond, *, key=None):
  return x


def check(call, error, match):
  with pytest.raises(error, match=match) as found:
    call()
  assert '\n' not in str(found.value)


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: type(s).__name__)
def test_times_outside_0_and_1(schedule):
  for t in (2.0, -0.1, NAN, np.array([0.5, 1.1]), jnp.array([0.5, 1.1])):
    check(
      lambda t=t: schedule(t), ValueError, r't is .*: times are in \[0, 1\]'
    )
  assert np.isfinite(schedule(1.0 + 1e-7).sigma)  # rounding
  # A traced value cannot be checked.
  assert jax.jit(schedule)(2.0).t.shape == ()


def test_steps_outside_0_and_T():
  for i in (-5, 101, np.array([0, 101])):
    check(
      lambda i=i: STEPS.at_step(i), ValueError, 'i is .*: steps are in 0..100'
    )
  assert jax.jit(STEPS.at_step)(101).t.shape == ()
  check(lambda: dj.sde_coefficients(STEPS, 2.0), ValueError, 't is 2: times')
  check(
    lambda: dj.level_grid(COSINE, 3, t_start=2.0), ValueError, 't is 2: times'
  )


@pytest.mark.parametrize('make, values, names', [
  (dj.CosineSchedule, (10.0, -10.0), 'logsnr_min is 10, logsnr_max is -10'),
  (dj.CosineSchedule, (5.0, 5.0), 'logsnr_min is 5'),
  (dj.CosineSchedule, (-INF, 5.0), 'logsnr_min is -inf'),
  (dj.LinearVPSchedule, (-0.1, 20.0), 'beta_min is -0.1'),
  (dj.LinearVPSchedule, (0.0, 20.0), 'beta_min is 0'),
  (dj.LinearVPSchedule, (20.0, 0.1), 'beta_min is 20'),
  (dj.SubVPSchedule, (0.1, NAN), 'beta_max is nan'),
  (dj.GeometricVESchedule, (0.0, 50.0), 'sigma_min is 0'),
  (dj.GeometricVESchedule, (50.0, 0.01), 'sigma_min is 50'),
  (dj.KarrasSchedule, (-1.0, 80.0), 'sigma_min is -1'),
  (dj.KarrasSchedule, (0.002, INF), 'sigma_max is inf'),
  (dj.KarrasSchedule, (0.002, 80.0, 0.0), 'rho is 0'),
  (dj.RectifiedFlowSchedule, (-1.0,), 'shift is -1'),
  (dj.SigmoidSchedule, (3.0, -3.0), 'start is 3, end is -3'),
  (dj.SigmoidSchedule, (-3.0, 3.0, 0.0), 'tau is 0'),
  (dj.ShiftedSchedule, (COSINE, 0.0), 'shift is 0'),
])  # fmt: skip
def test_parameters_of_schedules(make, values, names):
  check(lambda: make(*values), ValueError, names)


def test_traced_parameters_and_gradients_are_not_checked():
  found = jax.jit(lambda a, b: dj.CosineSchedule(a, b)(0.5).t)(10.0, -10.0)
  assert found == 0.5
  # The gradient of a schedule is a schedule of slopes with any sign.
  slopes = jax.grad(lambda s: s(0.3).sigma)(dj.KarrasSchedule())
  assert slopes.rho < 0.0
  jax.tree.map(lambda _: None, dj.LinearVPSchedule())


STATES, MASKING = jnp.array([[0, 3]]), dj.masking_process(3)
PAIRS = {
  'forward_step': lambda s, t: dj.forward_step(X, X, s, t),
  'q_posterior': lambda s, t: dj.q_posterior(X, X, s, t).variance,
  'reverse_variance': lambda s, t: dj.reverse_variance('fixed_large', s, t),
  'states': lambda s, t: dj.q_posterior_states(STATES, STATES, MASKING, s, t),
  'matrices': lambda s, t: dj.transition_matrix(
    dj.gaussian_process(3, [0.1, 0.2, 0.3]), s, t
  ),
}


def test_levels_in_the_wrong_order():
  """They are refused, and give NaN where they are traced."""
  swapped = COSINE(0.7), COSINE(0.3)
  for call in PAIRS.values():
    check(
      lambda call=call: call(*swapped),
      ValueError,
      'alpha_s is 0.45.*, alpha_t is 0.89.*: level s must be the cleaner one',
    )
  traced = jax.jit(lambda *levels: [call(*levels) for call in PAIRS.values()])
  for values in traced(*swapped):
    assert np.isnan(values).any()
  for values in traced(*swapped[::-1]):
    assert np.isfinite(values).all()


def test_a_grid_from_clean_to_noisy():
  reverse = LEVELS.take(slice(None, None, -1))
  for wrap in (lambda f: f, jax.jit):  # `jit` knows constants.
    run = wrap(lambda x: dj.sample(KEY, denoise, dj.ddim(), reverse, x))
    match = 'alpha_t is 1, sigma_t is 0: .* grid begins with its noisiest level'
    check(lambda run=run: run(X), ValueError, match)
  traced = jax.jit(lambda g: dj.sample(KEY, denoise, dj.ddim(), g, X))
  assert np.isnan(traced(reverse)).all()


def test_eps_without_signal():
  """Wrappers pass the refusal on, and traced levels give NaN."""
  levels = dj.level_grid(dj.RectifiedFlowSchedule(), 2)
  match = 'alpha is 0: without signal eps does not determine x_0'
  check(lambda: dj.to_x0('eps', X, X, levels.take(0)), ValueError, match)
  of_eps = denoiser_of('eps')
  clipped = dj.clip_denoised(of_eps)

  def run(x, denoise=clipped):
    return dj.sample(KEY, denoise, dj.ddim(), levels, x)

  check(lambda: run(X), ValueError, match)
  assert np.isnan(jax.jit(run)(X)).all()
  assert np.isfinite(run(X, dj.at_training_levels(of_eps, COSINE))).all()


@pytest.mark.parametrize('call', [
  lambda level: dj.q_sample(X, X, level),
  lambda level: dj.q_posterior(X, X, level, level),
  lambda level: dj.target('v', X, X, level),
  lambda level: dj.to_x0('v', X, X, level),
  lambda level: dj.eps_from_x0(X, X, level),
  lambda level: dj.prior_kl(X, level),
  lambda level: denoiser_of('v')(X, level),
  lambda level: dj.sample(KEY, denoise, dj.ddim(), level, X),
  lambda level: dj.prior_sample(KEY, X.shape, level),
  lambda level: dj.level_grid(lambda t: level, 3),
  lambda level: dj.level_grid(lambda t: level, 3, 'karras'),
  lambda level: dj.q_sample_states(KEY, STATES, MASKING, level),
])  # fmt: skip
def test_arguments_that_are_not_levels(call):
  match = r'a level is needed, a dj.NoiseLevel\(t, alpha, sigma\) .*, not '
  check(lambda: call(0.5), TypeError, match + 'a number')
  check(lambda: call(COSINE), TypeError, match + 'a CosineSchedule')


@pytest.mark.parametrize('output, kind', [
  (0.5, 'a number'), ((X, X, X), 'a tuple of 3'), (dj.Prediction(X), 'a Pred'),
  (None, 'None'),
])  # fmt: skip
def test_networks_and_steps_that_return_something_else(output, kind):
  apply = lambda params, x, noise, cond, *, key=None: output
  own = dj.Network(apply, dj.time_input(), parametrization='v').denoiser(())
  match = f'a network returns an array, not {kind}'
  check(lambda: own(X, COSINE(0.5)), TypeError, match)
  if isinstance(output, dj.Prediction):  # a pair, as (x, state) is
    return
  sampler = dj.Sampler(lambda x: (), lambda *args, **levels: output)
  match = rf'the step of a sampler returns \(x, state\), not {kind}'
  call = lambda: dj.sample(KEY, denoise, sampler, LEVELS, X)
  check(call, TypeError, match)


def test_a_network_of_masked_states_without_a_logit_for_the_mask():
  def three(params, x, noise, cond, *, key=None):
    return jnp.zeros((*x.shape, 3))

  denoise = dj.make_state_denoiser(
    dj.Network(three, dj.logsnr_input), {}, process=MASKING
  )
  match = r'logits \[1, 2, 3\] must be \[1, 2, 4\].*: masking_process\(n\) has'
  call = functools.partial(jax.eval_shape, denoise, STATES, COSINE(0.5))
  check(call, ValueError, match)


UNKNOWN = "'epsilon' is not one of x0, eps, v, score, flow, edm"
NOT_CALLED = r'a Sampler is needed, not ddim: call it, as ddim\(...\)'


Y, LEVEL = jnp.ones((2, 1)), COSINE(0.5)
UNIFORM = dj.uniform_process(3)
LINEAR = dj.PolynomialMasking()
linear = dj.Measurement(Y, lambda x: 2.0 * x[:, :1], 0.1)


def bound(num_steps, **options):
  return dj.variational_bound(
    KEY, denoise, STEPS, X, num_steps=num_steps, **options
  )


def of_alphas(*alphas):
  return lambda: dj.DiscreteSchedule.from_alphas(alphas)


def of_matrices(matrices):
  return lambda: dj.MatrixProcess.from_matrices(matrices)


def grid(*args, schedule=STEPS, **options):
  return lambda: dj.level_grid(schedule, *args, **options)


def respaced(spec):
  return lambda: dj.respaced_steps(1000, spec)


def steps_of(steps, schedule=STEPS):
  return lambda: dj.step_levels(schedule, steps)


GAUSSIAN = oracles.gaussian(np.zeros(2), np.eye(2))
MIXTURE = oracles.mixture([1, 1], np.eye(2), [np.eye(2)] * 2)


def one_channel(params, x, noise, cond, *, key=None):
  return x[..., :1]


@pytest.mark.parametrize('call, match', [
  # schedules, grids and keys
  (lambda: dj.zero_terminal_snr([0.1]), '2 or more'),
  (of_alphas(), 'the list of alphas is empty'),
  (of_alphas([0.9, 0.8]), r'an array \[1, 2\]'),
  (of_alphas(0.9, 1.2, 0.8),
   r'alphas\[1\] = 1.2, step 2 of 3, is outside \(0, 1\)'),
  (of_alphas(0.9, -0.1), r'alphas\[1\] = -0.1'),
  (of_alphas(0.9, 1.0), r'alphas\[1\] = 1.* adds no noise'),
  (of_alphas(0.0, 0.9), r'alphas\[0\] = 0.* allowed only as the last'),
  (of_alphas(0.9, NAN), r'alphas\[1\] = nan'),
  (lambda: dj.DiscreteSchedule.from_betas([0.1, 1.0, 0.1]),
   r'betas\[1\] = 1.*only as the last'),
  (lambda: dj.DiscreteSchedule.from_betas([0.0, 0.1]),
   r'betas\[0\] = 0.* adds no noise'),
  (of_matrices(np.eye(3)), r'\[3, 3\]: it must be \[T, K, K\]'),
  (of_matrices(np.full((1, 2, 2), 0.49999)), 'each row must add up to 1'),
  (of_matrices([[[1.5, -0.5], [0.0, 1.0]]]), 'without negative entries'),
  (grid(0), 'num_steps is 0'),
  (grid(101, 'steps'), "101 steps do not fit on the schedule's 100"),
  (grid(11, 'steps', t_start=0.2, t_end=0.101), '11 steps do not fit'),
  (grid(10, 'log'), "'log' is not one of uniform, steps, quadratic, karras, "
   'logsnr, leading, linspace'),
  (grid(10, t_start=0.5, t_end=0.5), r't_end=0.5 is not in \[0, t_start=0.5'),
  *((grid(10, spacing, schedule=COSINE), 'needs a schedule of steps')
    for spacing in ('steps', 'leading', 'linspace', 'trailing')),
  *((grid(10, spacing, t_end=0.1), 'chooses its last step')
    for spacing in ('leading', 'linspace', 'trailing')),
  *((grid(51, spacing, t_start=0.5), '51 steps do not fit')
    for spacing in ('leading', 'linspace', 'trailing')),
  (respaced('ddim300'),
   'no integer stride through 1000 steps keeps exactly 300'),
  (respaced('1001'), '1001 steps do not fit in a section of 1000'),
  (respaced('10,501'), '501 steps do not fit in a section of 500'),
  *((respaced(spec), f"'{spec}' does not specify")
    for spec in ('', 'fast', 'ddim5,5', '10,0')),
  (steps_of([0, 5]), r'steps 0..5 are not in 1..100'),
  (steps_of([1, 101]), r'steps 1..101 are not in 1..100'),
  (steps_of([3, 3]), '1 or more different steps'),
  (steps_of([]), '1 or more different'),
  (steps_of([1], COSINE), 'needs a schedule of steps'),
  (lambda: draw_normal(jax.random.split(KEY, 3), X),
   r'\[3\] keys for a batch of 2'),
  (lambda: key_per_example(jax.random.split(KEY, 4), 3),
   r'\[4\] keys for a batch of 3'),
  # oracles
  (lambda: oracles.mixture(np.ones(2), np.ones((3, 2)), np.ones((3, 2, 2))),
   r'must be \[K\], \[K, D\]'),
  *((lambda cov=cov: oracles.gaussian(np.zeros(2), cov), 'symmetric and posi')
    for cov in ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]])),
  (lambda: MIXTURE.entropy(), 'entropy has .*a mixture of 2'),
  (lambda: MIXTURE.ode_map(X, LEVEL, LEVEL), 'ode_map has .*a mixture of 2'),
  (lambda: GAUSSIAN.conditional([0.0, 0.0], np.array([True, True])),
   'nothing is left'),
  *((lambda mask=mask: GAUSSIAN.conditional([0.0, 0.0], np.array(mask)),
     r'must be \[2\]') for mask in ([True], [1, 0])),
  (lambda: MIXTURE.posterior(np.ones((1, 3)), [1.0], 0.1),
   r'matrix \[1, 3\] and y \[1\] must be'),
  (lambda: MIXTURE.log_evidence(np.eye(2), [1.0, 0.0], 0.0),
   'std is 0.0: it must be above 0'),
  (lambda: bounds.expected_bound(MIXTURE, LEVELS), 'a mixture of 2'),
  (lambda: bounds.expected_bound(GAUSSIAN, LEVELS, 'learned'),
   "'learned' is not one of"),
  *((lambda part=part: bounds.expected_bound(GAUSSIAN, LEVELS.take(part)),
     'from noise to clean') for part in (slice(1, None), slice(0, -1))),
  *((lambda weights=weights: discrete_oracles.table(np.array(weights)),
     'must have the same length') for weights in ([[1.0] * 3] * 2, [1, -1])),
  # networks, operators and compositions
  (lambda: dj.Network(one_channel, dj.logsnr_input).denoiser(())(X, LEVEL),
   r'output \[2, 1\], xt \[2, 3\]'),
  (lambda: operators.luminance(Y), 'luminance needs 3 channels, got 1'),
  (lambda: dj.gauss_composed(
    lambda y: denoise, Y, denoise, np.eye(3)[None], np.eye(3)
  ), r'must be \[n, D, D\] and \[D, D\]'),
  (lambda: dj.Measurement(Y, array, -1.0), 'std is -1: it cannot be negative'),
  (lambda: dj.Measurement(Y, array, NAN), 'std is nan: it cannot be negative'),
  (lambda: dj.Measurement(Y, array, jnp.array([0.1, -0.2])), 'std is -0.2: it'),
  (lambda: dj.Measurement(Y, array, 0.0).log_prob(Y), 'std is 0: it must be'),
  (lambda: dj.target('epsilon', X, X, LEVEL), UNKNOWN),
  (lambda: flow_map.make_flow_map(None, {}, kind='map'),
   "kind 'map' is not one of average_vel"),
  (lambda: dj.reverse_variance('large', *PAIR), "'large' is not one of fixed"),
  (lambda: dj.reverse_variance('learned', *PAIR), 'needs a network with var'),
  (lambda: losses.with_start(None, 1.5), 'probability is 1.5: it must be in'),
  # shapes that would broadcast
  (lambda: LEVELS.expand_to(X), r'shape \[3\] does not fit .*\[2, 3\]'),
  (lambda: LEVELS.expand_to(jnp.ones(())), r'it must be \[\] or \[B\]'),
  (lambda: dj.q_sample(X, Y, LEVEL), 'shapes must be equal'),
  (lambda: dj.forward_step(X, Y, *PAIR), 'shapes must be equal'),
  (lambda: dj.q_posterior(X, Y, *PAIR), 'shapes must be equal'),
  (lambda: dj.simple_loss(X, Y), 'shapes must be equal'),
  (lambda: dj.denoising_loss('eps', Y, X, X, LEVEL, dj.snr_weight),
   'shapes must be equal'),
  (lambda: dj.discretized_logistic_log_prob(Y, 0.0, X),
   r'equal: mean \[2, 1\], x \[2, 3\]'),
  (lambda: dj.bernoulli_log_prob(Y, X), r'equal: logits \[2, 1\], x \[2, 3\]'),
  (lambda: dj.interpolate(denoise, LEVELS, X, Y, [0.5]),
   'shapes must be equal: a'),
  (lambda: sample(denoise, dj.replace_known(dj.ddim(), X[:1], X[:1] > 0.0)),
   'shapes must be equal: x'),
  # likelihoods and bounds
  (lambda: dj.discretized_log_prob(dj.Normal(X, X), X, cdf='erf'),
   "'erf' is not one of exact, tanh"),
  (lambda: dj.discretized_log_prob(dj.Normal(X, X), X, 1), 'num_levels is 1'),
  (lambda: dj.discretized_logistic_log_prob(X, 0.0, X, 1), 'num_levels is 1'),
  (lambda: dj.dequantize(KEY, X, 1), 'num_levels is 1'),
  (lambda: dj.ode_bits_per_dim(X[:, 0], (3,), 1), 'num_levels is 1'),
  (lambda: dj.log_likelihood(KEY, denoise, COSINE, X, probe='normal'),
   "'normal' is not one of rademacher"),
  (lambda: dj.log_likelihood(KEY, denoise, COSINE, X, num_probes=0),
   'num_probes is 0'),
  (lambda: bound(0), 'num_steps is 0: it must be at least 1'),
  (lambda: bound(1, variance='fixed_small'), "1: 'fixed_small' needs the var"),
  (lambda: bound(1, variance='learned'), "is 1: 'learned' needs the var"),
  (lambda: jax.eval_shape(lambda: bound(4, variance='learned')),
   "'learned' needs a network with"),
  (lambda: bound(1, variance='fixed_large', steps=1), 'it must be in 1..0 for'),
  (lambda: bound(4, steps=0), 'steps is 0: it must be in 1..3'),
  (lambda: bound(4, steps=4), 'steps is 4: it must be in 1..3'),
  (lambda: dj.vae_elbo(KEY, X, dj.Normal(X, X), None, num_samples=0),
   'num_samples is 0: it must be at least 1'),
  (lambda: dj.importance_weighted_elbo(KEY, None, 0), 'num_samples is 0'),
  (lambda: dj.hierarchical_elbo(KEY, X, None, None, None, num_steps=0),
   'num_steps is 0: it must be at least 1'),
  (lambda: dj.rearranged_elbo(KEY, X, None, None, None, None, num_steps=0),
   'num_steps is 0: it must be at least 1'),
  # states
  (lambda: dj.state_bound(KEY, None, UNIFORM, LINEAR, STATES, num_steps=0),
   'num_steps is 0'),
  (lambda: dj.masked_bound(KEY, None, UNIFORM, LINEAR, STATES),
   'such as masking_process .* got one without'),
  (lambda: dj.masked_bound(KEY, None, MASKING, LINEAR, STATES, num_times=0),
   'num_times is 0: .* at least 1'),
  (lambda: dj.masked_bound(KEY, None, MASKING, LINEAR, STATES, num_steps=0),
   'num_steps is 0: .* at least 1'),
  (lambda: dj.confidence_ordered(MASKING, -1.0),
   'temperature is -1: it cannot be neg'),
  (lambda: dj.remasked(dj.ancestral_states(MASKING), MASKING, 2), 'eta is 2'),
  (lambda: dj.top_p(denoise, 0), r'p is 0: it must be in \(0, 1\]'),
  (lambda: dj.remasked(dj.ancestral_states(MASKING), UNIFORM, 0.5),
   'needs a process with a masked state'),
  (lambda: dj.first_hitting(UNIFORM, LINEAR), 'needs a process with a masked'),
  (lambda: dj.confidence_ordered(UNIFORM), 'needs a process with a masked'),
  # guidance and measurements
  (lambda: dj.dynamic_threshold(denoise, 99.5), 'quantile is 99.5: .* be in'),
  (lambda: dj.dynamic_threshold(denoise, max_value=0.5),
   'max_value is 0.5: it must be at least'),
  (lambda: dj.observation_guided(denoise, jnp.sum, Y, 1.0, 0),
   'num_iterations is 0: it must be at least 1'),
  (lambda: dj.likelihood_guided(dj.ddim(), linear.distance, -1.0),
   'step_size is -1: it cannot be neg'),
  (lambda: dj.renoised(2.0), 'share is 2'),
  (lambda: dj.langevin_draw(jnp.sum, 0.0), 'step_size is 0: it must be pos'),
  (lambda: dj.langevin_draw(jnp.sum, 1.0, 0), 'num_steps is 0'),
  (lambda: dj.ode_estimate(COSINE, 0), 'num_steps is 0'),
  *((lambda wrap=wrap: wrap(lambda x: dj.split_gibbs(
    KEY, denoise, STEPS, dj.gaussian_draw(linear), np.array([1.0, 1e-6]), x
  ))(X), 'width is 1e-06, lowest is 0.0100.*: the schedule')
    for wrap in (jax.jit, lambda f: f)),
  (lambda: dj.steered(denoise, threshold=2.0), 'threshold is 2'),
  (lambda: sample(denoise, dj.steered(lambda x0: x0[:, 0])),
   r'shape \[2, 3\]: steered needs part'),
  # samplers and edits
  (lambda: dj.velocity_sde(COSINE, 'linear'), "'linear' is not one of const"),
  (lambda: dj.velocity_sde(COSINE, 'sigma', -1.0), 'scale is -1: it cannot be'),
  (lambda: dj.sdedit(KEY, denoise, dj.ddim(), LEVELS, X, 1.2),
   r'strength is 1.2: .* \[0, 1\]'),
  (lambda: dj.sdedit(KEY, denoise, dj.ddim(), LEVELS, X, 0.5, repeats=0),
   'repeats is 0'),
  *(
    (lambda steps=steps: dj.noise_image(KEY, X, STEPS, steps), 'steps must be')
    for steps in ([], [3, 2], [-1], [101], 7)
  ),
  (lambda: dj.repaint_levels(LEVELS, 10, 2),
   'jump is 2: it must be at least 1 and less than the 2 steps'),
  (lambda: dj.repaint_levels(LEVELS, 10, 0), 'jump is 0: it must be'),
  (lambda: dj.repaint_levels(LEVELS, 0, 1), 'num_resamples is 0: it must be'),
  (lambda: denoiser_of('epsilon'), UNKNOWN),
  (lambda: dj.ancestral('small'), "'small' is not one of fixed_small, f"),
  (lambda: dj.ddim(NAN), 'eta is nan'),
  (lambda: dj.dpm_solver_pp_sde(NAN), 'eta is nan: it cannot be negative'),
  (lambda: dj.churn(dj.heun(), COSINE, NAN), 'gamma is nan'),
  (lambda: dj.langevin(-0.1), 'snr is -0.1: it cannot be negative'),
  (lambda: dj.annealed_langevin(2, -0.2), 'step_size is -0.2'),
  (lambda: dj.unipc(4), 'order is 4'),
  (lambda: dj.lms(5), 'order is 5: it must be 1 to 4'),
  (lambda: dj.dpm_solver_pp_sde(1.0, 4), 'order is 4: it must be 1 to 3'),
  (lambda: dj.dpm_solver_pp_2s_sde(COSINE, 1.5), 'eta is 1.5'),
  (lambda: dj.with_ancestral_noise(dj.heun(), COSINE, -1.0), 'eta is -1'),
])  # fmt: skip
def test_arguments_that_cannot_be(call, match):
  check(call, ValueError, match)


def denoiser_of(kind):
  network = dj.Network(network_fn, dj.logsnr_input, parametrization=kind)
  return network.denoiser({}, {})


def test_the_noise_input_has_no_default():
  """Another input than in training would make bad samples without an error."""
  with pytest.raises(TypeError, match="'noise_input'"):
    dj.Network(network_fn)  # type: ignore[call-arg]


@pytest.mark.parametrize('make', [
  lambda s: dj.sample(KEY, denoise, s, LEVELS, X),
  lambda s: dj.sdedit(KEY, denoise, s, LEVELS, X, 0.5),
  lambda s: dj.churn(s, COSINE, 0.1),
  lambda s: dj.with_ancestral_noise(s, COSINE),
  lambda s: dj.with_corrector(s, dj.langevin()),
  lambda s: dj.replace_known(s, X, X > 0.0),
  lambda s: dj.repaint(s, X, X > 0.0),
  lambda s: dj.likelihood_guided(s, linear.distance, 1.0),
  lambda s: dj.keep_known(s, X, X > 0.0),
  dj.self_conditioned,
])  # fmt: skip
def test_a_sampler_that_was_not_called(make):
  check(lambda: make(dj.ddim), TypeError, NOT_CALLED)
  check(lambda: make('ddim'), TypeError, "a Sampler is needed, not 'ddim'")


@pytest.mark.parametrize('call', [
  lambda key: dj.sample(key, denoise, dj.ddim(), LEVELS, X),
  lambda key: dj.prior_sample(key, (2, 3), LEVELS.take(0)),
  lambda key: dj.dequantize(key, X),
  lambda key: dj.log_likelihood(key, denoise, COSINE, X),
  lambda key: dj.variational_bound(key, denoise, COSINE, X, num_steps=2),
  lambda key: dj.vae_log_weight(key, X, dj.Normal(X, X), None),
])  # fmt: skip
def test_arguments_that_are_not_keys(call):
  expected = r'a random key is needed, such as jax.random.key\(0\), not '
  check(lambda: call(0), TypeError, expected + '0')
  check(lambda: call(X), TypeError, expected + 'an array of float32')


def sample(denoise, sampler):
  return dj.sample(KEY, denoise, sampler, LEVELS, X)


@pytest.mark.parametrize(
  'call',
  [
    # X has two rows, which ancestral could take for x0 and var_frac.
    *(
      lambda d, s=s: sample(d, s)
      for s in (
        dj.ancestral(),
        dj.ddim(),
        dj.heun(),
        dj.dpm_solver_pp(),
        dj.dpm_solver_pp_2s(COSINE),
        dj.dpm_solver_pp_sde(),
        dj.dpm_solver_2(COSINE),
        dj.dpm_solver_pp_2s_sde(COSINE),
        dj.lms(),
        dj.adaptive_ode(COSINE),
        dj.unipc(),
        dj.euler_maruyama(COSINE),
        dj.reverse_diffusion(),
        dj.annealed_langevin(1),
        dj.with_corrector(dj.ddim(), dj.langevin()),
      )
    ),
    lambda d: sample(lambda x0: d, dj.self_conditioned(dj.ddim())),
    lambda d: sample(dj.clip_denoised(d), dj.ddim()),
    lambda d: sample(dj.dynamic_threshold(d), dj.ddim()),
    lambda d: sample(dj.classifier_free(dj.paired(denoise, d), 2.0), dj.ddim()),
    lambda d: dj.classifier_guided(d, lambda x, level: x[:, 0])(X, COSINE(0.5)),
    lambda d: dj.reconstruction_guided(d, X, X > 0.0)(X, COSINE(0.5)),
    lambda d: dj.ddim_invert(d, LEVELS, X),
    lambda d: dj.interpolate(d, LEVELS, X, X, [0.5]),
    lambda d: dj.log_likelihood(KEY, d, COSINE, X),
    lambda d: dj.probability_flow(d, COSINE, X, 1.0, 0.1),
    lambda d: dj.variational_bound(KEY, d, COSINE, X, num_steps=2),
  ],
)
def test_a_denoiser_that_returns_an_array(call):
  expected = r'a denoiser returns dj.Prediction\(x0\), not an array'
  check(lambda: jax.eval_shape(lambda: call(array)), TypeError, expected)


def test_classifier_free_without_a_pair():
  expected = r'classifier_free needs a pair: paired\(cond, uncond\)'
  for pair in (denoise, array, lambda x, level: (x, x)):
    guided = dj.classifier_free(pair, 2.0)
    check(lambda guided=guided: guided(X, COSINE(0.5)), TypeError, expected)


NETWORK = Network(network_fn, dj.time_input(1.0))
LEARNED = Network(network_fn, dj.time_input(1.0), learned_variance=True)
FLOW = dj.RectifiedFlowSchedule()


@pytest.mark.parametrize('call, match', [
  (lambda: level_pairs.grid_pairs(1), 'num_scales is 1: .* at least 2'),
  (lambda: flow_maps.two_times(p_t1=1.5), 'p_t1 is 1.5: .* in .0, 1.'),
  (lambda: flow_maps.shortcut(NETWORK, FLOW, num_steps=12),
   'must be a power of 2, got 12'),
  (lambda: flow_maps.power_law_guidance(0.0), 'got low=0.0, high=8.0'),
  (lambda: jax.eval_shape(lambda: flow_maps.mean_flow(
    NETWORK, FLOW, guidance=flow_maps.fixed_guidance(1.0, 0.5)
  ).draw(KEY, {'x': X}, Context())),
   'guidance needs a condition with drop'),
  (lambda: objectives.vlb(LEARNED, COSINE, schedule_steps=1),
   'need at least 2 steps and learned'),
  (lambda: objectives.vlb(NETWORK, COSINE, schedule_steps=9),
   'need at least 2 steps and learned'),
  (lambda: discrete.masked(NETWORK, UNIFORM, LINEAR),
   'masked needs a process with a masked'),
  (lambda: accumulated(Objective(None, None, separable=False), 2),
   'accumulate must be 1'),
  (lambda: lora_init(KEY, {'conv': {'kernel': np.ones((3, 3, 1, 1))}}, 2),
   'no kernel of a dense layer to adapt'),
  (lambda: lora_init(KEY, {'dense': {'kernel': X}}, 0), 'rank is 0'),
  (lambda: optimizer.optimizer_and_rate(9, weight_decay_mask='kernel'),
    "weight_decay_mask 'kernel' is not one of kernels, not_biases"),
  (lambda: optimizer.learning_rate_schedule(1e-3, decay='cosin'),
   "decay 'cosin' is not one of constant, linear"),
  (
    lambda: distillation.progressive_distillation(
      None, None, num_steps=0, teacher=None, solver=None
    ),
    'num_steps is 0: .* at least 1',
  ),
])  # fmt: skip
def test_options_of_training(call, match):
  check(call, ValueError, match)

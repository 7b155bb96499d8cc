"""A mistake in a call raises one line that says what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.training import (
  distillation,
  flow_maps,
  level_pairs,
  optimizer,
)

STEPS = dj.DiscreteSchedule.from_betas(dj.linear_betas(100))
COSINE = dj.CosineSchedule()
LEVELS = dj.level_grid(COSINE, 2)
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
  lambda level: dj.q_sample_states(KEY, STATES, MASKING, level),
])  # fmt: skip
def test_arguments_that_are_not_levels(call):
  match = r'a level is needed, schedule\(t\) or level_grid, not '
  check(lambda: call(0.5), TypeError, match + 'float')
  check(lambda: call(COSINE), TypeError, match + 'CosineSchedule')


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


@pytest.mark.parametrize('call, match', [
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
def test_factories_refuse_when_called(call, match):
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


@pytest.mark.parametrize('call, match', [
  (lambda: level_pairs.grid_pairs(1), 'num_scales is 1: .* at least 2'),
  (lambda: flow_maps.two_times(p_t1=1.5), 'p_t1 is 1.5: .* in .0, 1.'),
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

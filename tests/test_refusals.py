"""Arguments that do not fit together raise one line: tests/refusals.py lists them.

Each argument by itself: tests/laws/test_wrong_arguments.py and tests/core/test_checked.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.autoencoders import objectives as vae
from diffusion_jax.core import losses, operators
from diffusion_jax.demos import shapes, whiteness
from diffusion_jax.discrete import objectives as discrete_states, oracles as discrete_oracles
from diffusion_jax.errors import UserError
from diffusion_jax.few_steps import average_velocity as flow_maps, distillation
from diffusion_jax.metrics.judges import digits_judge, shapes_judge
from diffusion_jax.runtime import processes, sharding
from diffusion_jax.testing import bounds, oracles
from diffusion_jax.training import conditions, objectives, optimizer, power_ema, step, vdm
from diffusion_jax.training.classifier import classifier
from diffusion_jax.training.fixed_parts import in_fixed_parts
from diffusion_jax.training.lora import lora_init
from diffusion_jax.training.objectives import Context, Network, Objective
from diffusion_jax.training.step import accumulated
from tests import refusals
from tests.jitted import at_step, level_grid
from tests.schedules import EXAMPLES

STEPS = dj.DiscreteSchedule.from_betas(dj.linear_betas(100))
COSINE, FLOW = dj.CosineSchedule(), dj.RectifiedFlowSchedule()
LEVELS, LEVEL = level_grid(COSINE, 2), COSINE(0.5)
LOW, HIGH = at_step(STEPS, 1), at_step(STEPS, 2)
KEY, X, Y = jax.random.key(0), jnp.ones((2, 3)), jnp.ones((2, 1))
STATES, MASKING = jnp.array([[0, 3]]), dj.masking_process(3)
UNIFORM, LINEAR = dj.uniform_process(3), dj.PolynomialMasking()
GAUSSIAN = oracles.gaussian(np.zeros(2), np.eye(2))
MIXTURE = oracles.mixture([1, 1], np.eye(2), [np.eye(2)] * 2)
MEASURED = dj.Measurement(Y, lambda x: 2.0 * x[:, :1], 0.1)


def denoise(x, level):
  return dj.Prediction(0.5 * x)


PAIR = dj.paired(denoise, denoise)


def array(x, level):
  return 0.5 * x


def network_fn(params, x, noise, cond, *, key=None):
  return x


NETWORK = Network(network_fn, dj.time_input(1.0))
LEARNED = Network(network_fn, dj.time_input(1.0), learned_variance=True)
CLASSIFIER = classifier(NETWORK, COSINE, times=dj.uniform_times)
UNMADE, LEARNT = Objective(None, None), (None, None, None)


def network_of(output):
  apply = lambda params, x, noise, cond, *, key=None: output
  return dj.Network(apply, dj.time_input(), parametrization='v').denoiser(())


def sampler_of(output):
  return dj.Sampler(lambda x: (), lambda *args, **levels: output)


def sample(denoise, sampler):
  return dj.sample(KEY, denoise, sampler, LEVELS, X)


def bound(num_steps, **options):
  return dj.variational_bound(KEY, denoise, STEPS, X, num_steps=num_steps, **options)


def likelihood(**options):
  return dj.log_likelihood(KEY, denoise, COSINE, X, **options)


def alphas(*values):
  return dj.DiscreteSchedule.from_alphas(values)


def grid(*args, schedule=STEPS, **options):
  return dj.level_grid(schedule, *args, **options)


def gibbs(x):
  draw, widths = dj.gaussian_draw(MEASURED), np.array([1.0, 1e-6])
  return dj.split_gibbs(KEY, denoise, STEPS, draw, widths, x)


def rate(*args):
  return optimizer.learning_rate_schedule(1.0, *args)


def backwards(t):
  return COSINE(1.0 - t)


def trained(objective, **batch):
  draw = lambda: objective.draw(KEY, {'x': X} | batch, Context())
  return jax.eval_shape(jax.jit(draw))


def mean_flow(**options):
  objective = flow_maps.mean_flow(NETWORK, FLOW, **options)
  return jax.eval_shape(lambda: objective.draw(KEY, {'x': X}, Context()))


def pictures(*shape):
  return np.zeros(shape, np.uint8)


WRONG = [
  # schedules and processes
  (lambda: dj.CosineSchedule(10.0, -10.0), 'logsnr_min is 10, logsnr_max is -10'),
  (lambda: dj.LinearVPSchedule(20.0, 0.1), 'beta_min is 20, beta_max is 0.1: beta_min cannot be'),
  (lambda: dj.GeometricVESchedule(2.0, 1.0), 'sigma_min must be below sigma_max'),
  (lambda: dj.KarrasSchedule(2.0, 2.0), 'sigma_min must be below sigma_max'),
  (lambda: dj.SigmoidSchedule(3.0, -3.0), 'start is 3, end is -3'),
  (lambda: STEPS.at_step(np.array([0, 101])), 'i is 101: steps are in 0..100'),
  (lambda: dj.zero_terminal_snr([0.1]), '2 or more'),
  (lambda: alphas(), 'the list of alphas is empty'),
  (lambda: alphas([0.9, 0.8]), 'an array [1, 2]'),
  (lambda: alphas(0.9, 1.2, 0.8), 'alphas[1] = 1.2, step 2 of 3, is outside (0, 1)'),
  (lambda: alphas(0.9, 1.0), 'alphas[1] = 1 ... adds no noise'),
  (lambda: alphas(0.0, 0.9), 'alphas[0] = 0 ... allowed only as the last'),
  (lambda: alphas(0.9, np.nan), 'alphas[1] = nan'),
  (lambda: dj.DiscreteSchedule.from_betas([0.1, 1.0, 0.1]), 'betas[1] = 1 ... only as the last'),
  (lambda: dj.DiscreteSchedule.from_betas([0.0, 0.1]), 'betas[0] = 0 ... (0 adds no noise)'),
  (lambda: dj.ReplacementProcess(jnp.ones(3)), 'sum is 3, minimum is 1: the prior must add up'),
  (lambda: dj.ReplacementProcess(jnp.eye(3)[0], 3), 'prior [3] must be [K], and mask, 3, one of'),
  (lambda: dj.MatrixProcess.from_matrices(np.eye(3)), '[3, 3]: it must be [T, K, K]'),
  (lambda: dj.MatrixProcess.from_matrices(np.eye(2)[None] * 0.99999), 'each row must add up to 1'),
  (lambda: dj.MatrixProcess.from_matrices([[[1.5, -0.5], [0, 1]]]), 'without negative entries'),
  # grids
  (lambda: grid(101, 'steps'), "101 steps do not fit on the schedule's 100"),
  (lambda: grid(10, t_start=0.5, t_end=0.5), 't_end=0.5 is not in [0, t_start=0.5'),
  (lambda: grid(10, 'steps', schedule=COSINE), 'needs a schedule of steps'),
  (lambda: grid(10, 'leading', t_end=0.1), 'chooses its last step'),
  (lambda: grid(1, 'leading'), "spacing='leading' of one step is step 1"),
  (lambda: dj.respaced_steps(100, '1'), "'1' keeps only step 1, the cleanest"),
  (lambda: dj.respaced_steps(1000, 'ddim300'), 'no integer stride through 1000 steps keeps'),
  (lambda: dj.respaced_steps(1000, '1001'), '1001 steps do not fit in a section of 1000'),
  (lambda: dj.respaced_steps(1000, ''), "'' does not specify"),
  (lambda: dj.respaced_steps(1000, '10,0'), "'10,0' does not specify"),
  (lambda: dj.step_levels(STEPS, [0, 5]), 'steps 0..5 are not in 1..100'),
  (lambda: dj.step_levels(STEPS, [3, 3]), '1 or more different steps'),
  (lambda: dj.repaint_levels(LEVELS, 10, 2), 'jump is 2: it must be less than the 2 steps'),
  (lambda: LEVELS.take(np.array([0, -99])), 'index is -99: the grid has the levels 0 to'),
  (lambda: grid(2, schedule=backwards), 'alpha_s is 4.53999e-05, ... must go from data to noise'),
  *(
    (call, 'must go from data to noise')
    for call in (
      lambda: jax.jit(lambda: grid(2, schedule=backwards))(),
      lambda: trained(objectives.denoising(NETWORK, backwards, times=losses.uniform_times)),
      lambda: trained(classifier(NETWORK, backwards, times=losses.uniform_times), label=X),
      lambda: vdm.vdm(NETWORK, make_schedule=None, num_levels=2, schedule=backwards),
    )
  ),
  # equations, bounds and samplers
  (lambda: dj.Measurement(Y, X.sum, jnp.array([0.1, -0.2])), 'std is -0.2: it cannot be negative'),
  (lambda: dj.Measurement(Y, X.sum).log_prob(Y), 'std is 0: it must be'),
  (lambda: dj.reverse_variance('learned', LOW, HIGH), 'needs a network with var'),
  (lambda: jax.eval_shape(lambda: bound(4, variance='learned')), "'learned' needs a network with"),
  (lambda: bound(1, variance='fixed_small'), "1: 'fixed_small' needs the var"),
  (lambda: bound(4, steps=4), 'steps is 4: it must be in 1..3'),
  (lambda: sample(denoise, dj.replace_known(dj.ddim(), X[:1], X[:1] > 0)), 'must be equal: x'),
  (lambda: dj.classifier_free(PAIR, 2.0, interval=(0.75, 0.25)), 'low=0.75 is above high=0.25: no'),
  (lambda: dj.clip_denoised(denoise, 1.0, -1.0), 'low=1.0 is above high=-1.0'),
  (lambda: dj.churn(dj.heun(), COSINE, 0.1, 2.0, 1.0), 's_min=2.0 is above s_max=1.0'),
  (lambda: likelihood(t_min=0.9, t_max=0.1), 't_min=0.9 is above t_max=0.1'),
  (lambda: gibbs(X), 'width is 1e-06, lowest is 0.0100 ... : the schedule'),
  (lambda: jax.jit(gibbs)(X), 'width is 1e-06, lowest is 0.0100 ... : the schedule'),
  (lambda: sample(denoise, dj.steered(lambda x0: x0[:, 0])), '[2, 3]: the sampler needs part'),
  (lambda: dj.feynman_kac((1.0, -1.0)), 'sum_of_powers is 0'),
  (lambda: dj.noise_image(KEY, X, STEPS, []), 'steps must be an ascending list'),
  (lambda: dj.noise_image(KEY, X, STEPS, [101]), 'steps must be in 0..100'),
  *(
    (call, 'needs a process with a masked state, such as masking_process')
    for call in (
      lambda: dj.masked_bound(KEY, array, UNIFORM, LINEAR, STATES),
      lambda: dj.remasked(dj.ancestral_states(MASKING), UNIFORM, 0.5),
      lambda: dj.first_hitting(UNIFORM, LINEAR),
      lambda: dj.confidence_ordered(UNIFORM),
      lambda: discrete_states.masked(NETWORK, UNIFORM, LINEAR),
    )
  ),
  # oracles
  (lambda: oracles.mixture(np.ones(2), np.ones((3, 2)), np.ones((3, 2, 2))), 'must be [K], [K, D]'),
  (lambda: oracles.gaussian(np.zeros(2), [[1.0, 2.0], [2.0, 1.0]]), 'symmetric and posi'),
  (lambda: oracles.gaussian(np.zeros(2), [[1.0, 0.5], [0.0, 1.0]]), 'symmetric and posi'),
  (lambda: MIXTURE.entropy(), 'entropy has ... a mixture of 2'),
  (lambda: GAUSSIAN.conditional([0.0, 0.0], np.array([True, True])), 'nothing is left'),
  (lambda: GAUSSIAN.conditional([0.0, 0.0], np.array([True])), 'must be [2]'),
  (lambda: MIXTURE.posterior(np.ones((1, 3)), [1.0], 0.1), 'matrix [1, 3] and y [1] must be'),
  (lambda: MIXTURE.log_evidence(np.eye(2), [1.0, 0.0], 0.0), 'std is 0.0: it must be above 0'),
  (lambda: bounds.expected_bound(MIXTURE, LEVELS), 'a mixture of 2'),
  (lambda: bounds.expected_bound(GAUSSIAN, LEVELS, 'learned'), "'learned' is not one of"),
  (lambda: bounds.expected_bound(GAUSSIAN, LEVELS.take(slice(1, None))), 'from noise to clean'),
  (lambda: discrete_oracles.table(np.ones((2, 3))), 'must have the same length'),
  # objectives
  (lambda: flow_maps.shortcut(NETWORK, FLOW, num_steps=12), 'must be a power of 2, got 12'),
  (lambda: flow_maps.power_law_guidance(0.0), 'got low=0.0, high=8.0'),
  (lambda: mean_flow(guidance=flow_maps.fixed_guidance(1.0, 0.5)), 'needs a condition with drop'),
  (lambda: objectives.vlb(LEARNED, COSINE, schedule_steps=1), 'need at least 2 steps and learned'),
  (lambda: objectives.vlb(NETWORK, COSINE, schedule_steps=9), 'need at least 2 steps and learned'),
  (lambda: trained(distillation.on_pairs(NETWORK, FLOW)), "needs a teacher, or batch['noise']"),
  (lambda: CLASSIFIER((), Context(), KEY, {'x': X}), "needs batch['label']"),
  (lambda: in_fixed_parts(Objective(None, None, separable=False), 2), 'fixed_parts must be None'),
  (lambda: in_fixed_parts(UNMADE, 6), 'fixed_parts must be a power of 2, got 6'),
  (lambda: step.make_train_step(UNMADE, None, None, None, 2, fixed_parts=2), 'both cut the batch'),
  (lambda: accumulated(vae.vae(*LEARNT, free_bits=0.1), 2), 'accumulate must be 1, got 2'),
  (lambda: accumulated(vae.hvae(*LEARNT, num_latents=2, free_bits=0.1), 2), 'must be 1, got 2'),
  (lambda: step.rows({'a': np.arange(6)}, 0, 4), 'accumulate=4 must divide the batch 6'),
  (lambda: vae.log_likelihood('bernoulli', 5)(X, X), 'needs 2 levels, got 5'),
  (lambda: conditions.superres(4)(None, pictures(5, 4, 6, 3)), 'factor must divide ... 4x6, got 4'),
  # optimizers and averages
  (lambda: lora_init(KEY, {'conv': {'kernel': np.ones((3, 3, 1, 1))}}, 2), 'no kernel of a dense'),
  (lambda: rate(100, 'linear', 100), 'larger than warmup_steps=100, got 100'),
  (lambda: rate(0, 'inverse_sqrt'), 'larger than warmup_steps=0, got 0'),
  (lambda: power_ema.exponent(0.3), 'width must be in (0, 0.2887'),
  (lambda: power_ema.solve(np.full(2, 64.0), np.full(2, 3.0), 64.0, 2.0), 'must differ in time or'),
  # devices
  (lambda: sharding.make_mesh(4, 4), '4x4 needs 16 devices, there are 8'),
  (lambda: sharding.make_mesh(-1, 3), '-1x3 needs a multiple of 3 devices, there are 8'),
  (lambda: sharding.make_mesh(0, 1), '0x1 does not exist'),
  (lambda: sharding.local_rows(sharding.make_mesh(4, 2), 10), 'batch of 10 cannot be split over 8'),
  # demos
  (lambda: operators.luminance(Y), 'luminance needs 3 channels, got 1'),
  (lambda: whiteness.distance_to_noise(np.zeros(3), 1), 'num_draws is 1: it must be at least 2'),
  (lambda: digits_judge.judge(pictures(2, 32, 32, 3), np.zeros(2)), '[N, 8, 8, 1], got [2, 32, 32'),
  (lambda: digits_judge.judge(pictures(360, 8, 8, 1), np.zeros(3)), '3 labels for 360 images'),
  (lambda: shapes_judge.judge(pictures(2, 8, 8, 3), ['a'] * 2), 'H >= 16, got [2, 8, 8, 3]'),
  (lambda: shapes_judge.judge(pictures(2, 16, 16, 3), ['a']), '1 texts for 2 images'),
  (lambda: shapes_judge.judge(pictures(1, 16, 16, 3), ['a dog']), "cannot parse 'a dog'"),
  (lambda: shapes.shapes('val'), "split 'val' is not one of train, test"),
  (lambda: shapes.shapes('train', (8, 8, 3)), '(16, 16, 3) or a larger square'),
  (lambda: shapes.shapes('train', num_objects=3), 'num_objects must be 1 or 2'),
  (lambda: shapes.parse('a red circle above a blue square below a green cross'), 'it must be like'),
]
RETURNED = {'a number': 0.5, 'a tuple of 3': (X, X, X), 'None': None}
WRONG_KINDS = [
  # An input that is not the training's would make bad samples without an error.
  (lambda: dj.Network(network_fn), "'noise_input'"),  # type: ignore[call-arg]
  # All other denoisers: tests/laws/test_wrong_arguments.py.
  (lambda: sample(lambda x0: array, dj.self_conditioned(dj.ddim())), 'not an array'),
  *(
    (lambda pair=pair: dj.classifier_free(pair, 2.0)(X, LEVEL), 'a pair: paired(cond, uncond)')
    for pair in (denoise, array, lambda x, level: (x, x))
  ),
  *(
    (lambda x=x: network_of(x)(X, LEVEL), f'a network returns an array, not {kind}')
    for kind, x in (RETURNED | {'a Prediction': dj.Prediction(X)}).items()
  ),
  *(
    (lambda x=x: sample(denoise, sampler_of(x)), f'of a sampler returns (x, state), not {kind}')
    for kind, x in RETURNED.items()
  ),
]
WRONG_HOSTS = [
  (lambda: processes.check('localhost:1', 2, None), 'needs all of --coordinator'),
  (lambda: processes.check('localhost:1', 2, 2), 'it must be in 0..1'),
  (lambda: processes.check('localhost:1', 0, 0), '--num_hosts=0'),
]


test_arguments_that_cannot_be = refusals.each(
  {ValueError: WRONG, TypeError: WRONG_KINDS, UserError: WRONG_HOSTS}
)


@pytest.mark.parametrize('schedule', EXAMPLES.values(), ids=EXAMPLES)
def test_times_outside_0_and_1(schedule):
  for t in (2.0, -0.1, np.nan, np.array([0.5, 1.1]), jnp.array([0.5, 1.1])):
    with refusals.one_line(match=r't is .*: times are in \[0, 1\]'):
      schedule(t)
  assert np.isfinite(schedule(1.0 + 1e-7).sigma)  # rounding
  # A traced value cannot be checked.
  assert jax.jit(schedule)(2.0).t.shape == ()


def test_traced_parameters_and_gradients_are_not_checked():
  found = jax.jit(lambda a, b: dj.CosineSchedule(a, b)(0.5).t)(10.0, -10.0)
  assert found == 0.5
  assert jax.jit(STEPS.at_step)(101).t.shape == ()
  # The gradient of a schedule is a schedule of slopes with any sign.
  slopes = jax.grad(lambda s: s(0.3).sigma)(dj.KarrasSchedule())
  assert slopes.rho < 0.0
  jax.tree.map(lambda _: None, dj.LinearVPSchedule())


PAIRS = {
  'forward_step': lambda s, t: dj.forward_step(X, X, s, t),
  'q_posterior': lambda s, t: dj.q_posterior(X, X, s, t).variance,
  'reverse_variance': lambda s, t: dj.reverse_variance('fixed_large', s, t),
  'states': lambda s, t: dj.q_posterior_states(STATES, STATES, MASKING, s, t),
  'matrices': lambda s, t: dj.transition_matrix(dj.gaussian_process(3, [0.1, 0.2, 0.3]), s, t),
}


def test_levels_in_the_wrong_order():
  """Levels in the wrong order are refused, and give NaN where they are traced."""
  level_s, level_t = COSINE(0.7), COSINE(0.3)  # in the wrong order
  levels = 'alpha_s is 0.45.*, alpha_t is 0.89.*'
  match = f'{levels}: level s must be the cleaner one'
  for call in PAIRS.values():
    with refusals.one_line(match=match):
      call(level_s, level_t)
  traced = jax.jit(lambda *levels: [call(*levels) for call in PAIRS.values()])
  for values in traced(level_s, level_t):
    assert np.isnan(values).any()
  for values in traced(level_t, level_s):
    assert np.isfinite(values).all()


def test_a_grid_from_clean_to_noisy():
  reverse = LEVELS.take(slice(None, None, -1))
  run = lambda x, grid=reverse: dj.sample(KEY, denoise, dj.ddim(), grid, x)
  match = 'alpha_t is 1, sigma_t is 0: .* grid falls from its noisiest'
  for call in (run, jax.jit(run)):  # `jit` knows constants.
    with refusals.one_line(match=match):
      call(X)
  assert np.isnan(jax.jit(run)(X, reverse)).all()


def test_eps_without_signal():
  """Wrappers pass the refusal on, and traced levels give NaN."""
  levels = dj.level_grid(FLOW, 2)
  of_eps = dj.Network(network_fn, dj.logsnr_input, parametrization='eps').denoiser({}, {})
  clipped = dj.clip_denoised(of_eps)
  match = 'alpha is 0: without signal eps does not determine x_0'

  def run(x, denoise=clipped):
    return dj.sample(KEY, denoise, dj.ddim(), levels, x)

  for call in (lambda x: dj.to_x0('eps', x, x, levels.take(0)), run):
    with refusals.one_line(match=match):
      call(X)
  assert np.isnan(jax.jit(run)(X)).all()
  assert np.isfinite(run(X, dj.at_training_levels(of_eps, COSINE))).all()

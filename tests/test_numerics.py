"""Types under jax_enable_x64, and precisions of products, in traced programs."""

import dataclasses
import functools
import inspect
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.measurements import is_linear
from diffusion_jax.networks import gamma
from diffusion_jax.networks.inputs import Inputs, Text
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.testing import oracles
from diffusion_jax.training import augmentation
from tests.app.conftest import trial
from tests.networks import test_options
from tests.networks.test_transformer import JIT
from tests.schedules import EXAMPLES

F32, INT = jnp.float32, jnp.int32
B, SHAPE = 2, (2, 8, 8, 3)
HIGHEST, HIGH = ((jax.lax.Precision(x),) * 2 for x in ('highest', 'high'))
LOOKUP = HIGHEST  # a row of an embedding, its product with a one-hot vector


@pytest.fixture(autouse=True, scope='module')
def forgotten():
  """Forgets what JAX keeps of float64 arguments, which fails in the files that follow."""
  yield
  jax.clear_caches()


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def of(shape=SHAPE, dtype=F32):
  return jax.ShapeDtypeStruct(shape, dtype)


def float_types(tree):
  leaves = jax.tree.leaves(tree)
  return {str(a.dtype) for a in leaves if jnp.issubdtype(a.dtype, jnp.floating)}


def precisions(jaxpr):
  """Yields the precision of each product and convolution."""
  for eqn in jaxpr.eqns:
    kind, _, _ = eqn.primitive.name.partition('_d')
    if eqn.primitive.name in ('dot_general', 'conv_general_dilated'):
      yield eqn.params['precision']
    if kind in ('conv2d', 'linear'):
      how = eqn.params['how']
      name = how.precision if kind == 'conv2d' else how
      yield name and (jax.lax.Precision(name),) * 2
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      yield from precisions(inner)


LABEL = {'label': of((B,), INT), 'drop': of((B,), bool)}
TEXT = {'text': of((B, 5), INT), 'text_mask': of((B, 5), bool)}
LABELLED = Inputs(num_classes=3, null_class=True)
TOLD = dataclasses.replace(LABELLED, self_conditioning=True)
WORDS = Inputs(text=Text(8, layers=1))
SHOWN = dataclasses.replace(TOLD, image_channels=1, text=WORDS.text)
X, NOISE = of(), of((B,))
LEVELS: Any = {'multipliers': (1, 2), 'attention_resolutions': (8,)}
OPENAI: Any = {'noise_embedding': 'openai', 'scale_shift': True, 'resblock_updown': True}
WIDE: Any = {'channels': 8, 'num_blocks': 2, 'num_heads': 2}
# Options of the networks of tests/networks/test_options.py, and their inputs.
NETWORKS: Any = {
  'unet': (LEVELS | {'inputs': SHOWN}, X, NOISE, LABEL | TEXT),
  'unet, openai': (LEVELS | OPENAI | {'qkv': 'new'}, X, NOISE),
  'ddpmpp': (
    LEVELS | {'inputs': dataclasses.replace(TOLD, augment_dim=9), 'noise_embedding': 'fourier'},
    *(X, NOISE, LABEL),
  ),
  'edm2': (LEVELS | {'inputs': LABELLED}, X, NOISE, LABEL),
  'dit': (
    {'inputs': SHOWN, 'class_tokens': 1, 'class_tokens_at': 1, 'bottleneck': 2, **WIDE, **JIT},
    *(X, NOISE, LABEL | TEXT),
  ),
  'dit, cross': (WIDE | {'inputs': WORDS, 'text_attention': 'cross'}, X, NOISE, TEXT),
  'vdm': ({'inputs': LABELLED}, X, NOISE, {'label': LABEL['label']}),
  'classifier': (LEVELS, X, NOISE),
  'autoencoder': (LEVELS | {'image_size': (8, 8), 'latent_dim': 4}, X),
  'hierarchical': (LEVELS, X),
}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  'name, initializer, dtype',
  [*((name, 'torch', jnp.bfloat16) for name in NETWORKS), ('unet', 'ho', jnp.float32)],
)
def test_networks_have_float32_parameters_and_outputs(name, initializer, dtype):
  options, *inputs = NETWORKS[name]
  network = test_options.NETWORKS[name.partition(',')[0]]().clone(dtype=dtype, **options)
  if hasattr(network, 'initializer'):
    network = network.clone(initializer=initializer)
  found = jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)
  assert float_types(found) == {'float32'}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('network', [gamma.LinearGamma(), gamma.MonotoneGamma()])
def test_networks_of_gamma_are_float32(network):
  assert float_types(jax.eval_shape(network.init_with_output, jax.random.key(0), NOISE)) == {
    'float32'
  }


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', EXAMPLES)
def test_schedules_have_the_precision_of_their_times(name):
  schedule = EXAMPLES[name]
  coefficients = lambda t: dj.sde_coefficients(schedule, t)
  for dtype in ('float32', 'float64'):
    for function in (schedule, schedule.from_logsnr, coefficients):
      found = jax.eval_shape(function, of((B,), dtype))
      assert float_types(found) == {dtype}
  # A Python number is a default float, as everywhere in JAX.
  assert float_types(jax.eval_shape(lambda: schedule(0.5))) == {'float64'}


SCHEDULE = dj.CosineSchedule()


def denoise(x, level):
  return dj.Prediction(level.expand_to(x).alpha * x, 0.5 * jnp.tanh(x))


def network_fn(params, x, noise, cond, *, key=None):
  return x * noise[:, None, None, None]


def normal(x):
  return dj.Normal(x, x**2)


def decode(x, z):
  return jnp.sum(x * z, axis=(1, 2, 3))


MASKING = dj.masking_process(3)
MATRICES = dj.gaussian_process(4, [0.1, 0.2])


def states(x):
  return dj.states_of(jnp.clip(x, -1.0, 1.0), 3)


def logits(x):
  return jnp.stack([x, 2.0 * x, 3.0 * x, 4.0 * x], axis=-1)


def denoise_states(xt, level):
  return logits(level.expand_to(xt).alpha * xt)


def log_prob_fn(x, level):
  return -jnp.sum(level.expand_to(x).alpha * x**2, axis=(1, 2, 3))


def log_prob(x0):
  return -jnp.sum(x0**2, axis=tuple(range(1, x0.ndim)))


@functools.cache
def grid():
  """Returns levels in float64."""
  with jax.enable_x64(True), jax.ensure_compile_time_eval():
    return jax.device_get(jax.jit(lambda: dj.level_grid(SCHEDULE, 3))())


def walk(a, sampler, denoise=denoise, levels=None):
  levels = levels or grid()
  return dj.sample(a.key, denoise, sampler, levels, a.x)


PAIR: Any = {'denoise': dj.paired(denoise, denoise)}
WALKS = {
  **dict.fromkeys(('cfg_plus_plus', 'feynman_kac', 'one_of'), PAIR),
  'repaint': {'levels': dj.repaint_levels(dj.level_grid(SCHEDULE, 4), 2, 2)},
  'self_conditioned': {'denoise': lambda x0: denoise},
}


def arguments(a, names):
  """Returns values of parameters by their names."""
  discrete = {'process', 'logits'} & {*names}
  images = {'x0', 'xt', 'x_s', 'eps'} & {*names} and not discrete
  # Where images decide the type, levels are float64.
  s, t = (SCHEDULE(0.3), SCHEDULE(0.5)) if images else (a.ls, a.lt)
  size = a.x[0].size
  return {
    **dict.fromkeys(('x', 'x0', 'x_s', 'output', 'image', 'guide'), a.x),
    **dict.fromkeys(('eps_hat', 'a', 'mean', 'var_frac'), a.x),
    **dict.fromkeys(('x0_hat', 'xt', 'z0', 'eps', 'b', 'log_scale'), a.y),
    **dict.fromkeys(('known', 'observed'), a.y),
    **dict.fromkeys(('t', 'nats', 'log_p'), a.t),
    **dict.fromkeys(('model', 'q'), normal(a.x)),
    **{'p': normal(a.y), 'mask': a.y > 0.0, 'logits': logits(a.x)},
    **{'key': a.key, 'level_s': s, 'level_t': t, 'level': t, 'level_T': t},
    **{'levels': grid(), 'schedule': SCHEDULE, 'process': MATRICES},
    **{'denoise': denoise, 'sampler': dj.ddim(), 'decode': decode, 'prior': denoise},
    **{'denoiser_of': lambda y: denoise, 'observations': jnp.ones((2, 1))},
    **{'prior_covariance': np.eye(size), 'covariances': 0.5 * np.stack([np.eye(size)] * 2)},
    'network': dj.Network(network_fn, dj.logsnr_input, parametrization='edm'),
    'measurement': dj.Measurement(a.y, lambda x: 2.0 * x, 0.1),
    **dict.fromkeys(('distance', 'cost', 'log_likelihood'), log_prob),
    **{'params': {}, 'log_prob_fn': log_prob_fn, 'pair': dj.paired(denoise, denoise)},
    **{'noise_input': dj.logsnr_input, 'parametrization': 'edm', 'kind': 'v'},
    **{'data_shape': (8, 8, 3), 'num_steps': 2, 'num_values': 4, 'step_size': 0.1},
    **dict.fromkeys(('observe', 'forward'), lambda x: 2.0 * x),
    **({'x0': states(a.x), 'xt': states(a.y)} if discrete else {}),
  }


def call(name, a):
  """Calls a public function with CALLS and `arguments`, and what it returns."""
  function: Any = getattr(dj, name)
  given: Any = CALLS.get(name, {})
  parameters = inspect.signature(function).parameters
  defaults = arguments(a, parameters)
  given = given(a) if callable(given) else given
  found = function(
    **given,
    **{
      key: defaults[key]
      for key, x in parameters.items()
      if x.default is x.empty and key not in given and x.kind != x.VAR_KEYWORD
    },
  )
  made = getattr(inspect.signature(function).return_annotation, '__name__', '')
  match made:
    case 'Sampler':
      return walk(a, found, **WALKS.get(name, {}))
    case 'Denoiser':
      return walk(a, dj.ddim(), found)
    case 'Weight' | 'NoiseInput' | 'Callable':
      return found(a.x if name == 'poisson_log_prob' else a.lt)
    case 'FlowMap':
      return found(a.x, a.lt, a.ls)
    case 'PairedDenoiser' | 'ScoreFn' | 'Twist':
      return found(a.x, a.lt)
    case 'InnerDraw':
      return found(a.key, a.x, jnp.float32(0.5))
    case 'StateDenoiser':
      return found(states(a.x), a.lt)
    case 'NetworkFn':
      return found({}, states(a.x), a.t, {})
  return found


# Arguments of public functions that their names do not determine. a has images
# x and y [B, ...], times t [B], levels lt, cleaner levels ls, and a key.
CALLS = {
  **dict.fromkeys(
    ('adaptive_projected', 'cfg_plus_plus', 'cfg_zero_star'), lambda a: {'scale': jnp.ones(B)}
  ),
  'annealed_langevin': {'num_steps': 2},
  'ancestral': {'variance': 'learned'},
  'at_training_levels': {'schedule': dj.LinearVPSchedule()},
  'bernoulli_log_prob': lambda a: {'logits': a.x},
  'bridged': {'prior_score': lambda x: -x},
  'churn': {'sampler': dj.heun(), 'gamma': 0.2},
  'classifier_free': lambda a: {'scale': jnp.ones(B), 'rescale': 0.7},
  'classifier_guided': lambda a: {'scale': jnp.ones(B)},
  'ddim': {'eta': 0.5},
  'denoising_loss': {'weight': dj.snr_weight},
  'decoupled': lambda a: {
    'draw': dj.gaussian_draw(dj.Measurement(a.y, lambda x: 2.0 * x, 0.1)),
    'estimate': dj.ode_estimate(SCHEDULE, 2),
  },
  'dpm_solver_pp': {'order': 3},
  'dpm_solver_pp_sde': {'order': 3, 'brownian': True},
  'feynman_kac': {'powers': (2.0, -1.0)},
  'free_bits': lambda a: {'divergence': a.x[:, 0, 0], 'minimum': 0.1},
  'guided_states': {'cond': denoise_states, 'uncond': denoise_states, 'scale': 2.0},
  'hierarchical_elbo': {
    'encode': lambda t, z: normal(z),
    'decode': lambda t, z: normal(z),
    'log_likelihood': decode,
  },
  'importance_weighted_elbo': lambda a: {'log_weight': lambda key: a.t, 'num_samples': 3},
  'interpolate': lambda a: {'weights': jnp.linspace(0.0, 1.0, 3)},
  'logistic_network': lambda a: {
    'network_fn': lambda params, x, noise, cond, *, key=None: jnp.stack([a.x, a.y], axis=-1)
  },
  'make_flow_map': {'kind': 'consistency', 'network': dj.Network(network_fn, dj.edm_input)},
  'make_paired_denoiser': {'cond': {}},
  'make_state_denoiser': {
    'network': dj.Network(
      lambda params, x, noise, cond, *, key=None: logits(noise[:, None, None, None] * x),
      dj.logsnr_input,
    ),
    'process': MASKING,
  },
  'noise_image': {'schedule': EXAMPLES['linear'], 'steps': [0, 3]},
  'one_of': {'sampler': dj.feynman_kac((2.0, -1.0)), 'num_particles': 2},
  'p_reverse': lambda a: {'variance': 'learned', 'var_frac': a.x},
  'poisson_log_prob': lambda a: {'y': a.y, 'peak': 20.0},
  'pick': lambda a: {'log_weights': a.x[:, :, 0, 0]},
  'prior_sample': lambda a: {'shape': SHAPE, 'level': a.lt.take(0)},
  'probability_flow': {'t_from': 1.0, 't_to': 0.1},
  'rearranged_elbo': {
    'marginal': lambda t, x: normal(x),
    'posterior': lambda t, z, x: normal(z),
    'decode': lambda t, z: normal(z),
    'log_likelihood': decode,
  },
  'red_diff': {'optimizer': optax.adam(0.1)},
  'renoised': {'share': 0.3},
  'reverse_variance': {'kind': 'fixed_large'},
  'sample_map': lambda a: {
    'levels': grid().take(slice(-1)),
    'flow_map': dj.make_flow_map(
      dj.Network(network_fn, dj.time_input(1.0)), {}, kind='average_velocity'
    ),
  },
  'sdedit': {'sampler': dj.heun(), 'strength': 0.5, 'repeats': 2},
  'slerp': lambda a: {'weight': a.t[0]},
  'split_gibbs': lambda a: {
    'draw': dj.langevin_draw(log_prob, 0.1, 2),
    'widths': jnp.array([1.0, 0.5], F32),
  },
  'state_kl': lambda a: {'q': jax.nn.softmax(logits(a.x)), 'p': jax.nn.softmax(logits(a.y))},
  'step_input': {'schedule_steps': 1000, 'scale': 0.25},
  'top_p': {'denoise': denoise_states, 'p': 0.9},
  'transition_matrix': lambda a: {'level_s': a.ls.take(0), 'level_t': a.lt.take(0)},
  'twist_guided': {'twist': lambda x0, level: log_prob(x0)},
  'unipc': {'order': 3},
  'variational_bound': {'num_steps': 3, 'variance': 'learned', 'steps': 1},
  'edm_weight': {'sigma_data': 0.5},
  'vdm_weight': {'num_steps': 4},
  'velocity_sde': {'diffusion': 'sde'},
  'with_ancestral_noise': {'sampler': dj.heun()},
  'with_corrector': {'corrector': dj.langevin()},
}

# Functions without float32 arguments, and those that others above call.
OTHERS = """
zero_terminal_snr independent_levels levels_in_turn subset_levels hold_known roll_out respaced_steps
churn_gamma Denoiser FlowMap Likelihood
NoiseLevel Normal Measurement Network Particles Prediction Sampler Twist
level_grid step_levels staggered repaint_levels clean_level kl_warmup pytree_dataclass
ode_estimate uniform_times antithetic_times step_times log_normal_times
logit_normal_times langevin open_run paired sample sde_coefficients training_step
"""
# Processes, samplers and bounds of states, which are integers.
OF_STATES = """
CosineMasking PolynomialMasking MatrixProcess StateProcess ReplacementProcess
StateDenoiser ancestral_states draw_states confidence_ordered first_hitting
gaussian_matrix keep_known gaussian_process masking_process uniform_process
remasked masked_bound masked_weight state_bound states_of prior_sample_states
q_sample_states values_of jump_nats uniform_bound uniform_weight
"""
OTHERS = {
  *(name for name in dir(dj) if name.endswith(('_betas', 'Schedule'))),
  *OTHERS.split(),
  *OF_STATES.split(),
}
PUBLIC = {
  name
  for name, value in vars(dj).items()
  if not (name.startswith('_') or isinstance(value, types.ModuleType))
}
assert OTHERS < PUBLIC and {*CALLS} <= PUBLIC - OTHERS


def traced_call(name, x):
  """Returns the jaxpr and the shapes of a public function of images."""

  def called(x, y, t, key):
    t = jnp.clip(t, 0.1, 0.9)
    return call(
      name, types.SimpleNamespace(x=x, y=y, t=t, key=key, lt=SCHEDULE(t), ls=SCHEDULE(0.5 * t))
    )

  return jax.make_jaxpr(called, return_shape=True)(x, x, NOISE, jax.random.key(0))


# Functions of distributions and slerp, which keep the type of their images.
KEEP = {
  'bernoulli_log_prob', 'discretized_logistic_log_prob', 'free_bits',
  'hierarchical_elbo', 'kl', 'log_prob', 'logistic_logits', 'pick',
  'poisson_log_prob', 'rearranged_elbo', 'reparameterize', 'simple_loss',
  'slerp', 'state_kl', 'state_nll', 'vae_elbo', 'vae_log_weight',
}  # fmt: skip


@pytest.mark.parametrize('name', sorted(KEEP))
def test_the_type_of_images_is_kept(name):
  _, found = traced_call(name, of(dtype=jnp.bfloat16))
  assert float_types(found) <= {'float32', 'bfloat16'}


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_an_operator_of_half_precision_is_linear(dtype):
  x = jnp.ones((2, 3), dtype)
  for forward in (lambda x: 2.0 * x[:, :1], lambda x: 3.7 * x.astype(dtype)):
    measurement = dj.Measurement(forward(x), forward, 0.1)
    draw = dj.gaussian_draw(measurement)
    found = jax.eval_shape(draw, jax.random.key(0), x, jnp.float32(0.5))
    assert found.dtype == F32
  assert not is_linear(lambda x: x.astype(dtype) ** 2, x)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', sorted(PUBLIC - OTHERS))
def test_images_are_taken_in_float32_at_full_precision(name):
  """Images of half precision are cast to float32, unless a function keeps their type."""
  jaxpr, found = traced_call(name, of(dtype=F32 if name in KEEP else jnp.bfloat16))
  assert float_types(found) == {'float32'}
  assert set(precisions(jaxpr.jaxpr)) <= {HIGHEST}  # Most have no products.


def traced(function, *inputs):
  return list(precisions(jax.make_jaxpr(function)(*inputs).jaxpr))


def digits_model(**changes) -> Any:
  config = trial('digits', **{'network.multipliers': (1,), 'network.num_blocks': 1} | changes)
  return make_model(config, RunFolder.at('nowhere'))


def test_networks_compute_at_their_precision_in_every_gradient():
  """A derivative outside of a loop is made by the CPU's convolution itself."""
  model = digits_model(**{'network.remat': True, 'network.attention_resolutions': (8,)})
  apply = model.noisy.given().apply
  cond = {'label': LABEL['label']}

  def loss(params, x, noise, cond):
    def body(x, _):
      return apply(params['network'], x, noise, cond), None

    return jnp.sum(jax.lax.scan(body, x, None, length=2)[0])

  params, x = model.shapes(), of((B, 8, 8, 1))
  with compiling.products_at('high'):
    forward, backward = (traced(f, params, x, NOISE, cond) for f in (loss, jax.grad(loss)))
  assert set(forward) == set(backward) == {HIGH, LOOKUP}
  assert len(backward) > 2 * len(forward)


def test_the_default_is_that_of_jax():
  model = digits_model(**{'network.attention_resolutions': ()})
  apply, params = model.noisy.given().apply, model.shapes()['network']
  x, cond = of((B, 8, 8, 1)), {'label': LABEL['label']}
  assert set(traced(apply, params, x, NOISE, cond)) == {None, LOOKUP}
  with compiling.products_at('high'), compiling.products_at('default'):
    assert set(traced(apply, params, x, NOISE, cond)) == {HIGH, LOOKUP}
  assert compiling.precision_in_use() is None


def test_vaes_compute_at_their_precision():
  model: Any = make_model(
    trial('digits_vae', **{'network.multipliers': (1,)}), RunFolder.at('nowhere')
  )
  params = model.shapes()['network']

  def there_and_back(params, x):
    z = model.measured.encode(params, 1, x).mean
    return jnp.sum(model.measured.decode(params, 1, z))

  with compiling.products_at('highest'):
    found = traced(jax.grad(there_and_back), params, of((B, 8, 8, 1)))
  assert set(found) == {HIGHEST}


def test_a_mode_has_the_precision_of_its_config(monkeypatch):
  """Threads that compile have the precision of the config; afterwards it is as before."""
  found = []

  def train(config, workdir):
    with ThreadPoolExecutor(1) as pool:
      found.append(pool.submit(compiling.precision_in_use).result())

  monkeypatch.setattr('diffusion_jax.app.train.mode.main', train)
  MODES['train'](trial('digits', matmul_precision='highest'), 'nowhere')
  MODES['train'](trial('digits'), 'nowhere')
  assert found == ['highest', None] and compiling.precision_in_use() is None


def test_augmentation_oracles_and_learned_schedules_are_at_full_precision():
  found = traced(augmentation.augment, jax.random.key(0), X)
  assert len(found) > 5 and set(found) == {HIGHEST}
  oracle = oracles.gaussian(np.zeros(3), np.eye(3))
  level = dj.CosineSchedule()(0.5)
  found = traced(lambda x: oracle.denoise(x, level), of((B, 3)))
  assert found and set(found) == {HIGHEST}
  network = gamma.MonotoneGamma(features=4)
  params = jax.eval_shape(network.init, jax.random.key(0), NOISE)
  assert set(traced(network.apply, params, NOISE)) == {HIGHEST}


def test_the_warp_of_bfloat16_images_is_computed_in_float32(key):
  warp = jax.jit(augmentation.warp)
  image = jax.random.uniform(key, (8, 8, 1), minval=-1.0).astype(jnp.bfloat16)
  inverse = np.float32([[0.9, -0.4], [0.3, 1.1]])
  shift = np.float32([0.7, -1.3])
  found = warp(image, inverse, shift)
  exact = warp(image.astype(jnp.float32), inverse, shift)
  assert found.dtype == jnp.bfloat16
  # One rounding is half of the last of 8 binary digits.
  assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8)

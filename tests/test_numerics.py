"""Types under jax_enable_x64, and the precision of products of float32.

Both are read out of traced programs: nothing is compiled.
"""

import types
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.app import models
from diffusion_jax.networks import (
  autoencoder,
  classifier,
  ddpmpp,
  edm2,
  gamma,
  hierarchical,
  transformer,
  unet,
  vdm,
)
from diffusion_jax.testing import oracles
from diffusion_jax.training import augmentation
from tests.app.conftest import trial

F32, INT = jnp.float32, jnp.int32
B, SHAPE = 2, (2, 8, 8, 3)


HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


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
  """The precision of each product and convolution, also in inner programs.

  Our own primitives have a name, or None.
  """
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


SMALL = {
  'channels': 8,
  'num_groups': 4,
  'multipliers': (1, 2),
  'num_blocks': 1,
  'attention_resolutions': (8,),
}
LABEL = {'label': of((B,), INT), 'drop': of((B,), bool)}
TEXT = {'text': of((B, 5), INT), 'text_mask': of((B, 5), bool)}
TOLD = {'num_classes': 3, 'null_class': True, 'self_conditioning': True}
X, NOISE = of(), of((B,))
NETWORKS = {
  'unet': (
    lambda **k: unet.UNet(
      **SMALL, **TOLD, image_channels=1, text_width=8, text_layers=1, **k
    ),
    (X, NOISE, LABEL | TEXT),
  ),
  'unet, openai': (
    lambda **k: unet.UNet(
      **SMALL, noise_embedding='openai', scale_shift=True,
      resblock_updown=True, qkv='new', **k,
    ),
    (X, NOISE),
  ),
  'ddpmpp': (
    lambda initializer, **k: ddpmpp.DDPMpp(
      **SMALL, **TOLD, augment_dim=9, noise_embedding='fourier', **k
    ),
    (X, NOISE, LABEL),
  ),
  'edm2': (
    lambda initializer, **k: edm2.EDM2(
      8, (1, 2), 1, (8,), 4, num_classes=3, null_class=True, **k
    ),
    (X, NOISE, LABEL),
  ),
  'dit': (
    lambda initializer, **k: transformer.DiT(
      8, 2, 2, **TOLD, image_channels=1, text_width=8, text_layers=1,
      class_tokens=1, class_tokens_at=1, positions='both', norm='rms',
      qk_norm=True, mlp='swiglu', bottleneck=2, **k,
    ),
    (X, NOISE, LABEL | TEXT),
  ),
  'dit, cross': (
    lambda initializer, **k: transformer.DiT(
      8, 1, 2, text_width=8, text_layers=1, text_attention='cross', **k
    ),
    (X, NOISE, TEXT),
  ),
  'vdm': (
    lambda **k: vdm.ScoreNetwork(8, 1, num_groups=4, num_classes=3, **k),
    (X, NOISE, {'label': LABEL['label']}),
  ),
  'classifier': (
    lambda **k: classifier.NoisyClassifier(3, **SMALL, head_channels=4, **k),
    (X, NOISE),
  ),
  'autoencoder': (
    lambda **k: autoencoder.Autoencoder((8, 8), 6, latent_dim=4, **SMALL, **k),
    (X,),
  ),
  'hierarchical': (
    lambda **k: hierarchical.HierarchicalAutoencoder(6, 2, **SMALL, **k),
    (X,),
  ),
}  # fmt: skip


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  'initializer, dtype', [('ho', jnp.float32), ('torch', jnp.bfloat16)]
)
@pytest.mark.parametrize('name', NETWORKS)
def test_networks_have_float32_parameters_and_outputs(name, initializer, dtype):
  make, inputs = NETWORKS[name]
  network = make(initializer=initializer, dtype=dtype)
  found = jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)
  assert float_types(found) == {'float32'}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('learned', [gamma.LinearGamma, gamma.MonotoneGamma])
def test_learned_schedules_have_float32_parameters(learned):
  found = jax.eval_shape(learned().init_with_output, jax.random.key(0), NOISE)
  assert float_types(found) == {'float32'}


def gamma_fn(params, t):
  return params[0] + params[1] * t


BETAS = dj.linear_betas(10)
SCHEDULES = {
  'discrete': lambda: dj.DiscreteSchedule.from_betas(BETAS),
  'cosine': dj.CosineSchedule,
  'vp': dj.LinearVPSchedule,
  'sub_vp': dj.SubVPSchedule,
  've': dj.GeometricVESchedule,
  'karras': dj.KarrasSchedule,
  'flow': dj.RectifiedFlowSchedule,
  'sigmoid': dj.SigmoidSchedule,
  'shifted': lambda: dj.ShiftedSchedule(dj.CosineSchedule(), 2.0),
  'learned': lambda: dj.LearnedSchedule(
    (jnp.float32(-5.0), jnp.float32(9.0)), gamma_fn
  ),
}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules_have_the_precision_of_what_they_are_asked(name):
  schedule = SCHEDULES[name]()
  for dtype in ('float32', 'float64'):
    asked = of((B,), dtype)
    if name == 'learned' and dtype == 'float64':
      continue  # its parameters are float32
    assert float_types(jax.eval_shape(schedule, asked)) == {dtype}
    found = jax.eval_shape(schedule.from_logsnr, asked)
    assert float_types(found) == {dtype}
    found = jax.eval_shape(lambda t: dj.sde_coefficients(schedule, t), asked)
    assert float_types(found) == {dtype}
  # a Python number is a default float, as everywhere in JAX
  if name != 'learned':
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


# Calls of public functions: x, y [B, ...], t [B], levels [B] at t (lt) and a
# cleaner one (ls), key. All of them are float32 but the key.
CALLS = {
  'annealed_langevin': lambda a: walk(a, dj.annealed_langevin(2)),
  'ancestral': lambda a: walk(a, dj.ancestral('learned')),
  'ddim': lambda a: walk(a, dj.ddim(0.5)),
  'heun': lambda a: walk(a, dj.heun()),
  'dpm_solver_pp': lambda a: walk(a, dj.dpm_solver_pp(3)),
  'dpm_solver_pp_2s': lambda a: walk(a, dj.dpm_solver_pp_2s(SCHEDULE)),
  'dpm_solver_pp_sde': lambda a: walk(a, dj.dpm_solver_pp_sde()),
  'unipc': lambda a: walk(a, dj.unipc(3)),
  'euler_maruyama': lambda a: walk(a, dj.euler_maruyama(SCHEDULE)),
  'velocity_heun': lambda a: walk(a, dj.velocity_heun(SCHEDULE)),
  'velocity_sde': lambda a: walk(a, dj.velocity_sde(SCHEDULE, 'sde')),
  'reverse_diffusion': lambda a: walk(a, dj.reverse_diffusion()),
  'with_corrector': lambda a: walk(
    a, dj.with_corrector(dj.ddim(), dj.langevin())
  ),
  'churn': lambda a: walk(a, dj.churn(dj.heun(), SCHEDULE, 0.2)),
  'replace_known': lambda a: walk(
    a, dj.replace_known(dj.ddim(), a.y, a.y > 0.0)
  ),
  'repaint': lambda a: walk(
    a,
    dj.repaint(dj.ddim(), a.y, a.y > 0.0),
    levels=dj.repaint_levels(dj.level_grid(SCHEDULE, 4), 2, 2),
  ),
  'self_conditioned': lambda a: walk(
    a, dj.self_conditioned(dj.ddim()), lambda x0: denoise
  ),
  'clip_denoised': lambda a: walk(a, dj.ddim(), dj.clip_denoised(denoise)),
  'dynamic_threshold': lambda a: walk(
    a, dj.ddim(), dj.dynamic_threshold(denoise)
  ),
  'classifier_free': lambda a: walk(
    a,
    dj.ddim(),
    dj.classifier_free(dj.paired(denoise, denoise), jnp.ones(B), 0.7),
  ),
  'classifier_guided': lambda a: walk(
    a, dj.ddim(), dj.classifier_guided(denoise, log_prob_fn, jnp.ones(B))
  ),
  'log_prob_gradient': lambda a: dj.log_prob_gradient(log_prob_fn)(a.x, a.lt),
  'make_denoiser': lambda a: walk(
    a,
    dj.ddim(),
    dj.make_denoiser(
      network_fn, {}, parametrization='v', noise_input=dj.logsnr_input
    ),
  ),
  'make_flow_map': lambda a: dj.make_flow_map(
    network_fn, {}, kind='consistency', noise_input=dj.edm_input
  )(a.x, a.lt, a.ls),
  'sample_map': lambda a: dj.sample_map(
    a.key,
    dj.make_flow_map(
      network_fn, {}, kind='average_velocity', noise_input=dj.time_input(1.0)
    ),
    grid(),
    a.x,
  ),
  'make_paired_denoiser': lambda a: dj.make_paired_denoiser(
    network_fn, {}, {}, parametrization='edm', noise_input=dj.logsnr_input
  )(a.x, SCHEDULE(0.5)),
  'at_training_levels': lambda a: walk(
    a, dj.ddim(), dj.at_training_levels(denoise, dj.LinearVPSchedule())
  ),
  'reconstruction_guided': lambda a: walk(
    a, dj.ddim(), dj.reconstruction_guided(denoise, a.y, a.y > 0.0)
  ),
  'observation_guided': lambda a: walk(
    a, dj.ddim(), dj.observation_guided(denoise, lambda x: 2.0 * x, a.y)
  ),
  'ddim_invert': lambda a: dj.ddim_invert(denoise, grid(), a.x),
  'interpolate': lambda a: dj.interpolate(
    denoise, grid(), a.x, a.y, jnp.linspace(0.0, 1.0, 3)
  ),
  'slerp': lambda a: dj.slerp(a.x, a.y, a.t[0]),
  'sdedit': lambda a: dj.sdedit(
    a.key, denoise, dj.heun(), grid(), a.x, 0.5, repeats=2
  ),
  'noise_image': lambda a: dj.noise_image(
    a.key, a.x, dj.DiscreteSchedule.from_betas(BETAS), [0, 3]
  ),
  'log_likelihood': lambda a: dj.log_likelihood(
    a.key, denoise, SCHEDULE, a.x
  ),
  'probability_flow': lambda a: dj.probability_flow(
    denoise, SCHEDULE, a.x, 1.0, 0.1
  ),
  'dequantize': lambda a: dj.dequantize(a.key, a.x),
  'gaussian_dequantize': lambda a: dj.gaussian_dequantize(
    a.key, a.x, SCHEDULE(0.1)
  ),
  'ode_bits_per_dim': lambda a: dj.ode_bits_per_dim(a.t, (8, 8, 3)),
  'bits_per_dim': lambda a: dj.bits_per_dim(a.t, (8, 8, 3)),
  'prior_sample': lambda a: dj.prior_sample(a.key, SHAPE, a.lt.take(0)),
  'q_sample': lambda a: dj.q_sample(a.x, a.y, SCHEDULE(0.5)),
  'forward_step': lambda a: dj.forward_step(a.x, a.y, *pair()),
  'q_posterior': lambda a: dj.q_posterior(a.x, a.y, *pair()),
  'p_reverse': lambda a: dj.p_reverse(a.x, a.y, *pair(), 'learned', a.x),
  'reverse_variance': lambda a: dj.reverse_variance('fixed_large', a.ls, a.lt),
  'target': lambda a: dj.target('v', a.x, a.y, SCHEDULE(0.5)),
  'to_x0': lambda a: dj.to_x0('edm', a.x, a.y, SCHEDULE(0.5)),
  'eps_from_x0': lambda a: dj.eps_from_x0(a.x, a.y, SCHEDULE(0.5)),
  'score_from_x0': lambda a: dj.score_from_x0(a.x, a.y, SCHEDULE(0.5)),
  'error_scale': lambda a: dj.error_scale('flow', a.lt),
  'network_output': lambda a: dj.network_output(
    network_fn, {}, a.x, SCHEDULE(0.5), parametrization='edm',
    noise_input=dj.edm_input,
  ),
  'logsnr_input': lambda a: dj.logsnr_input(a.lt),
  'log_sigma_input': lambda a: dj.log_sigma_input(a.lt),
  'edm_input': lambda a: dj.edm_input(a.lt),
  'time_input': lambda a: dj.time_input()(a.lt),
  'step_input': lambda a: dj.step_input(1000, 0.25)(a.lt),
  'simple_loss': lambda a: dj.simple_loss(a.x, a.y),
  'weighted_eps_loss': lambda a: dj.weighted_eps_loss(a.x, a.y, *pair()),
  'denoising_loss': lambda a: dj.denoising_loss(
    'v', a.x, a.y, a.x, SCHEDULE(0.5), dj.snr_weight
  ),
  'snr_weight': lambda a: dj.snr_weight(a.lt),
  'truncated_snr_weight': lambda a: dj.truncated_snr_weight(a.lt),
  'min_flow_weight': lambda a: dj.min_flow_weight()(a.lt),
  'min_snr_weight': lambda a: dj.min_snr_weight()(a.lt),
  'edm_weight': lambda a: dj.edm_weight()(a.lt),
  'flow_weight': lambda a: dj.flow_weight(a.lt),
  'vdm_weight': lambda a: dj.vdm_weight(SCHEDULE, 4)(a.lt),
  'vdm_diffusion_loss': lambda a: dj.vdm_diffusion_loss(
    a.x, a.y, SCHEDULE, a.t
  ),
  'prior_kl': lambda a: dj.prior_kl(a.x, SCHEDULE(1.0)),
  'diffusion_kl': lambda a: dj.diffusion_kl(a.x, a.y, normal(a.x), *pair()),
  'reconstruction_nll': lambda a: dj.reconstruction_nll(a.x, normal(a.y)),
  'categorical_nll': lambda a: dj.categorical_nll(a.x, a.y, SCHEDULE(0.1)),
  'variational_bound': lambda a: dj.variational_bound(
    a.key, denoise, SCHEDULE, a.x, num_steps=3, variance='learned', steps=1
  ),
  'kl': lambda a: dj.kl(normal(a.x), normal(a.y)),
  'log_prob': lambda a: dj.log_prob(normal(a.x), a.y),
  'discretized_log_prob': lambda a: dj.discretized_log_prob(normal(a.x), a.y),
  'discretized_logistic_log_prob': (
    lambda a: dj.discretized_logistic_log_prob(a.x, a.y, a.x)
  ),
  'bernoulli_log_prob': lambda a: dj.bernoulli_log_prob(a.x, a.y),
  'reparameterize': lambda a: dj.reparameterize(a.key, normal(a.x)),
  'vae_elbo': lambda a: dj.vae_elbo(a.key, a.x, normal(a.y), decode),
  'vae_log_weight': lambda a: dj.vae_log_weight(
    a.key, a.x, normal(a.y), decode
  ),
  'importance_weighted_elbo': lambda a: dj.importance_weighted_elbo(
    a.key, lambda key: a.t, 3
  ),
  'hierarchical_elbo': lambda a: dj.hierarchical_elbo(
    a.key, a.x, lambda t, z: normal(z), lambda t, z: normal(z), decode,
    num_steps=2,
  ),
  'rearranged_elbo': lambda a: dj.rearranged_elbo(
    a.key, a.x, lambda t, x: normal(x), lambda t, z, x: normal(z),
    lambda t, z: normal(z), decode, num_steps=2,
  ),
  'free_bits': lambda a: dj.free_bits(a.x[:, 0, 0], 0.1),
  'transition_matrix': lambda a: dj.transition_matrix(
    MATRICES, a.ls.take(0), a.lt.take(0)
  ),
  'q_states': lambda a: dj.q_states(states(a.x), MATRICES, a.lt),
  'q_posterior_states': lambda a: dj.q_posterior_states(
    states(a.x), states(a.y), MATRICES, a.ls, a.lt
  ),
  'p_reverse_states': lambda a: dj.p_reverse_states(
    logits(a.x), states(a.y), MATRICES, a.ls, a.lt
  ),
  'posterior_logits': lambda a: dj.posterior_logits(
    logits(a.x), states(a.y), MASKING, a.lt
  ),
  'make_state_denoiser': lambda a: dj.make_state_denoiser(
    lambda params, x, noise, cond, *, key=None: logits(noise[:, None] * x),
    {}, process=MASKING, noise_input=dj.logsnr_input,
  )(states(a.x[:, :, 0, 0]), a.lt),
  'logistic_logits': lambda a: dj.logistic_logits(a.x, a.y, 4),
  'logistic_network': lambda a: dj.logistic_network(
    lambda params, x, noise, cond, *, key=None: jnp.stack([a.x, a.y], axis=-1),
    4,
  )({}, states(a.x), a.t, {}),
  'state_kl': lambda a: dj.state_kl(
    jax.nn.softmax(logits(a.x)), jax.nn.softmax(logits(a.y))
  ),
  'state_nll': lambda a: dj.state_nll(logits(a.x), states(a.y)),
  'prior_kl_states': lambda a: dj.prior_kl_states(states(a.x), MATRICES, a.lt),
  'transition_kl_states': lambda a: dj.transition_kl_states(
    logits(a.x), states(a.x), states(a.y), MATRICES, a.ls, a.lt
  ),
  'guided_states': lambda a: dj.guided_states(
    denoise_states, denoise_states, 2.0
  )(a.x, a.lt),
  'top_p': lambda a: dj.top_p(denoise_states, 0.9)(a.x, a.lt),
}  # fmt: skip

# What no float32 goes into, or what makes one of the above.
OTHERS = {
  *(name for name in dir(dj) if name.endswith(('_betas', 'Schedule'))),
  *('zero_terminal_snr', 'respaced_steps', 'churn_gamma'),  # host, float64
  *('Denoiser', 'FlowMap', 'Likelihood', 'NoiseLevel', 'Normal'),
  *('Prediction', 'Sampler'),
  *('level_grid', 'step_levels', 'repaint_levels', 'clean_level'),
  *('kl_warmup', 'pytree_dataclass'),
  *('uniform_times', 'antithetic_times', 'step_times'),
  *('log_normal_times', 'logit_normal_times'),
  *('langevin', 'paired', 'sample', 'sde_coefficients'),
  # processes and samplers of states, which are integers; bounds of these
  *('CosineMasking', 'PolynomialMasking', 'MatrixProcess', 'StateProcess'),
  *('ReplacementProcess', 'StateDenoiser', 'ancestral_states', 'draw_states'),
  *('confidence_ordered', 'first_hitting', 'gaussian_matrix', 'keep_known'),
  *('gaussian_process', 'masking_process', 'uniform_process', 'remasked'),
  *('masked_bound', 'masked_weight', 'state_bound', 'states_of'),
  *('prior_sample_states', 'q_sample_states'),
}


def log_prob_fn(x, level):
  return -jnp.sum(level.expand_to(x).alpha * x**2, axis=(1, 2, 3))


def grid():
  return dj.level_grid(SCHEDULE, 3)  # float64


def pair():
  return SCHEDULE(0.3), SCHEDULE(0.5)  # float64


def walk(a, sampler, denoise=denoise, levels=None):
  levels = grid() if levels is None else levels
  return dj.sample(a.key, denoise, sampler, levels, a.x)


def test_every_public_function_is_asked():
  functions = {
    name
    for name in dir(dj)
    if not name.startswith('_')
    and not isinstance(getattr(dj, name), types.ModuleType)
  }
  assert functions == set(CALLS) | OTHERS


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', CALLS)
def test_float32_images_stay_float32_at_full_precision(name):
  def call(x, y, t, key):
    t = jnp.clip(t, 0.1, 0.9)
    levels = {'lt': SCHEDULE(t), 'ls': SCHEDULE(0.5 * t)}
    return CALLS[name](types.SimpleNamespace(x=x, y=y, t=t, key=key, **levels))

  jaxpr, found = jax.make_jaxpr(call, return_shape=True)(
    X, X, NOISE, jax.random.key(0)
  )
  assert float_types(found) == {'float32'}
  assert set(precisions(jaxpr.jaxpr)) <= {HIGHEST}  # most have no products


def traced(function, *inputs):
  return list(precisions(jax.make_jaxpr(function)(*inputs).jaxpr))


def digits_model(**changes) -> Any:
  config = trial('digits', **{'network.multipliers': (1,)} | changes)
  return models.make(config, 'nowhere')


@pytest.mark.parametrize('name, remat', [('high', False), ('highest', True)])
def test_networks_compute_at_their_precision_in_every_gradient(name, remat):
  """Also where the derivative is taken outside, of a loop around the network.

  The convolution of CPUs has derivatives of its own, written then.
  """
  model = digits_model(**{
    'matmul_precision': name,
    'network.remat': remat,
    'network.attention_resolutions': (8,),
  })  # fmt: skip
  apply = model.network_fn()
  cond = {'label': LABEL['label']}

  def loss(params, x, noise, cond):
    def body(x, _):
      return apply(params['network'], x, noise, cond), None

    return jnp.sum(jax.lax.scan(body, x, None, length=2)[0])

  inputs = models.shapes(model), of((B, 8, 8, 1)), NOISE, cond
  forward, backward = (traced(f, *inputs) for f in (loss, jax.grad(loss)))
  expected = (jax.lax.Precision(name),) * 2
  assert set(forward) == set(backward) == {expected}
  assert len(backward) > 2 * len(forward)


def test_the_default_is_that_of_jax():
  model = digits_model(**{'network.attention_resolutions': ()})
  apply, params = model.network_fn(), models.shapes(model)['network']
  inputs = params, of((B, 8, 8, 1)), NOISE, {'label': LABEL['label']}
  assert set(traced(apply, *inputs)) == {None}
  with jax.default_matmul_precision('high'):
    assert set(traced(apply, *inputs)) == {(jax.lax.Precision.HIGH,) * 2}


def test_vaes_compute_at_their_precision():
  config = trial('digits_vae', **{'matmul_precision': 'highest'})
  model: Any = models.make(config, 'nowhere')
  params = models.shapes(model)['network']

  def there_and_back(params, x):
    z = model.encode(params, 1, x).mean
    return jnp.sum(model.decode(params, 1, z))

  found = traced(jax.grad(there_and_back), params, of((B, 8, 8, 1)))
  assert set(found) == {HIGHEST}


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
  # rounded once: half of the last of 8 binary digits
  np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8)

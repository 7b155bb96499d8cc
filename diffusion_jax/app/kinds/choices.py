"""The constructors that a config can name, by the field that chooses.

Each row is a name and a constructor, whose parameters are the fields of the
section. The first row of a table is the default.
"""

import functools
import inspect
from collections.abc import Callable

import jax

import diffusion_jax as dj
from diffusion_jax.app.config.schema import Constructor
from diffusion_jax.app.edit import methods, pictures, posteriors, restoration
from diffusion_jax.app.kinds import learned, sampling, sections, training
from diffusion_jax.core import operators, step_schedules as steps
from diffusion_jax.core.denoiser import rescaled_step_input
from diffusion_jax.core.parametrization import Parametrization
from diffusion_jax.data import (
  between,
  huggingface,
  image_folder,
  npz,
  simulated,
  small_sets,
  sources,
  tfds_sources,
  webdataset,
)
from diffusion_jax.data.tables import csv_table
from diffusion_jax.declared import declares
from diffusion_jax.demos import photos, shapes, simulators
from diffusion_jax.few_steps import distillation
from diffusion_jax.networks import ddpmpp, edm2, inputs, mlp, transformer, unet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.paths import RunPath
from diffusion_jax.ranges import Finite, NoiseRatio, NonNegative, Probability, Several, Size
from diffusion_jax.sampling.correctors import AncestralNoise, Churn, Langevin
from diffusion_jax.sampling.guidance import PairedDenoiser
from diffusion_jax.training import (
  conditions,
  couplings,
  objectives,
  optimizer,
  vdm,
)


def deferred(function: Callable, *given: str) -> Constructor:
  """Returns a constructor of `function`, without a call.

  given: the parameters of a later call; the others are the constructor's.
  """

  @functools.wraps(function)
  def constructor(**values):
    return functools.partial(function, **values) if values else function

  signature = inspect.signature(function, eval_str=True)
  rest = [x for n, x in signature.parameters.items() if n not in given]
  vars(constructor)['__signature__'] = signature.replace(parameters=rest)
  return constructor


def guidance(function: Callable) -> Constructor:
  """Returns the constructor of the `Guidance` by a function of a pair and a scale."""
  constructor = deferred(function, 'pair')

  @functools.wraps(constructor)
  def made(scale, **values):
    guide = constructor(**values)
    guide(lambda xt, level: None, scale)  # checks the values
    return sampling.Guidance(scale, guide)

  return made


def named(*constructors: Constructor) -> dict[str, Constructor]:
  """Returns the constructors by the names of their functions."""
  return {constructor.__name__: constructor for constructor in constructors}


_DRAW = 'key', 'batch_size', 'schedule'  # what a `TimeSampler` is called with

SCHEDULES = {
  **{
    name: steps.of_betas(getattr(dj, f'{name}_betas'))
    for name in (
      *('linear', 'rescaled_linear', 'quadratic', 'scaled_linear', 'cosine', 'sigmoid'),
      *('constant', 'warmup', 'reciprocal'),
    )
  },
  'alphas': dj.DiscreteSchedule.from_alphas,
  'continuous_cosine': dj.CosineSchedule,
  'continuous_sigmoid': dj.SigmoidSchedule,
  'linear_vp': dj.LinearVPSchedule,
  'sub_vp': dj.SubVPSchedule,
  'geometric_ve': dj.GeometricVESchedule,
  'karras': dj.KarrasSchedule,
  'flow': dj.RectifiedFlowSchedule,
  'learned': learned.learned_schedule,
  'shifted': dj.ShiftedSchedule,
  'zero_terminal_snr': steps.with_zero_terminal_snr,
}

NOISE_INPUTS = {
  'step': functools.partial(dj.step_input, scale=1.0),
  'rescaled_step': rescaled_step_input,
  'time': dj.time_input,
  'logsnr': deferred(dj.logsnr_input, 'level'),
  'log_sigma': deferred(dj.log_sigma_input, 'level'),
  'edm': deferred(dj.edm_input, 'level'),
}

PARAMETRIZATIONS = {
  kind: functools.partial(Parametrization, kind=kind, sigma_data=0.5)
  for kind in ('eps', 'x0', 'v', 'score', 'flow')
} | {'edm': functools.partial(Parametrization, kind='edm')}

TIMES = {
  'steps': dj.step_times,
  'uniform': deferred(dj.uniform_times, *_DRAW),
  'antithetic': deferred(dj.antithetic_times, *_DRAW),
  'log_normal': dj.log_normal_times,
  'logit_normal': dj.logit_normal_times,
}

WEIGHTS = {
  'snr': deferred(dj.snr_weight, 'level'),
  'truncated_snr': deferred(dj.truncated_snr_weight, 'level'),
  'v': deferred(dj.v_weight, 'level'),
  'min_snr': dj.min_snr_weight,
  'edm': dj.edm_weight,
  'flow': deferred(dj.flow_weight, 'level'),
  'min_flow': dj.min_flow_weight,
}


@declares(
  what='bad + w (good − bad), `classifier_free(paired(good, bad), scale)` (Karras et al. 2024)'
)
def autoguidance(
  pair: PairedDenoiser,
  scale: jax.Array | Finite,
  run: RunPath,
  rescale: Probability = 0.0,
  interval: tuple[NonNegative, NoiseRatio] = (0.0, float('inf')),
  channels: Size | None = None,
) -> dj.Denoiser:
  """Guides by a worse model: worse + scale (model - worse).

  Karras et al. 2024. See `classifier_free`.

  Args:
    run: the worse model's run folder
  """
  return dj.classifier_free(pair, scale, rescale, interval, channels)


@declares(
  what='weights of Π q_i^β_i, `one_of(feynman_kac(powers), num_particles)` (Skreta et al. '
  '2025), [below](#the-law-that-a-scale-names)',
  takes_pairs=True,
  draws_noise=True,
)
def feynman_kac(scale: Finite, particles: Several = 16, run: RunPath = '') -> dj.Sampler:
  """Draws from the law cond^scale uncond^(1 - scale), by weighted particles.

  Skreta et al. 2025.

  Args:
    particles: of each sample, which is one of them
    run: of a worse model in place of uncond; '': the network without its condition
  """
  return dj.one_of(dj.feynman_kac((scale, 1.0 - scale)), particles)


SAMPLERS = {
  'ancestral': functools.partial(dj.ancestral, mean_shift=None),
  **named(dj.ddim, dj.heun, dj.lms, dj.dpm_solver_2, dj.dpm_solver_pp, dj.dpm_solver_pp_2s),
  **named(dj.dpm_solver_pp_2s_sde, dj.dpm_solver_pp_sde, dj.adaptive_ode, dj.unipc),
  **named(dj.euler_maruyama, dj.velocity_heun, dj.velocity_sde, dj.reverse_diffusion),
  **named(dj.annealed_langevin, dj.cfg_plus_plus, feynman_kac),
}

# Of the numbers of several variables, which are one variable of a `joint_sampler`.
SAMPLERS_OF_VARIABLES = {
  name: SAMPLERS[name] for name in ('ddim', 'ancestral', 'heun', 'dpm_solver_pp')
}

GUIDANCES = {
  f.__name__: guidance(f)
  for f in (dj.classifier_free, autoguidance, dj.adaptive_projected, dj.cfg_zero_star)
}

DENOISERS = {
  'unet': unet.UNet,
  'dit': transformer.DiT,
  'ddpmpp': ddpmpp.DDPMpp,
  'edm2': edm2.EDM2,
  'vdm': ScoreNetwork,
  'mlp': mlp.MLP,
}
DENOISING = named(
  objectives.denoising,
  objectives.hybrid,
  objectives.vlb,
  vdm.vdm,
  distillation.progressive_distillation,
  distillation.reflow,
)
DATA = {
  **named(small_sets.digits, shapes.shapes, small_sets.synthetic, photos.photos, npz.npz),
  **named(small_sets.diabetes, small_sets.eeg),
  'csv': csv_table,
  **named(small_sets.eight_gaussians, small_sets.moons),
  **{n: simulated.simulated(f) for n, f in simulators.BENCHMARK.items()},
  'gaussian_process': simulated.simulated(simulators.gaussian_process),
  **named(image_folder.folder, tfds_sources.cifar10, tfds_sources.mnist, tfds_sources.tfds),
  **named(huggingface.huggingface, webdataset.webdataset),
  'binarized': sources.Binarized,
  'between': between.Between,
}


def _encoder(kind, *idle):
  # Returns the constructor of an encoder without the fields that it does not read.
  given = {name: inputs.ContextEncoder._field_defaults[name] for name in idle}
  return functools.partial(inputs.ContextEncoder, kind=kind, **given)


# The constructors of each field that is a choice, by its name at the top,
# or by its section and its name.
TABLES = {
  'schedule': SCHEDULES,
  'network': DENOISERS,
  'objective': DENOISING,
  'noise_input': NOISE_INPUTS,
  'parametrization': PARAMETRIZATIONS,
  'latent': {'autoencoder': sections.Latent},
  'conditioning.text': {'bytes': inputs.Text},
  'conditioning.context': {
    'auto': _encoder('auto', 'width', 'layers', 'heads'),
    'vector': _encoder('vector', 'heads'),
    'set': _encoder('set', 'heads'),
    'words': _encoder('words'),
    'channels': _encoder('channels', 'width', 'layers', 'heads'),
    'if_any': _encoder('auto', 'width', 'layers', 'heads'),
  },
  'conditioning.image': named(conditions.inpaint, conditions.superres, conditions.colorize),
  'schedule.schedule': SCHEDULES,
  'objective.times': TIMES,
  'objective.levels': {
    'independent': dj.independent_levels,
    'in_turn': dj.levels_in_turn,
    'subsets': dj.subset_levels,
  },
  'objective.weight': WEIGHTS,
  'objective.coupling': {
    'exact': couplings.exact_coupling,
    'sinkhorn': couplings.sinkhorn_coupling,
  },
  'objective.solver': named(dj.ddim, dj.heun),
  'objective.uncertainty': {'fourier': learned.LogVariance},
  'sampling.sampler': SAMPLERS,
  # a learned one would have no parameters
  'sampling.schedule': {n: c for n, c in SCHEDULES.items() if n != 'learned'},
  'sampling.guidance': GUIDANCES,
  'sampling.classifier': {'run': sampling.ClassifierGuidance},
  'sampling.churn': {'edm': Churn},
  'sampling.ancestral_noise': {'ddim': AncestralNoise},
  'sampling.corrector': {'langevin': Langevin},
  'data': DATA,
  **dict.fromkeys(
    ('data.source', 'data.target'),
    {n: c for n, c in DATA.items() if n not in ('binarized', 'between')},
  ),
  'optimizer': optimizer.OPTIMIZERS,
  **training.TABLES,
  **sampling.TABLES,
  'edit': {
    'inpaint': pictures.Inpaint,
    'sdedit': pictures.Sdedit,
    'interpolate': pictures.Interpolate,
    'superres': pictures.Superres,
    'colorize': pictures.Colorize,
    'restore': restoration.Restore,
    'steer': posteriors.Steer,
  },
  'edit.method': named(
    methods.repaint, methods.replace, posteriors.reconstruction, methods.palette
  ),
  'edit.operator': {
    'mask': restoration.mask,
    'matrix': restoration.matrix,
    'blur': operators.gaussian_blur,
    'motion': operators.motion_blur,
    'downsample': deferred(operators.pooled, 'x0'),
    'gray': deferred(operators.luminance, 'x0'),
    'hdr': operators.high_dynamic_range,
    'phase': operators.fourier_magnitude,
  },
  'edit.posterior': {
    **named(posteriors.moment, posteriors.pseudoinverse, posteriors.steered, posteriors.decoupled),
    **named(posteriors.gibbs, posteriors.proximal, posteriors.dps, posteriors.red_diff),
  },
  'edit.reward': named(posteriors.brightness),
}

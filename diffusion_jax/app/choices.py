"""The constructors that a config can name, by the field that chooses.

Each row is a name and a constructor, whose parameters are the fields of the
section. The first row of a table is the default.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax.core import flow_losses
from diffusion_jax.core.denoiser import NoiseInput
from diffusion_jax.core.keys import stream
from diffusion_jax.core.losses import TimeSampler, Weight, with_start
from diffusion_jax.core.parametrization import Kind
from diffusion_jax.data import (
  image_folder,
  npz,
  small_sets,
  sources,
  tfds_sources,
)
from diffusion_jax.demos import photos, shapes
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.classifier import NoisyClassifier
from diffusion_jax.networks.ddpmpp import DDPMpp
from diffusion_jax.networks.edm2 import EDM2
from diffusion_jax.networks.gamma import GammaFn, LinearGamma, MonotoneGamma
from diffusion_jax.networks.hierarchical import HierarchicalAutoencoder
from diffusion_jax.networks.magnitude import Uncertainty
from diffusion_jax.networks.transformer import DiT
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import ScoreNetwork
from diffusion_jax.ranges import (
  Count,
  FileName,
  Finite,
  ImageShape,
  NoiseRatio,
  NonNegative,
  Positive,
  Probability,
  Rate,
  Size,
)
from diffusion_jax.sampling.guidance import PairedDenoiser
from diffusion_jax.training import (
  conditions,
  consistency,
  distillation,
  flow_maps,
  level_pairs,
  objectives,
  optimizer,
)

T = TypeVar('T')


def constant(value: T) -> Callable[[], T]:
  """Returns a constructor without parameters, which returns `value`."""

  def constructor():
    return value

  constructor.__doc__ = value.__doc__
  constructor.__name__ = getattr(value, '__name__', 'constructor')
  return constructor


def from_betas(
  make_betas: Callable[..., np.ndarray],
) -> Callable[..., dj.DiscreteSchedule]:
  """Returns a constructor of the schedule that has these betas."""

  @functools.wraps(make_betas)  # copies the parameters
  def constructor(**fields):
    return dj.DiscreteSchedule.from_betas(make_betas(**fields))

  return constructor


def alphas(values: tuple = ()) -> dj.DiscreteSchedule:
  """Makes a schedule from an explicit list alpha_1..alpha_T."""
  return dj.DiscreteSchedule.from_alphas(values)


def learned(
  gamma: Literal['scalar', 'network', 'fixed'] = 'scalar',
  gamma_min: Finite = -13.3,
  gamma_max: Finite = 5.0,
) -> dj.LearnedSchedule:
  """Makes VDM's schedule, gamma(t) = -log SNR(t) (Kingma et al. 2021).

  gamma: scalar is a line with learned ends, network a line plus a monotone
  network, and fixed a line that is not trained. gamma_min and gamma_max are the
  initial values at t = 0 and 1.
  """
  if not gamma_min < gamma_max:
    raise ValueError(
      f'gamma_min={gamma_min} is not below gamma_max={gamma_max}'
    )
  if gamma == 'network':
    module = MonotoneGamma(gamma_min, gamma_max)
  else:
    module = LinearGamma(gamma_min, gamma_max, learned=gamma != 'fixed')
  return dj.LearnedSchedule({}, GammaFn(module))


def gamma_of(schedule: object) -> Any:
  """Returns the Flax module of a learned schedule, or None."""
  schedule = getattr(schedule, 'schedule', schedule)
  gamma_fn = getattr(schedule, 'gamma_fn', None)
  return gamma_fn.module if isinstance(gamma_fn, GammaFn) else None


def matmul_precision(name: str) -> contextlib.AbstractContextManager:
  """Returns the context in which a network is called, by its precision.

  name: config.matmul_precision. 'default' is JAX's own default, or
  JAX_DEFAULT_MATMUL_PRECISION.
  """
  if name == 'default':
    return contextlib.nullcontext()
  return jax.default_matmul_precision(name)


def precision_of(name: str) -> str:
  """Returns the precision that config.matmul_precision stands for."""
  in_jax = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
  return in_jax or name if name == 'default' else name


def betas_of(schedule: Any, user: str, example: str) -> np.ndarray:
  """Returns the betas of a schedule of steps; raises ValueError for others."""
  if not isinstance(schedule, dj.DiscreteSchedule):
    raise ValueError(
      f'{user} needs the betas of a schedule of steps: set schedule={example}'
    )
  return -np.expm1(-np.diff(np.asarray(schedule.neg_log_alpha_bar)))


def zero_terminal_snr(schedule: dj.DiscreteSchedule) -> dj.DiscreteSchedule:
  """Rescales the betas of a schedule: alpha_bar_T = 0 (Lin et al. 2023)."""
  betas = betas_of(schedule, 'zero_terminal_snr', 'linear')
  return dj.DiscreteSchedule.from_betas(dj.zero_terminal_snr(betas))


SCHEDULES = {
  'linear': from_betas(dj.linear_betas),
  'rescaled_linear': from_betas(dj.rescaled_linear_betas),
  'quadratic': from_betas(dj.quadratic_betas),
  'scaled_linear': from_betas(dj.scaled_linear_betas),
  'cosine': from_betas(dj.cosine_betas),
  'sigmoid': from_betas(dj.sigmoid_betas),
  'constant': from_betas(dj.constant_betas),
  'warmup': from_betas(dj.warmup_betas),
  'reciprocal': from_betas(dj.reciprocal_betas),
  'alphas': alphas,
  'continuous_cosine': dj.CosineSchedule,
  'continuous_sigmoid': dj.SigmoidSchedule,
  'linear_vp': dj.LinearVPSchedule,
  'sub_vp': dj.SubVPSchedule,
  'geometric_ve': dj.GeometricVESchedule,
  'karras': dj.KarrasSchedule,
  'flow': dj.RectifiedFlowSchedule,
  'learned': learned,
  'shifted': dj.ShiftedSchedule,
  'zero_terminal_snr': zero_terminal_snr,
}


def step_input(schedule_steps: int) -> NoiseInput:
  """Makes the input that is the step, 0..T-1."""
  return dj.step_input(schedule_steps)


def rescaled_step_input(schedule_steps: int) -> NoiseInput:
  """Makes the input that is the step, rescaled to 0..999."""
  return dj.step_input(schedule_steps, 1000 / schedule_steps)


NOISE_INPUTS = {
  'step': step_input,
  'rescaled_step': rescaled_step_input,
  'time': dj.time_input,
  'logsnr': constant(dj.logsnr_input),
  'log_sigma': constant(dj.log_sigma_input),
  'edm': constant(dj.edm_input),
}


class Parametrization(NamedTuple):
  """Says what a network predicts.

  sigma_data: the deviation of the data, for EDM's preconditioning (Karras et
  al. 2022).
  """

  kind: Kind
  sigma_data: Positive = 0.5


PARAMETRIZATIONS = {
  kind: constant(Parametrization(kind))
  for kind in ('eps', 'x0', 'v', 'score', 'flow')
} | {'edm': functools.partial(Parametrization, kind='edm')}


def step_times(schedule_steps: int) -> TimeSampler:
  """Makes uniform draws of the steps 1..T (DDPM Alg. 1)."""
  return dj.step_times(schedule_steps)


def uniform_times(t_min: Rate = 0.0) -> TimeSampler:
  """Makes uniform draws of t between t_min and 1."""
  return functools.partial(dj.uniform_times, t_min=t_min)


TIMES = {
  'steps': step_times,
  'uniform': uniform_times,
  'antithetic': constant(dj.antithetic_times),
  'log_normal': dj.log_normal_times,
  'logit_normal': dj.logit_normal_times,
}

WEIGHTS = {
  'snr': constant(dj.snr_weight),
  'truncated_snr': constant(dj.truncated_snr_weight),
  'min_snr': dj.min_snr_weight,
  'edm': dj.edm_weight,
  'flow': constant(dj.flow_weight),
  'min_flow': dj.min_flow_weight,
}

PAIRS = {
  'improved': level_pairs.improved_pairs,
  'easy': functools.partial(level_pairs.easy_pairs, k=8.0, b=1.0),
  'grid': level_pairs.grid_pairs,
}

DISTANCES = {
  'pseudo_huber': flow_losses.pseudo_huber,
  'squared': constant(flow_losses.squared_error),
}

SAMPLERS = {
  'ancestral': functools.partial(dj.ancestral, mean_shift=None),
  'ddim': dj.ddim,
  'heun': dj.heun,
  'dpm_solver_pp': dj.dpm_solver_pp,
  'dpm_solver_pp_2s': dj.dpm_solver_pp_2s,
  'dpm_solver_pp_sde': dj.dpm_solver_pp_sde,
  'unipc': dj.unipc,
  'euler_maruyama': dj.euler_maruyama,
  'velocity_heun': dj.velocity_heun,
  'velocity_sde': dj.velocity_sde,
  'reverse_diffusion': dj.reverse_diffusion,
  'annealed_langevin': dj.annealed_langevin,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierFree:
  """Guides without a classifier: uncond + scale (cond - uncond).

  See `dj.classifier_free`.

  Args:
    rescale: phi of Lin et al. 2023
    low: lowest sigma / alpha of the levels that are guided
    high: highest sigma / alpha of the levels that are guided
    channels: how many of the first channels are guided; None: all
  """

  scale: Finite
  rescale: Probability = 0.0
  low: NonNegative = 0.0
  high: NoiseRatio = float('inf')
  channels: Size | None = None

  def __post_init__(self):
    if self.low > self.high:
      raise ValueError(
        f'low={self.low} is above high={self.high}: no level would be guided'
      )

  def guide(self, pair: PairedDenoiser) -> dj.Denoiser:
    """Returns the guided denoiser of a `PairedDenoiser`."""
    interval = self.low, self.high
    return dj.classifier_free(
      pair, self.scale, self.rescale, interval, self.channels
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoguidance(ClassifierFree):
  """Guides by a worse model: worse + scale (model - worse).

  Karras et al. 2024.

  Args:
    run: the worse model's run folder
  """

  run: str


GUIDANCES = {'classifier_free': ClassifierFree, 'autoguidance': Autoguidance}


class ClassifierGuidance(NamedTuple):
  """Guides by the classifier in the run folder `run`.

  Dhariwal & Nichol 2021. after_clip: x_0 is clipped before the classifier
  guides and not after, as in their code.
  """

  run: str
  scale: Finite = 1.0
  after_clip: bool = False


class Churn(NamedTuple):
  """Adds EDM's noise before each step (Karras et al. 2022, Alg. 2).

  s_churn: the noise of all steps together. See `dj.churn`.
  """

  s_churn: NonNegative
  s_min: NonNegative = 0.0
  s_max: NoiseRatio = float('inf')
  s_noise: NonNegative = 1.0

  def around(
    self, sampler: dj.Sampler, schedule: dj.Schedule, num_steps: int
  ) -> dj.Sampler:
    """Returns the sampler with noise before each step."""
    if self.s_min > self.s_max:
      raise ValueError(
        f'churn.s_min={self.s_min} is above s_max={self.s_max}: no level would '
        'be churned'
      )
    gamma = dj.churn_gamma(self.s_churn, num_steps)
    return dj.churn(sampler, schedule, gamma, *self[1:])


class Langevin(NamedTuple):
  """Takes steps of Langevin's corrector before each step."""

  snr: Positive = 0.16
  steps: Size = 1

  def around(self, sampler: dj.Sampler) -> dj.Sampler:
    """Returns the sampler with the corrector before each step."""
    return dj.with_corrector(sampler, dj.langevin(self.snr), self.steps)


class Text(NamedTuple):
  """Lets the network read texts, byte by byte, with a small Transformer.

  length: the largest number of bytes; width, layers and heads describe the
  Transformer.
  """

  length: Size = 64
  width: Size = 64
  layers: Count = 2
  heads: Size = 4


class Latent(NamedTuple):
  """Diffuses the latents of the autoencoder in the run folder `run`.

  shape: height, width and channels; None: as in the run. scale: factor of the
  latents; None: as in the run, or else 1 / their standard deviation.
  """

  run: str
  shape: ImageShape | None = None
  scale: Positive | None = None


@dataclasses.dataclass(frozen=True)
class LogVariance:
  """Learns EDM2's u(sigma), the logarithm of the error at each level.

  Karras et al. 2024, Eq. 14 to 16. features: number of random Fourier features.
  Called with parameters and a level it returns u, [B].
  """

  features: Size = 128

  def init(self, key: jax.Array) -> Mapping[str, object]:
    """Returns the first parameters."""
    return Uncertainty(self.features).init(key, np.zeros(1))['params']

  def __call__(self, params: Any, level: dj.NoiseLevel) -> Any:
    """Returns u [B]; its input is ln(sigma / alpha) / 4 for any network."""
    variables = {'params': params['uncertainty']}
    return Uncertainty(self.features).apply(variables, dj.edm_input(level))

  constrain = staticmethod(Uncertainty.constrain)


def inpaint() -> conditions.ImageCondition:
  """Shows the network some pixels (Palette, Saharia et al. 2022)."""
  return conditions.image_condition('inpaint')


def superres(factor: Size = 2) -> conditions.ImageCondition:
  """Shows the network the image, `factor` times smaller (SR3)."""
  return conditions.image_condition('superres', factor)


def colorize() -> conditions.ImageCondition:
  """Shows the network the image in grey."""
  return conditions.image_condition('colorize')


@dataclasses.dataclass(frozen=True)
class Edit:
  """Holds what all edits have: a picture in the size of the run's images.

  Args:
    image: the file of the picture
    num_samples: number of results
    label: the class; None: no class
    output: name of the files that are written into edits/
  """

  image: str = ''
  num_samples: Size = 4
  label: Count | None = None
  output: FileName = 'edit'


@dataclasses.dataclass(frozen=True)
class Inpaint(Edit):
  """Fills in the pixels that are not white in the picture `mask`.

  Args:
    method: repaint (num_resamples times, jump steps back), replace,
      reconstruction (guidance by `scale`, with `iterations` of conjugate
      gradients), or palette, for runs with conditioning.image; None: palette
      for such runs, else repaint
  """

  mask: str = ''
  method: Literal['repaint', 'replace', 'reconstruction', 'palette'] | None = (
    None
  )
  num_resamples: Size = 10
  jump: Size = 10
  scale: NonNegative = 1.0
  iterations: Size = 1


@dataclasses.dataclass(frozen=True)
class Sdedit(Edit):
  """Adds noise and samples from there (SDEdit, Meng et al. 2022).

  Args:
    strength: 0 keeps the picture, 1 begins with noise
    repeats: how often the picture is edited
    mask: a picture whose white pixels stay unchanged
  """

  strength: Probability = 0.5
  repeats: Size = 1
  mask: str = ''


@dataclasses.dataclass(frozen=True)
class Interpolate(Edit):
  """Interpolates between two pictures along the ODE."""

  image2: str = ''


@dataclasses.dataclass(frozen=True)
class Superres(Edit):
  """Enlarges a picture `factor` times, to the size of the run's images.

  method: as for inpaint.
  """

  method: Literal['reconstruction', 'palette'] | None = None
  factor: Size = 2
  scale: NonNegative = 1.0
  iterations: Size = 1


@dataclasses.dataclass(frozen=True)
class Colorize(Edit):
  """Colours a grey picture; method: as for inpaint."""

  method: Literal['reconstruction', 'palette'] | None = None
  scale: NonNegative = 1.0
  iterations: Size = 1


DENOISERS = {
  'unet': UNet,
  'dit': DiT,
  'ddpmpp': DDPMpp,
  'edm2': EDM2,
  'vdm': ScoreNetwork,
}
CLASSIFIERS = {'classifier': NoisyClassifier}
AUTOENCODERS = {
  'autoencoder': Autoencoder,
  'hierarchical': HierarchicalAutoencoder,
}


def vdm(
  network: objectives.Network,
  make_schedule: Callable[[Any], dj.Schedule],
  num_levels: int,
  schedule: dj.Schedule | None = None,
  num_steps: Count = 0,
) -> objectives.Objective:
  """Makes VDM's bound in bits per dimension (Kingma et al. 2021).

  num_steps: T; 0: infinity. Raises ValueError for a schedule without noise at
  t = 0 or without signal at t = 1.
  """
  if schedule is not None:
    ends = [float(schedule(t).snr) for t in (0.0, 1.0)]
    if not 0.0 < min(ends) <= max(ends) < float('inf'):
      raise ValueError(
        "vdm needs noise at t = 0 and signal at t = 1, where this schedule's "
        f'SNRs are {ends[0]:g} and {ends[1]:g}: set schedule=learned, for '
        'instance'
      )
  return objectives.vdm(
    network, make_schedule, num_levels=num_levels, num_steps=num_steps or None
  )


def reflow(
  network: objectives.Network,
  schedule: dj.Schedule,
  times: TimeSampler,
  teacher: distillation.Teacher,
  weight: Weight = dj.flow_weight,
  p_t1: Probability = 0.0,
  teacher_steps: Size = 16,
) -> objectives.Objective:
  """Makes rectified flow's loss on the teacher's samples (Liu et al. 2022).

  The pairs are noise and the sample that teacher_steps of UniPC make of it.
  p_t1: the probability of t = 1.
  """
  levels = dj.level_grid(schedule, teacher_steps)
  key = stream(0, 'teacher')  # UniPC draws nothing

  def sample(denoise, x1):
    return dj.sample(key, denoise, dj.unipc(), levels, x1)

  return distillation.reflow(
    network,
    schedule,
    times=with_start(times, p_t1),
    weight=weight,
    teacher=distillation.sampling_teacher(teacher, sample),
  )


DENOISING = {
  'denoising': objectives.denoising,
  'hybrid': objectives.hybrid,
  'vlb': objectives.vlb,
  'vdm': vdm,
  'progressive_distillation': distillation.progressive_distillation,
  'reflow': reflow,
}
FLOW_MAPS = {
  'mean_flow': flow_maps.mean_flow,
  'shortcut': flow_maps.shortcut,
  'consistency_training': consistency.consistency_training,
  'consistency_distillation': consistency.consistency_distillation,
  'continuous_consistency': consistency.continuous_consistency,
}

DATA = {
  'digits': small_sets.digits,
  'shapes': shapes.shapes,
  'synthetic': small_sets.synthetic,
  'photos': photos.photos,
  'npz': npz.npz,
  'folder': image_folder.folder,
  'cifar10': tfds_sources.cifar10,
  'mnist': tfds_sources.mnist,
  'tfds': tfds_sources.tfds,
  'two_levels': sources.TwoLevels,
}

# The constructors of each field that is a choice, in any section or at a path.
TABLES = {
  'schedule': SCHEDULES,
  'network': DENOISERS,
  'objective': DENOISING,
  'noise_input': NOISE_INPUTS,
  'parametrization': PARAMETRIZATIONS,
  'latent': {'autoencoder': Latent},
  'text': {'bytes': Text},
  'conditioning.image': {
    'inpaint': inpaint,
    'superres': superres,
    'colorize': colorize,
  },
  'times': TIMES,
  'weight': WEIGHTS,
  'two_times': {'independent': flow_maps.two_times},
  'second': TIMES,
  'objective.guidance': {
    'fixed': flow_maps.fixed_guidance,
    'power_law': flow_maps.power_law_guidance,
  },
  'pairs': PAIRS,
  'distance': DISTANCES,
  'solver': {'ddim': dj.ddim, 'heun': dj.heun},
  'uncertainty': {'fourier': LogVariance},
  'sampler': SAMPLERS,
  'sampling.schedule': {  # a learned one would have no parameters
    name: make for name, make in SCHEDULES.items() if name != 'learned'
  },
  'sampling.guidance': GUIDANCES,
  'sampling.classifier': {'run': ClassifierGuidance},
  'churn': {'edm': Churn},
  'corrector': {'langevin': Langevin},
  'data': DATA,
  'data.source': {n: make for n, make in DATA.items() if n != 'two_levels'},
  'optimizer': optimizer.OPTIMIZERS,
  'edit': {
    'inpaint': Inpaint,
    'sdedit': Sdedit,
    'interpolate': Interpolate,
    'superres': Superres,
    'colorize': Colorize,
  },
}

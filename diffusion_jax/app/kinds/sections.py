"""The sections of a config that have a single constructor."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from diffusion_jax import ranges
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.sampling import Bound, Guidance, Respaced, Steps
from diffusion_jax.app.kinds.training import Training
from diffusion_jax.core.denoiser import clip_denoised
from diffusion_jax.core.levels import Schedule
from diffusion_jax.declared import declares
from diffusion_jax.networks.inputs import ContextEncoder, Text
from diffusion_jax.paths import ReadPath, RunPath, WritePath
from diffusion_jax.ranges import (
  Count,
  Finite,
  ImageShape,
  Positive,
  Probability,
  Rate,
  Rows,
  Rule,
  Size,
)
from diffusion_jax.sampling.correctors import AncestralNoise, Churn, Langevin
from diffusion_jax.training.averaging import Width
from diffusion_jax.training.conditions import ImageCondition

Seed = Annotated[int, Rule('in 0..2^32 - 1', lambda seed: 0 <= seed < 2**32)]
Port = Annotated[int, Rule('a port, 0..65535', lambda port: 0 <= port < 2**16)]
Split = Literal['train', 'test', 'validation']
Suffix = Annotated[str, Rule(ranges.FILE, lambda name: not name or ranges.is_file_name(name))]
Checkpoint = Annotated[
  str, Rule('latest, best or a step', lambda name: name in ('latest', 'best') or name.isdecimal())
]


@dataclass(frozen=True, kw_only=True)
class Top:
  """Holds the fields that are in no section."""

  seed: Seed = 0  # for parameters, noise and the order of the data
  # folder of compiled programs, for faster starts; None:
  # $XDG_CACHE_HOME/diffusion_jax/compiled; '': they are not kept
  compilation_cache: WritePath | None = None
  # precision of float32 products (docs/performance.md)
  matmul_precision: Literal['default', 'high', 'highest'] = 'default'


@dataclass(frozen=True, kw_only=True)
class Data:
  """Holds the fields that every data set has besides its own (docs/data.md)."""

  # part of the training examples, drawn by the seed, that chooses the best
  # checkpoint in place of the test split
  validation_fraction: Rate = 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Says what is measured, and on which images (docs/evaluation.md)."""

  # for real data: elbo, ode, loss, independent_pixels, for a VAE also iw, for a
  # classifier accuracy; for samples: fid, sfid, fd, kid, is, pr (precision,
  # recall), dc (density, coverage), cmmd, accuracy, memorisation, c2st,
  # sliced_w2, energy, moments; with a context: sbc, interval_coverage,
  # density_coverage, tarp, contraction, regression; or module:metric; auto:
  # what these data allow, likelihoods or also others (docs/evaluation.md)
  metrics: tuple[str, ...] = ('auto',)
  split: Split = 'test'
  num_images: Count = 0  # the first images of the split; 0: all
  batch_size: Size = 100
  seed: Seed = 0
  num_generated: Rows = 50_000  # images to generate
  # inception, dinov2, digits, two_levels, classifier, shapes, pixels, values;
  # of metrics without features of their own, such as evaluation.kid.features;
  # '': inception of pictures, values of other data
  features: str = ''
  # file with the weights of inception or dinov2, or a folder with both, '':
  # $DIFFUSION_JAX_WEIGHTS; of classifier: a file of convert.to=stablehlo
  weights: ReadPath = ''
  # what samples are compared to: train, test, an npz file with x, or one of
  # published mu and sigma, for fd and fid; others take train (docs/evaluation.md)
  reference: ReadPath = 'train'
  num_pairs: Rows = 300  # held-out examples with a context, for the metrics of calibration
  draws_per_pair: Rows = 49  # samples for the context of each
  floor: bool = False  # also scores up to as many examples of the other split than reference
  # several values for fields of `sampling`; every combination is a row of one
  # table: 'num_steps=10,20 sampler=ddim,heun guidance.scale=1,2'
  sweep: str = ''
  name: Suffix = ''  # appended to the folder of the results


def of_metrics(evaluation: Node) -> dict[str, Node]:
  """Returns the sections of evaluation.metrics by the names that choose them.

  Without the ones that are not known yet: auto, and what may not be imported.
  """
  metrics = {name: evaluation.get(name.rpartition(':')[2]) for name in evaluation.metrics}
  return {name: section for name, section in metrics.items() if section is not None}


class ClassifierGuidance(NamedTuple):
  """Guides by the classifier in the run folder `run`.

  Dhariwal & Nichol 2021. after_clip: x_0 is clipped before the classifier
  guides and not after, as in their code.
  """

  run: RunPath
  scale: Finite = 1.0
  after_clip: bool = False


@declares(fields={'context': 'context'}, instead='leave it out')
@dataclass(frozen=True, kw_only=True)
class Sampling:
  """Says how many images are drawn, and by which weights (docs/samplers.md)."""

  num_samples: Rows = 100
  batch_size: Size = 100
  labels: tuple[Count | str, ...] = ()  # classes to sample in turn, by number or name; (): all
  # texts of the pictures in turn, separated by |; None: texts of the test split
  prompt: str | None = None
  # npy or npz file of real numbers, each row a condition of num_samples
  # samples; '': of held-out examples
  context: ReadPath = ''
  context_row: Count | None = None  # the only row that is taken, from 0; None: all
  weights: Node  # averaged parameters, or the parameters of the last step
  checkpoint: Checkpoint = 'latest'  # latest, best, or a step
  seed: Seed = 0  # image i depends on the seed and i
  trajectory: bool = False  # also a GIF of how the first ten images emerge
  profile: bool = False  # draws the first batch twice more, for a trace for xprof
  name: Suffix = ''  # of the files in samples/; '': samples and what differs from the run


@dataclass(frozen=True, kw_only=True)
class DenoiserSampling(Sampling):
  """Says how a diffusion model draws images (docs/samplers.md)."""

  # the step between two levels
  sampler: Node  # made with the schedule, for each sampling
  grid: Steps | Respaced  # the levels that are visited
  schedule: Schedule | None = None  # another schedule whose levels are visited
  guidance: Guidance | None = None  # by the condition, or by a worse run
  classifier: ClassifierGuidance | None = None  # guidance by a classifier
  bound: Bound | None = clip_denoised  # of estimates of x_0
  churn: Churn | None = None  # noise before each step
  ancestral_noise: AncestralNoise | None = None  # noise after each step of a solver of the ODE
  corrector: Langevin | None = None  # Langevin steps before each step

  def __post_init__(self):
    before_clip = self.classifier is not None and self.classifier.after_clip
    if before_clip and self.bound is None:
      raise ValueError('classifier.after_clip needs a bound, such as bound=clip')


@dataclass(frozen=True, kw_only=True)
class Average:
  """Says which average --mode=average makes (docs/training.md)."""

  sigma_rel: Width | None = None  # the width
  step: Count | None = None  # step of a snapshot; None: the latest
  out: WritePath = ''  # the run folder to write; '': averages/<sigma_rel>-<step> of the run


@dataclass(frozen=True, kw_only=True)
class Convert:
  """Says which weights --mode=convert reads or writes (docs/weights.md)."""

  source: ReadPath = ''  # the folder or file of weights that become a run
  format: str = ''  # diffusers, openai, score_sde, edm, edm2, safetensors; '': recognised
  model: str = ''  # openai, score_sde: the name of a published model
  options: str = ''  # options of the format: 'image_size=64 class_cond=True'
  # exports the run as diffusers, safetensors, stablehlo or huggingface; lora:
  # only its adapters
  to: str = ''
  out: WritePath = ''  # the folder or file to write
  label: int | None = None  # diffusers: the class to build in; -1: none


@dataclass(frozen=True, kw_only=True)
class Report:
  """Says what report.html compares and draws (docs/training.md)."""

  runs: tuple[RunPath, ...] = ()  # folders of further runs, for comparison
  after_training: bool = True  # write report.html when a training ends
  trajectory: bool = True  # draw ten images step by step


@dataclass(frozen=True, kw_only=True)
class Serve:
  """Says where --mode=serve opens its page (docs/program.md)."""

  port: Port = 8008  # of http://127.0.0.1; 0: any free one
  num_images: Size = 20  # how many are drawn at a time


@declares(data='pictures')
class Latent(NamedTuple):
  """Diffuses the latents of the autoencoder in the run folder `run`.

  shape: height, width and channels; None: as in the run. scale: factor of the
  latents; None: as in the run, or else 1 / their standard deviation. path: the
  folder of stored latents, which --mode=encode writes and a training reads; '':
  each step encodes its images.
  """

  run: RunPath
  shape: ImageShape | None = None
  scale: Positive | None = None
  path: ReadPath = ''


@declares(fields={'augment': 'pictures', 'self_conditioning': 'levels'})
@dataclass(frozen=True, kw_only=True)
class Conditioning:
  """Says what the network sees besides x_t and its level."""

  labels: bool | None = None  # the class; None: if data.labelled or data.num_classes ask for it
  text: Text | None = None  # a sentence
  image: ImageCondition | None = None  # an image computed from the example
  # real numbers that the data have for each example, as the network reads them;
  # auto: by their shape (docs/arrays.md); if_any: auto for data with a context,
  # None for others
  context: ContextEncoder | None = None
  # some numbers of the example, for any conditional of a joint distribution
  # (docs/inference.md)
  known: ImageCondition | None = None
  # probability that training hides labels, text, image and context; None: 0.1
  # with labels=None that the data ask for, else 0
  dropout: Probability | None = None
  self_conditioning: bool = False  # the previous estimate of x_0 (Chen et al. 2022)
  augment: Probability = 0.0  # probability of each of EDM's augmentations, which the network sees

  def __post_init__(self):
    given = self.labels, self.text, self.image, self.context
    if self.dropout and not any(given):
      raise ValueError(
        f'dropout={self.dropout} has no effect without labels, text, image or context: set it to 0'
      )
    if self.known is not None and self.context is not None:
      raise ValueError(
        'known=subsets has the context in x: set context=None, and data.joint=True for a simulator'
      )
    if self.augment and self.image is not None:
      raise ValueError(
        'augment changes the images that image shows unchanged: set augment=0 or image=None'
      )


# The sections that every config has, by path.
COMMON = {
  '': Top,
  'training': Training,
  'evaluation': Evaluation,
  'sampling': Sampling,
  'average': Average,
  'convert': Convert,
  'report': Report,
  'serve': Serve,
}

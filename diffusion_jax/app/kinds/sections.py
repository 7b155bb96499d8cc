"""The sections of a config that have a single constructor."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.sampling import Sampling
from diffusion_jax.app.kinds.training import Training
from diffusion_jax.declared import Free, OfTraining, Unsaid, Use, declares
from diffusion_jax.paths import ReadPath, RunPath, WritePath
from diffusion_jax.ranges import (
  Count,
  ImageShape,
  Port,
  Positive,
  Rate,
  Rows,
  Seed,
  Several,
  Size,
  Suffix,
)
from diffusion_jax.training.averaging import Width

Split = Literal['train', 'test', 'validation']
Precision = Annotated[Literal['default', 'high', 'highest'], Use.FREE | Use.COMPUTING]


@dataclass(frozen=True, kw_only=True)
class Top:
  """Holds the fields that are in no section."""

  seed: Seed = 0  # for parameters, noise and the order of the data
  # folder of compiled programs, for faster starts; None:
  # $XDG_CACHE_HOME/diffusion_jax/compiled; '': they are not kept
  compilation_cache: Annotated[WritePath | None, Use.FREE | Use.USING | Use.LOCAL] = None
  # precision of float32 products (docs/performance.md)
  matmul_precision: Precision = 'default'


@dataclass(frozen=True, kw_only=True)
class Data:
  """Holds the fields that every data set has besides its own (docs/data.md)."""

  # part of the training examples, drawn by the seed, that chooses the best
  # checkpoint in place of the test split
  validation_fraction: Rate = 0.0
  # all real numbers of x have one std, so that distances keep their ratios, as
  # of points in space; False: each of the last axis has its own
  one_scale: OfTraining[bool] = False


# The fields of data that read labels, and how they are set.
LABELS = {
  'labelled': 'data.labelled=True, whose classes are the sub-folders,',
  'num_classes': 'data.num_classes to their number',
  'label': 'data.label to the column of the classes',
  '': 'data to a set with labels',
}


def label_field(section: Node | None) -> str:
  """Returns the field of a section of data that reads labels; '' for none."""
  section = of_examples(section)
  return next((name for name in LABELS if name in (section or ())), '')


def asks_for_labels(section: Node | None) -> bool:
  """Returns whether the field of a section that reads labels is set."""
  if section is None or not (name := label_field(section)):
    return False
  inner = of_examples(section)
  assert inner is not None
  default = parameters(inner.constructor)[name].default
  return bool(inner[name]) and inner[name] != default


def of_examples(section: Node | None) -> Node | None:
  """Returns the section that says where examples are from, which another may wrap."""
  return section and section.get('target', section.get('source', section))


@declares(uses=Use.USING)
@dataclass(frozen=True, kw_only=True)
class Evaluation:
  """Says what is measured, and on which images (docs/evaluation.md)."""

  # of real data, of samples, or with a context (docs/evaluation.md); or module:metric;
  # auto: what these data allow, likelihoods or also others
  metrics: Unsaid[tuple[str, ...]] = ('auto',)
  split: Split = 'test'
  num_images: Unsaid[Count] = 0  # the first images of the split; 0: all
  batch_size: Size = 100
  seed: Seed = 0
  num_generated: Unsaid[Rows] = 50_000  # images to generate
  # inception, dinov2, digits, two_levels, classifier, shapes, pixels, values;
  # of metrics without features of their own, such as evaluation.kid.features;
  # '': inception of pictures, values of other data
  features: str = ''
  # file with the weights of inception or dinov2, or a folder with both, '':
  # $DIFFUSION_JAX_WEIGHTS; of classifier: a file of convert.to=stablehlo
  weights: ReadPath = ''
  # what samples are compared to: train, test, an npz file with x, or one of
  # published mu and sigma, for fd and fid; others take train (docs/evaluation.md)
  reference: Unsaid[ReadPath] = 'train'
  num_pairs: Unsaid[Rows] = 300  # held-out examples, for the metrics of draws given a part of them
  # with objective.levels: how many first elements are given; None: a half, or all but
  # objective.levels.parameters
  num_given: Unsaid[Size | None] = None
  draws_per_pair: Unsaid[Rows] = 49  # samples for the context of each
  # also scores up to as many examples of the other split than reference
  floor: Unsaid[bool] = False
  # several values for fields of `sampling`; every combination is a row of one
  # table: 'num_steps=10,20 sampler=ddim,heun guidance.scale=1,2'; explain compares them
  # with what is drawn
  sweep: str = ''
  name: Suffix = ''  # appended to the folder of the results


def of_metrics(evaluation: Node) -> dict[str, Node]:
  """Returns the sections of evaluation.metrics by the names that choose them.

  Without the ones that are not known yet: auto, and what may not be imported.
  """
  metrics = {name: evaluation.get(name.rpartition(':')[2]) for name in evaluation.metrics}
  return {name: section for name, section in metrics.items() if section is not None}


@declares(uses=Use.USING | Use.LOCAL)
@dataclass(frozen=True, kw_only=True)
class Average:
  """Says which average --mode=average makes (docs/training.md)."""

  sigma_rel: Width | None = None  # the width
  step: Count | None = None  # step of a snapshot; None: the latest
  out: WritePath = ''  # the run folder to write; '': averages/<sigma_rel>-<step> of the run


@declares(uses=Use.USING | Use.LOCAL)
@dataclass(frozen=True, kw_only=True)
class Trainings:
  """Says how many trainings --mode=band makes (docs/training.md)."""

  trainings: Several = 5  # their number; the first has the seed of the config, the next one more


@declares(uses=Use.USING | Use.LOCAL)
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
  label: str | Count | None = None  # diffusers: the class to build in; '#null': the null class


@declares(uses=Use.USING | Use.LOCAL)
@dataclass(frozen=True, kw_only=True)
class Report:
  """Says what report.html compares and draws (docs/training.md)."""

  runs: tuple[RunPath, ...] = ()  # folders of further runs, for comparison
  after_training: bool = True  # write report.html when a training ends
  trajectory: bool = True  # draw ten images step by step


@declares(uses=Use.USING)
@dataclass(frozen=True, kw_only=True)
class Serve:
  """Says where --mode=serve opens its page (docs/program.md)."""

  port: Port = 8008  # of http://127.0.0.1; 0: any free one
  num_images: Size = 20  # how many are drawn at a time


@declares(data='pictures', uses=Use.TRAINING)
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
  path: Free[ReadPath] = ''


# The sections that every config has, by path.
COMMON = {
  '': Top,
  'training': Training,
  'evaluation': Evaluation,
  'sampling': Sampling,
  'average': Average,
  'band': Trainings,
  'convert': Convert,
  'report': Report,
  'serve': Serve,
}

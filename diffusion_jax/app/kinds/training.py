"""The section `training` and the parts within it (docs/training.md)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusion_jax.app.config.schema import Constructors
from diffusion_jax.app.config.tree import Node
from diffusion_jax.declared import Free, Use, declares
from diffusion_jax.paths import ReadPath, RunPath
from diffusion_jax.ranges import Count, Positive, Size
from diffusion_jax.training import averaging


@dataclass(frozen=True, kw_only=True)
class Weights:
  """Begins with the averaged weights of a run (docs/weights.md)."""

  run: RunPath  # its folder


@dataclass(frozen=True, kw_only=True)
class Adapters(Weights):
  """Trains adapters of a run's weights and nothing else (docs/training.md)."""

  rank: Size = 8
  alpha: Positive | None = None  # adapters are multiplied by alpha / rank; None: by 1
  convolutions: bool = False  # adapters of convolutions too


@dataclass(frozen=True, kw_only=True)
class HeldOut:
  """Measures losses on the validation part, else on the test split."""

  every: Size = 1000  # steps
  batches: Size = 8  # each of training.batch_size held-out images
  patience: Count = 0  # steps without a lower loss that end a training; 0: none do


def held_out_batches(training: Node) -> int:
  """Returns the number of batches of the held-out loss, and of the losses beside it.

  The best checkpoint may need this loss where training.held_out is None.
  """
  return (training.held_out or HeldOut()).batches


@dataclass(frozen=True, kw_only=True)
class Generated:
  """Measures evaluation.metrics of generated images."""

  every: Size = 1000  # steps
  images: Size = 1000  # their number


@dataclass(frozen=True, kw_only=True)
class Best:
  """Also keeps the best checkpoints, and measures each."""

  number: Size = 1
  by: str | None = None  # a metric, such as fid; None: the held-out loss


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
  """Says which checkpoints are written, and which of them are kept."""

  every: Count = 1000  # steps; 0: only at the end
  keep: Size = 2  # the latest
  multiples: Count = 0  # also each twentieth, for 20; 0: none
  best: Best | None = None


@dataclass(frozen=True, kw_only=True)
class Trace:
  """Traces steps, for xprof (docs/performance.md)."""

  first: Size = 10
  steps: Size = 5  # their number


@dataclass(frozen=True, kw_only=True)
class Machine:
  """Says how the machine computes a training, which its result does not depend on."""

  # devices (data, fsdp): every batch is split over all of them, large
  # parameters over the second; -1: all that are left
  mesh: Annotated[tuple[int, int], Use.COMPUTING] = (-1, 1)
  accumulate: Size = 1  # parts of the batch, evaluated one after the other
  # parts of the batch whose gradients are added in one order: the same weights, bit for
  # bit, on any number of devices that divides it (docs/running.md)
  fixed_parts: Size | None = None
  num_threads: Count = 8  # threads that read ahead, for images on disk
  # fast: less time to compile, slower steps; tuned: the reverse; auto: fast up
  # to 2,000 steps
  compile: Literal['auto', 'fast', 'tuned'] = 'auto'
  # compiles the test loss and the sampler while the first steps run
  compile_ahead: bool = True
  deterministic: bool = False  # the same numbers at every start on GPUs too, which is slower
  # seconds without a heartbeat after which a process of --multihost is lost
  heartbeat_timeout: Size = 30
  trace: Trace | None = None


@declares(fields={'random_flip': 'pictures'})
@dataclass(frozen=True, kw_only=True)
class Training:
  """Says how a model is trained (docs/training.md)."""

  num_steps: Free[Size] = 1000
  batch_size: Size = 128  # on all devices and hosts together
  # steps per dispatch, for small networks; logs and saves keep their steps
  steps_per_call: Free[Size] = 1
  random_flip: bool = False  # mirrors half of the images
  start: Weights | None = None  # the weights that the training begins with; None: random ones
  teacher: RunPath = ''  # folder of the diffusion run that is distilled (docs/few_steps.md)
  average: Node  # of the parameters, which previews, held-out losses and samples use
  log_every: Free[Count] = 100  # steps; 0: never
  # prints quarters of t, all exact losses, the phases of the start, and FLOP/s
  verbose: Free[bool] = False
  # tensorboard, wandb, your own module:logger, or several; metrics.jsonl is
  # written anyway (docs/training.md)
  log_to: Free[tuple[str, ...]] = ('tensorboard',)
  held_out: Free[HeldOut | None] = None
  # file of --mode=band, what trainings of this config measured with other seeds: a line
  # says where a held-out loss is expected, and the report draws it; '': neither
  band: Free[ReadPath] = ''
  metrics: Free[Generated | None] = None
  sample_every: Free[Count] = 1000  # steps between previews; 0: none
  checkpoints: Free[Checkpoints]
  machine: Free[Machine]
  # steps in a row that may be skipped because loss or gradient is not finite
  skip_nonfinite: Free[Count] = 0
  resume: Free[Literal['auto', 'force']] = 'auto'  # force: continue although the config differs


TABLES: dict[str, Constructors] = {
  'training.start': {'weights': Weights, 'adapters': Adapters},
  'training.average': {
    x.__name__: x for x in (averaging.decay, averaging.half_life, averaging.powers)
  },
  'training.held_out': {'loss': HeldOut},
  'training.metrics': {'generated': Generated},
  'training.checkpoints': {'steps': Checkpoints},
  'checkpoints.best': {'lowest': Best},
  'training.machine': {'own': Machine},
  'machine.trace': {'steps': Trace},
}

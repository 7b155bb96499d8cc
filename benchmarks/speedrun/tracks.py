"""Tracks of the speedrun, and the tricks that flags of a config can say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.data import image_sets
from diffusion_jax.metrics.judges import digits_judge

# What no trick changes: the program does nothing but train.
ONLY_TRAINING = {
  'training.sample_every': '0',
  'training.held_out': '',
  'training.checkpoints.every': '0',
  'report.after_training': 'False',
}
FLOW = (
  'schedule=flow noise_input=time noise_input.scale=1000 parametrization=flow '
  'objective.weight=flow sampling.bound='
)
DIT = 'network=dit network.channels=96 network.num_blocks=4 network.num_heads=4'


class Track(NamedTuple):
  """Data with a judge, and recipes for them.

  config: the file that records and tricks change. records: {name: flags}, the
  first one is the oldest. base: flags of the recipe to which each of `tricks`,
  {name: flags}, is added. metrics: flags of the evaluation. accuracy: of the
  samples of an evaluated run, in per cent.
  """

  config: str
  records: dict[str, str]
  base: str
  tricks: dict[str, str]
  metrics: tuple[str, ...]
  accuracy: Callable[[Path], float]


def fields_of(*flags: str) -> dict[str, str]:
  """Returns {field: text} of flags a=1 b=2; later ones replace earlier ones."""
  pairs = (flag.partition('=') for text in flags for flag in text.split())
  return {name: text for name, _, text in pairs}


def read_by_svm(run: Path) -> float:
  """Returns the per cent of samples that the judge of the digits reads as requested."""
  (samples,) = run.glob('evaluation/drawn/samples*[0-9a-f].npz')  # the others are features
  found = image_sets.read(str(samples))
  (images,) = found.batches(found.shape[0])
  return 100 * digits_judge.judge(images, found.arrays['labels'])['accuracy']


def read_by_classifier(run: Path) -> float:
  """Returns the per cent that the classifier of evaluation.weights reads as requested."""
  (path,) = run.glob('evaluation/accuracy-*/result.json')
  (score,) = json.loads(path.read_text())['metrics'].values()
  return 100 * score['value']


DIGITS = Track(
  config='configs/digits.py:long',
  records={
    'first': 'training.num_steps=1750 optimizer.learning_rate=8e-3 optimizer.decay=linear',
    'cosine, v': 'training.num_steps=900 optimizer.learning_rate=8e-3 optimizer.decay=linear '
    'schedule=cosine parametrization=v objective.weight=truncated_snr',
  },
  base='training.num_steps=450 optimizer.learning_rate=8e-3 optimizer.decay=linear',
  tricks={
    'v': 'parametrization=v objective.weight=v',
    'x0': 'parametrization=x0 objective.weight=truncated_snr',
    'x0, min-SNR': 'parametrization=x0 objective.weight=min_snr',
    'min-SNR': 'objective.weight=min_snr',
    'antithetic times': 'objective.times=antithetic',
    'cosine': 'schedule=cosine',
    'cosine, v': 'schedule=cosine parametrization=v objective.weight=truncated_snr',
    'flow': f'{FLOW} objective.times=uniform',
    'flow, logit-normal times': f'{FLOW} objective.times=logit_normal',
    'Muon': 'optimizer=muon optimizer.warmup_steps=100',
    'rate 4e-3': 'optimizer.learning_rate=4e-3',
    'rate 1.6e-2': 'optimizer.learning_rate=1.6e-2',
    'batch 32, 900 steps': 'training.batch_size=32 training.num_steps=900',
    'batch 128, 225 steps': 'training.batch_size=128 training.num_steps=225 '
    'optimizer.warmup_steps=50',
    'warm-up of 20 steps': 'optimizer.warmup_steps=20',
    'constant rate': 'optimizer.decay=constant',
    '24 channels': 'network.channels=24',
    '48 channels': 'network.channels=48',
    'two blocks': 'network.num_blocks=2',
    'no attention': 'network.attention_resolutions= network.middle_attention=none',
    'self-conditioning': 'conditioning.self_conditioning=True',
    'average of decay 0.97': 'training.average.decay=0.97',
    'average of decay 0.9': 'training.average.decay=0.9',
    **{
      f'average of width {width}{after}': 'training.average=powers '
      'training.average.widths=0.05,0.1 '
      f'sampling.weights=width sampling.weights.sigma_rel={width}'
      for width, after in ((0.05, ''), (0.1, ''), (0.2, ', made after training'))
    },
    'no label dropout': 'conditioning.dropout=0',
    'bfloat16': 'network.dtype=bfloat16',
    'DiT': DIT,
    'DiT, rate 2e-3': f'{DIT} optimizer.learning_rate=2e-3',
    'DiT, SwiGLU': f'{DIT} network.mlp=swiglu',
    'DiT, registers': f'{DIT} network.registers=4',
    'DiT, value residual': f'{DIT} network.value_residual=True',
    'DiT, routing': f'{DIT} network.routing_ends=1 network.routing=0.5',
  },
  metrics=('evaluation.metrics=fd',),
  accuracy=read_by_svm,
)

MNIST = Track(
  config='configs/mnist.py',
  records={'first': 'training.num_steps=2000'},
  base='training.num_steps=2000',
  tricks={},
  metrics=('evaluation.metrics=fd,accuracy', 'evaluation.features=classifier'),
  accuracy=read_by_classifier,
)

TRACKS = {'digits': DIGITS, 'mnist': MNIST}

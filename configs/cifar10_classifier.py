r"""A classifier of noisy CIFAR-10 (Dhariwal & Nichol 2021) that guides a run.

The paper's recipe for larger pictures, docs/weights.md, at 32:
width 128, attention at 16 and 8, AdamW 3e-4 falling to 0, batch 256, no average
of the parameters. Images are flipped, but not cropped as in the release. The
noise is the same as in cifar10.py. Not trained here yet: not measured.

  python launch.py --config=configs/cifar10_classifier.py
  python launch.py --config=configs/cifar10_classifier.py --mode=evaluate
  python launch.py --config=configs/cifar10.py --mode=sample \
    --config.sampling.classifier=runs/cifar10_classifier
"""

from configs import cifar10
from configs.base import section


def get_config():
  config = cifar10.shared()
  config.network = section('classifier', head_channels=64, downsample_padding='same')
  config.objective = section('classifier')
  config.optimizer.update(
    learning_rate=3e-4,
    warmup_steps=0,
    decay='linear',
    weight_decay=0.05,
    weight_decay_mask='all',
    clip_norm=0.0,
  )
  config.training.update(num_steps=300_000, batch_size=256)
  config.training.average.decay = 0.0  # no average
  config.training.update(sample_every=0, held_out=section(every=5000))
  config.evaluation.metrics = ('accuracy',)
  return config

r"""Class-conditional DDPM on the real digits that ship with scikit-learn.

The cosine schedule with T = 1000, v is predicted; a U-Net of 702,753 parameters.
Measured: 72 s on two CPU cores. A classifier assigns 98.2 +- 0.1 % of the samples of
five trainings to the requested class, and 99.4 % of the real test digits to
theirs (benchmarks/speedrun). :long has DDPM's linear betas and
L_simple, in 2,500 steps, as for the guides' figures.

  python launch.py --config=configs/digits.py
  python launch.py --config=configs/digits.py --mode=sample
  python launch.py --config=configs/digits.py:smoke             # seconds
  python launch.py --config=configs/digits.py --sweep_index=0   # of six

:inpainting gets the known pixels and their mask instead of the class (Palette,
Saharia et al. 2022), 701,921 parameters. Measured: the lower half of each of
the 360 test digits was filled in, and a classifier assigns 81.7 % +- 2.0 of the
results to the original class, and 99.4 % of the digits themselves to theirs
(docs/results.md). :superres gets the means over 2x2 pixels (SR3,
Saharia et al. 2021): 4x4 -> 8x8.

  python launch.py --config=configs/digits.py:inpainting --mode=edit \
    --config.edit.image=digit.png --config.edit.mask=mask.png
  python launch.py --config=configs/digits.py:superres --mode=edit \
    --config.edit=superres --config.edit.image=small.png
"""

from configs import base
from configs.base import section

VARIANTS = 'long', 'inpainting', 'superres'


def shared():
  """The data, width and training that experiments with the digits share."""
  config = base.short(3000, steps_per_call=10, sample_every=1000, checkpoints=section(every=1000))
  config.data = section('digits')
  config.network = section('unet', channels=32, multipliers=(1, 2), num_groups=8)
  return config


def conditional():
  """The model of labelled digits, and 2,500 steps of training."""
  config = shared()
  config.network.update(num_blocks=1, attention_resolutions=(4,))
  config.conditioning = section(labels=True, dropout=0.1)
  config.optimizer.learning_rate = 4e-3
  config.training.update(num_steps=2500, sample_every=500, checkpoints=section(every=500))
  config.sampling.sampler = section('ddim', eta=1.0)
  config.sampling.num_steps = 100
  return config


def get_config(arg=''):
  config = conditional()
  if arg == 'inpainting':
    config.conditioning = section(image='inpaint')
  elif arg == 'superres':
    config.conditioning = section(image='superres')
  elif arg != 'long':  # fewer steps, no difference seen (benchmarks/speedrun)
    config.schedule = section('cosine')
    config.parametrization = section('v')
    config.objective = section('denoising', weight='truncated_snr')
    config.optimizer.update(learning_rate=8e-3, decay='linear')
    every = section(every=450)
    config.training.update(num_steps=900, sample_every=450, checkpoints=every, held_out=every)
    config.training.band = 'configs/bands/digits.json'
  return config


def sweep():
  """Three learning rates, with and without label dropout."""
  for dropout in (0.1, 0.0):
    for learning_rate in (2e-3, 8e-3, 3.2e-2):
      yield {'optimizer.learning_rate': learning_rate, 'conditioning.dropout': dropout}

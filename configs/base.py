"""What experiments have in common.

A section holds the parameters of a constructor, such as
`config.network = section('unet', channels=32)`; what is left out keeps the
default of the constructor. `python launch.py --help_mode=train` prints them.
"""

from ml_collections import ConfigDict


def section(name=None, **fields):
  """Returns a section: parameters, and the name of a choice if there is one."""
  return ConfigDict({'name': name, **fields} if name else fields)


def get_config():
  """Returns empty sections; each experiment adds data, network and so on."""
  names = 'training', 'sampling', 'evaluation', 'average', 'convert', 'report'
  config = ConfigDict({name: section() for name in names})
  config.training.update(average=section(), checkpoints=section(), machine=section())
  return config


def short(num_steps, every=500, learning_rate=2e-3, **training):
  """Returns a config whose training takes minutes: AdamW with a cosine.

  every: steps between evaluations, samples and checkpoints, by default.
  training: the other fields of this section.
  """
  config = get_config()
  config.optimizer = section('adamw', learning_rate=learning_rate, warmup_steps=100, decay='cosine')
  config.training.update(num_steps=num_steps, batch_size=64)
  config.training.average.decay = 0.999
  config.training.held_out = section(every=every)
  config.training.checkpoints.every = every
  config.training.sample_every = every
  config.training.update(training)
  return config


def rectified_flow(config, times='uniform', scale=1000.0):
  """Sets a straight path from data to noise, whose velocity is predicted.

  times: the distribution of the training's levels; scale: of the network's
  input, scale * t.
  """
  config.schedule = section('flow')
  config.noise_input = section('time', scale=scale)
  config.parametrization = section('flow')
  config.objective = section('denoising', times=times, weight='flow')
  config.sampling.sampler = section('ddim')  # Euler's method here
  config.sampling.bound = None
  return config


def edm(config, num_steps=18, times='log_normal', sigma_data=0.5):
  """Sets EDM (Karras et al. 2022), whose sampler has 2 num_steps - 1 calls.

  times: the distribution of the training's levels; sigma_data: the deviation of
  the data.
  """
  config.schedule = section('karras')
  config.noise_input = section('edm')
  config.parametrization = section('edm', sigma_data=sigma_data)
  config.objective = section('denoising', times=times, weight='edm')
  config.sampling.sampler = section('heun')
  config.sampling.update(num_steps=num_steps, bound=None)
  return config


def edm_of_numbers(config):
  """Sets EDM for real numbers, which have variance 1.

  The published levels are for images of the deviation 0.5; those here are for
  twice as much, with a smaller largest one.
  """
  # with 25 steps the std is 0.7 % too large
  config = edm(config, 40, section('log_normal', mean=-0.6, std=1.4), 1.0)
  config.schedule.sigma_max = 40.0
  return config


def as_flow_map(config):
  """Returns the config of a denoiser without what flow maps do not have."""
  del config.parametrization
  for field in ('sampler', 'bound'):
    del config.sampling[field]
  return config

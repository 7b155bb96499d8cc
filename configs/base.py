"""The plain fields of every experiment, with the values most of them share.

All other sections hold the name and the parameters of a constructor, such as
`config.network = section('unet', channels=32)`; what is left out keeps the
default of the constructor. `python launch.py --help_mode=train` prints them.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def section(name=None, **fields):
  """Returns a section: parameters, and the name of a choice if there is one."""
  return ConfigDict({'name': name, **fields} if name else fields)


def get_config():
  """Returns the plain fields; each experiment adds data, network and so on."""
  config = ConfigDict()
  config.seed = 0  # for parameters, noise and the order of the data
  # folder of compiled programs, for faster starts; None:
  # $XDG_CACHE_HOME/diffusion_jax/compiled; '': they are not kept
  config.compilation_cache = placeholder(str)
  # precision of float32 products: default, high, highest (docs/performance.md)
  config.matmul_precision = 'default'

  # --mode=train (docs/training.md)
  training = config.training = ConfigDict()
  training.num_steps = 1000
  training.batch_size = 128  # on all devices and hosts together
  training.accumulate = 1  # parts of the batch, evaluated one after the other
  # steps per dispatch, for small networks; logs and saves keep their steps
  training.steps_per_call = 1
  # devices (data, fsdp): every batch is split over all of them, large
  # parameters over the second; -1: all that are left
  training.mesh = (-1, 1)
  training.random_flip = False  # mirrors half of the images
  training.num_threads = 8  # threads that read ahead, for images on disk
  # folder of the run whose weights the training begins with (docs/weights.md)
  training.init_from = ''
  # folder of the diffusion run that is distilled (docs/few_steps.md)
  training.teacher = ''
  training.ema_decay = 0.9999
  training.more_ema_decays = ()  # decays of further averages
  training.ema_warmup = False  # decay min(ema_decay, (1 + step) / (10 + step))
  training.ema_half_life = placeholder(float)  # in images, instead of the decay
  # the half-life is at most this part of the images so far; 0: no limit
  training.ema_rampup = 0.0
  # relative widths of averages by a power of time, such as 0.05,0.10; any
  # other width can be made of their snapshots afterwards (docs/training.md)
  training.ema_sigma_rels = ()
  training.snapshot_every = 0  # steps, such as num_steps / 32
  # the largest number, besides the latest; with more, the interval doubles
  training.keep_snapshots = 32
  training.log_every = 100  # steps; 0: never, here and below
  training.evaluate_every = 0  # losses on the test split
  training.evaluate_batches = 8  # each of training.batch_size test images
  training.metrics_every = 0  # evaluation.metrics of generated images
  training.metrics_images = 1000  # number of images for metrics_every
  training.sample_every = 1000
  training.checkpoint_every = 1000
  training.keep_checkpoints = 2  # the latest
  training.keep_every = 0  # also those at multiples of this step
  training.keep_best = 0  # also the best ones, by keep_best_by
  training.keep_best_by = 'test_loss'  # or a metric, such as fid
  # seconds without a heartbeat after which a process of --multihost is lost
  training.heartbeat_timeout = 30
  # steps in a row that may be skipped because loss or gradient is not finite
  training.skip_nonfinite = 0
  training.resume = 'auto'  # force: continue although the config differs

  # --mode=evaluate,train (docs/evaluation.md)
  evaluation = config.evaluation = ConfigDict()
  # for real images: elbo, ode, independent_pixels, for a VAE also iw, for a
  # classifier accuracy; for generated images: fid, sfid, fd, kid, is, pr
  # (precision, recall), dc (density, coverage), cmmd, accuracy, memorisation,
  # and with other features, for instance, fd_dinov2; or module:metric
  evaluation.metrics = ('elbo',)
  evaluation.split = 'test'  # train, test
  evaluation.num_images = 0  # the first images of the split; 0: all
  evaluation.batch_size = 100
  evaluation.seed = 0
  evaluation.num_generated = 50_000  # images to generate
  # inception, dinov2, digits, two_levels, shapes, pixels
  evaluation.features = 'inception'
  # file with the weights of inception or dinov2, or a folder with both; '':
  # $DIFFUSION_JAX_WEIGHTS
  evaluation.weights = ''
  evaluation.reference = 'train'  # train, test
  # several values for fields of `sampling`; every combination is a row of one
  # table: 'num_steps=10,20 sampler=ddim,heun guidance.scale=1,2'
  evaluation.sweep = ''
  evaluation.name = ''  # appended to the folder of the results

  # --mode=sample,edit,evaluate,report,train (docs/samplers.md)
  sampling = config.sampling = ConfigDict()
  sampling.num_samples = 100
  sampling.batch_size = 100
  sampling.labels = ()  # classes to sample, in turn; (): all
  # texts of the pictures in turn, separated by |; None: texts of the test split
  sampling.prompt = placeholder(str)
  sampling.ema = True  # averaged parameters
  sampling.ema_decay = 0.0  # one of training.more_ema_decays; 0: the main one
  # width of an average that is made from the run's snapshots
  sampling.ema_sigma_rel = placeholder(float)
  sampling.checkpoint = 'latest'  # latest, best, or a step
  sampling.seed = 0  # image i depends on the seed and i
  sampling.trajectory = False  # also a GIF of how the images emerge
  sampling.name = 'samples'  # name of the files in samples/

  average = config.average = ConfigDict()  # --mode=average (docs/training.md)
  average.sigma_rel = placeholder(float)  # the width
  average.step = placeholder(int)  # step of a snapshot; None: the latest
  # the run folder to write; '': averages/<sigma_rel>-<step> of the run
  average.out = ''

  convert = config.convert = ConfigDict()  # --mode=convert (docs/weights.md)
  convert.source = ''  # the folder or file of weights that become a run
  # diffusers, openai, ho, score_sde, edm, edm2, safetensors; '': recognised
  convert.format = ''
  convert.model = ''  # openai, score_sde: the name of a published model
  convert.options = ''  # options of the format: 'image_size=64 class_cond=True'
  convert.to = ''  # exports the run as diffusers, safetensors or stablehlo
  convert.out = ''  # the folder or file to write
  convert.label = placeholder(int)  # diffusers: the class to build in; -1: none

  # --mode=report,train (docs/training.md)
  report = config.report = ConfigDict()
  report.runs = ()  # folders of further runs, for comparison
  report.after_training = True  # write report.html when a training ends
  report.trajectory = True  # draw ten images step by step
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
  config.sampling.clip = False
  return config


def as_flow_map(config):
  """Returns the config of a denoiser without what flow maps do not have."""
  del config.parametrization
  for field in ('sampler', 'clip'):
    del config.sampling[field]
  return config

"""Every field of every experiment, once, with the value most of them share.

An experiment sets values on top of this; it neither adds nor replaces fields.
A field that is None keeps the default of the function that takes it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
  """Returns all fields; data.name is empty, each experiment sets it."""
  config = ConfigDict()
  config.seed = 0  # parameters, noise, order of the data
  # folder of compiled programs, which a second start need not compile again;
  # None: $XDG_CACHE_HOME/diffusion_jax/compiled; '': they are not kept
  config.compilation_cache = placeholder(str)
  # set by configs/run.py: the run folder whose config.json it has read
  config.stored_in = ''

  data = config.data = ConfigDict()  # --mode=train (docs/data.md)
  # digits, shapes, synthetic, photos, npz, folder, cifar10, mnist, tfds
  data.name = ''
  data.image_shape = (32, 32, 3)  # height, width, channels
  data.num_classes = 0  # labels are 0..num_classes - 1; 0: none
  # grey levels per channel; 2 makes every pixel of any set black or white
  data.num_levels = 256
  data.random_flip = False  # mirrors half of the training images
  data.data_dir = ''  # cifar10, mnist, tfds; '': $TFDS_DATA_DIR or tfds' own
  data.path = placeholder(str)  # folder: the folder; npz: the file
  data.tfds_name = placeholder(str)  # tfds: name[/config][:version]
  data.train_split = placeholder(str)  # tfds: such as 'train[:90%]'
  data.test_split = placeholder(str)  # tfds
  # folder, photos, npz: the part that is kept for the test split
  data.test_fraction = placeholder(float)
  data.num_pictures = placeholder(int)  # shapes: pictures to train on
  data.num_objects = placeholder(int)  # shapes: 1, or 2 for one or two
  data.photos = placeholder(tuple)  # photos: files; (): scikit-learn's two
  data.photo_shrink = placeholder(int)  # photos: shrunk so much, then cropped
  data.num_threads = 8  # threads that read ahead, for sets on disk

  # --mode=train (docs/latent_diffusion.md)
  latent = config.latent = ConfigDict()
  # workdir of the autoencoder whose latents are diffused; '': pixels are
  latent.run = ''
  latent.shape = ()  # height, width, channels of its latents
  # factor of the latents; None: that of its run, or 1 / their deviation
  latent.scale = placeholder(float)

  # --mode=train,noise (docs/schedules.md)
  schedule = config.schedule = ConfigDict()
  # betas of num_steps steps: linear, rescaled_linear, quadratic, scaled_linear,
  # cosine, sigmoid, constant, warmup, reciprocal; in continuous time:
  # continuous_cosine, continuous_sigmoid, linear_vp, sub_vp, geometric_ve,
  # karras, flow, learned
  schedule.name = 'linear'
  schedule.num_steps = 1000  # T
  schedule.start = placeholder(float)  # first beta
  schedule.end = placeholder(float)  # last beta
  schedule.value = placeholder(float)  # constant: the beta
  schedule.fraction = placeholder(float)  # warmup: of the steps that climb
  # rescales betas so that alpha_bar_T = 0
  schedule.zero_terminal_snr = placeholder(bool)
  schedule.alphas = placeholder(tuple)  # an explicit list, instead of a name
  schedule.logsnr_min = placeholder(float)  # continuous_cosine
  schedule.logsnr_max = placeholder(float)  # continuous_cosine
  schedule.beta_min = placeholder(float)  # linear_vp, sub_vp
  schedule.beta_max = placeholder(float)  # linear_vp, sub_vp
  schedule.sigma_min = placeholder(float)  # geometric_ve, karras
  schedule.sigma_max = placeholder(float)  # geometric_ve, karras
  schedule.rho = placeholder(float)  # karras
  schedule.sigmoid_start = placeholder(float)  # continuous_sigmoid
  schedule.sigmoid_end = placeholder(float)  # continuous_sigmoid
  schedule.sigmoid_tau = placeholder(float)  # continuous_sigmoid
  # factor of sigma / alpha for larger pictures (64 -> 256: 4), as of flow
  schedule.shift = placeholder(float)
  # learned: scalar (a line), network (a line and a network), fixed (a line)
  schedule.gamma = placeholder(str)
  schedule.gamma_min = placeholder(float)  # learned: first -log SNR at t = 0
  schedule.gamma_max = placeholder(float)  # learned: at t = 1

  network = config.network = ConfigDict()  # --mode=train
  # unet, dit (transformers), vdm (one resolution), ddpmpp (EDM's), edm2 (its
  # magnitudes are 1: docs/edm2.md), classifier (of noisy images); autoencoder
  # and hierarchical, of objectives vae and hvae
  network.name = 'unet'
  network.channels = placeholder(int)  # at full resolution
  network.multipliers = placeholder(tuple)  # of channels, one per resolution
  # per resolution in the first half of unet, whose second half has one more; of
  # dit: all
  network.num_blocks = placeholder(int)
  # heights of the feature maps with attention
  network.attention_resolutions = placeholder(tuple)
  network.dropout = placeholder(float)
  network.num_groups = placeholder(int)  # of the group norms
  network.norm_eps = placeholder(float)  # of the group norms; OpenAI: 1e-5
  network.stem_channels = placeholder(int)  # first convolution; None: channels
  # ho ([sin, cos]), openai ([cos, sin]), fourier (ddpmpp: random frequencies)
  network.noise_embedding = placeholder(str)
  # the embedding scales and shifts the second norm
  network.scale_shift = placeholder(bool)
  # residual blocks change the resolution
  network.resblock_updown = placeholder(bool)
  # same (bottom, right), symmetric
  network.downsample_padding = placeholder(str)
  network.num_heads = placeholder(int)  # of attention
  network.head_channels = placeholder(int)  # per head, instead of num_heads
  # separate projections; or one, as [heads, qkv] (legacy) or [qkv, heads] (new)
  network.qkv = placeholder(str)
  # attention in the middle: norm (after a norm), plain (without one), none
  network.middle_attention = placeholder(str)
  # ddpmpp: filter where the resolution changes; None: 2x2 means, repetition
  network.resample_filter = placeholder(tuple)
  # ddpmpp: adds the shrunk input at every resolution (NCSN++)
  network.input_pyramid = placeholder(bool)
  network.initializer = placeholder(str)  # ho, torch, lecun
  # vdm: (6, 8) adds sin, cos(2 pi 2^k x), k = 6, 7, to the input
  network.fourier = placeholder(tuple)
  # twice the output channels: hybrid and vlb train a variance by them
  network.learned_variance = False
  network.text_width = placeholder(int)  # of the Transformer that reads text
  network.text_layers = placeholder(int)
  network.text_heads = placeholder(int)
  # dit: joint (words are tokens too, as MM-DiT), cross (they are attended to)
  network.text_attention = placeholder(str)
  # dit: side of a patch in pixels, one token each (docs/transformers.md)
  network.patch_size = placeholder(int)
  network.positions = placeholder(str)  # dit: sincos, rotary, both, none
  network.norm = placeholder(str)  # dit: layer (without parameters), rms
  network.qk_norm = placeholder(bool)  # dit: of queries and keys
  network.mlp = placeholder(str)  # dit: gelu, swiglu
  network.bottleneck = placeholder(int)  # dit: patches to so many numbers first
  network.class_tokens = placeholder(int)  # dit: tokens of the label
  network.class_tokens_at = placeholder(int)  # dit: from this block on, 0 first
  network.dropout_blocks = placeholder(str)  # dit: all, middle (half of them)
  # dit, unet: xla, cudnn (GPU and bfloat16)
  network.attention = placeholder(str)
  # autoencoder: numbers of the vector z; 0: z is an image of latent_channels
  network.latent_dim = placeholder(int)
  network.latent_channels = placeholder(int)  # autoencoder, hierarchical
  network.decoder_blocks = placeholder(int)  # autoencoder: per resolution
  network.latent_convs = placeholder(bool)  # autoencoder: 1x1, around z
  # autoencoder: limits of the log-variances of z, such as -30,20
  network.log_variance_limits = placeholder(tuple)
  network.num_latents = placeholder(int)  # hierarchical: T, layers of the chain
  # computes blocks again for the gradients, which takes less memory
  network.remat = placeholder(bool)
  # of remat: what is stored besides the inputs of blocks: nothing, products (of
  # dense layers and convolutions)
  network.remat_policy = placeholder(str)
  network.dtype = placeholder(str)  # of the computation: float32, bfloat16
  # of float32 products on GPU and TPU: default, high, highest
  network.matmul_precision = 'default'

  conditioning = config.conditioning = ConfigDict()  # --mode=train
  # what the network sees: step (0..T-1), rescaled_step (0..999), time
  # (time_scale * t), logsnr, log_sigma (-logsnr / 2), edm (-logsnr / 8)
  conditioning.noise_input = 'step'
  conditioning.time_scale = placeholder(float)
  conditioning.labels = False  # gives the network the class
  conditioning.text = False  # gives the network a text; unet, dit
  conditioning.text_length = 64  # bytes of a text, at most
  # probability that training hides the class, the text and the image
  conditioning.dropout = 0.0
  # gives the network its last estimate of x0 (Analog Bits); not vdm
  conditioning.self_conditioning = False
  # gives the network an image made of the example: inpaint (known pixels),
  # superres (a smaller one), colorize (without colours); '': none; not vdm
  conditioning.image = ''
  conditioning.image_factor = 2  # superres: so many times smaller

  # --mode=train (docs/training.md)
  objective = config.objective = ConfigDict()
  # denoising, hybrid (denoising + the bound), vlb (the bound), vdm (VDM's),
  # classifier (of noisy images: docs/guidance.md); vae, hvae (docs/vae.md); few
  # steps (docs/few_steps.md): mean_flow, shortcut, consistency_training,
  # consistency_distillation, continuous_consistency, reflow,
  # progressive_distillation
  objective.name = 'denoising'
  objective.num_steps = placeholder(int)  # vdm: T; 0: continuous time
  objective.parametrization = 'eps'  # x0, eps, v, score, flow, edm
  # of the error in x0: snr (plain error of eps), flow (plain error of the
  # velocity), min_flow (JiT's), truncated_snr, min_snr, edm
  objective.weight = 'snr'
  # steps, uniform, antithetic, log_normal, logit_normal; of hybrid and vlb:
  # steps, loss_aware
  objective.times = 'steps'
  objective.t_min = placeholder(float)  # times 'uniform', from here to 1
  objective.vlb_weight = placeholder(float)  # hybrid: of the bound, bits/dim
  objective.min_snr_gamma = placeholder(float)  # weight 'min_snr'
  objective.max_flow_weight = placeholder(float)  # weight 'min_flow'
  objective.log_normal_mean = placeholder(float)  # of log sigma
  objective.log_normal_std = placeholder(float)
  objective.logit_normal_mean = placeholder(float)  # of log(t / (1 - t))
  objective.logit_normal_std = placeholder(float)
  objective.sigma_data = 0.5  # parametrization and weight 'edm'
  # probability of each of EDM's changes of the images; denoising with ddpmpp
  objective.augment = 0.0
  # features, 128 there, of EDM2's u(sigma), which divides the error of a level
  # by its own size
  objective.uncertainty = placeholder(int)
  # the workdir of a diffusion run of the same data that is distilled
  objective.teacher = placeholder(str)
  # a step of the teacher: ddim, heun
  objective.solver = placeholder(str)
  objective.teacher_steps = placeholder(int)  # reflow: of UniPC, for each pair
  objective.improved = placeholder(bool)  # mean_flow: in its second form
  # mean_flow: p of the error e / (e + offset)^p; 0: the squared error
  objective.power = placeholder(float)
  # None: 1e-3, as in the paper; the releases in JAX have 0.01
  objective.offset = placeholder(float)
  objective.equal = placeholder(float)  # mean_flow: probability of s = t
  objective.start = placeholder(float)  # mean_flow, reflow: that of t = 1
  objective.end = placeholder(float)  # mean_flow: that of s = 0
  # mean_flow: guidance of the scale omega / (1 - kappa), trained in
  objective.omega = placeholder(float)
  objective.kappa = placeholder(float)
  # mean_flow: trains all scales from 1 to this, sampling.guidance_scale chooses
  # (all t are guided; the release of the improved form draws an interval of t)
  objective.max_guidance = placeholder(float)
  # shortcut: 1 / the smallest step; progressive_distillation: of the student
  objective.map_steps = placeholder(int)
  # shortcut: share of the targets that are two steps
  objective.bootstrap = placeholder(float)
  objective.ema_target = placeholder(bool)  # targets by averaged parameters
  # consistency: of levels t and r: improved (iCT), easy (ECT), grid
  objective.pairs = placeholder(str)
  objective.steps_per_stage = placeholder(int)  # easy
  objective.num_stages = placeholder(int)  # easy
  objective.q = placeholder(float)  # easy: a stage divides t - r by q
  objective.pair_levels = placeholder(int)  # grid: of the schedule
  objective.first = placeholder(int)  # improved: levels of the grid, at first
  objective.last = placeholder(int)  # improved: and at last
  objective.distance = placeholder(str)  # consistency: squared, pseudo_huber
  objective.huber_offset = placeholder(float)  # pseudo_huber: c; 0: the norm
  # continuous_consistency: steps over which the derivative gets its weight
  objective.tangent_warmup = placeholder(int)
  # vae, hvae: p(x | z) of a pixel: logistic, gaussian, unit_gaussian (of
  # variance 1), bernoulli (of data.num_levels=2)
  objective.decoder = 'logistic'
  objective.beta = placeholder(float)  # weight of the KL; 1 is the bound
  # nats of each channel of z (vae) or layer (hvae) that are not penalised
  objective.free_bits = placeholder(float)
  objective.kl_warmup = placeholder(int)  # steps from weight 0 to beta

  optimizer = config.optimizer = ConfigDict()  # --mode=train
  # adam, adamw (the same where weight_decay is 0), radam, muon (kernels);
  # None: adamw
  optimizer.name = placeholder(str)
  optimizer.learning_rate = 2e-4
  optimizer.warmup_steps = 0  # from 0 along a line
  optimizer.decay = 'constant'  # then: constant, linear, cosine, inverse_sqrt
  optimizer.decay_steps = 0  # linear, cosine: the end; inverse_sqrt: the start
  optimizer.clip_norm = 1.0  # of all gradients together; 0: no clipping
  optimizer.b1 = 0.9
  optimizer.b2 = 0.999
  optimizer.eps = 1e-8
  optimizer.weight_decay = 0.0  # decoupled, as AdamW's
  # of kernels; not_biases (kernels, norms, embeddings, schedule: VDM); all
  optimizer.weight_decay_mask = 'kernels'
  # replaces nan by 0 and inf by 1e5 in gradients, as EDM; the run continues
  optimizer.repair_gradients = False

  # --mode=train (docs/training.md)
  training = config.training = ConfigDict()
  training.num_steps = 1000
  training.batch_size = 128  # of all devices and hosts together
  training.accumulate = 1  # parts of the batch, evaluated one after the other
  # steps of one dispatch, for small networks; logs and saves keep their steps
  training.steps_per_call = 1
  # devices (data, fsdp): every batch is split over all of them, large
  # parameters over the second; -1: all that are left
  training.mesh = (-1, 1)
  training.ema_decay = 0.9999
  training.more_ema_decays = ()  # further averages of the parameters
  training.ema_warmup = False  # decay min(ema_decay, (1 + step) / (10 + step))
  # relative widths of averages by a power of time, such as 0.05,0.10, of whose
  # snapshots any other width is made after training (docs/averages.md)
  training.ema_sigma_rels = placeholder(tuple)
  training.snapshot_every = 0  # steps; num_steps / 32, for instance
  # so many and the latest: when there are more, the interval doubles
  training.keep_snapshots = 32
  # in images, instead of ema_decay and ema_warmup
  training.ema_half_life = placeholder(float)
  # the half-life is at most so many times the images so far; 0: no limit
  training.ema_rampup = 0.0
  training.log_every = 100  # steps; 0: never, here and below
  training.evaluate_every = 0  # losses on the test split
  training.evaluate_batches = 8  # of training.batch_size test images
  # evaluation.metrics of generated images, in so few of them
  training.metrics_every = 0
  training.metrics_images = 1000
  training.sample_every = 1000
  training.checkpoint_every = 1000
  training.keep_checkpoints = 2  # the latest
  training.keep_every = 0  # also every so many steps
  training.keep_best = 0  # also so many with the lowest keep_best_by
  training.keep_best_by = 'test_loss'  # or a metric of metrics_every, as fid
  # seconds without a heartbeat after which a process of --multihost is lost
  training.heartbeat_timeout = 30
  # steps in a row that may be left out because loss or gradient is not finite
  training.skip_nonfinite = 0
  # the workdir of a run with whose weights training begins (docs/weights.md)
  training.init_from = placeholder(str)
  training.resume = 'auto'  # force: continue although the config differs

  # --mode=evaluate,train (docs/evaluation.md)
  evaluation = config.evaluation = ConfigDict()
  # elbo, ode, independent_pixels; of a VAE: elbo, iw, independent_pixels; of a
  # classifier: accuracy
  evaluation.metrics = ('elbo',)
  evaluation.split = 'test'  # train, test
  evaluation.num_images = 0  # the first so many; 0: all
  evaluation.batch_size = 100
  evaluation.num_steps = 0  # elbo: T; 0: of the schedule, or else 1000
  evaluation.random_steps = 0  # elbo: drawn for each image; 0: all
  evaluation.decoder = 'gaussian'  # elbo: gaussian, tanh, categorical
  evaluation.tolerance = 1e-4  # ode: of the solver
  # ode: where it begins; a network of T steps is trained down to 1/T
  evaluation.t_min = 1e-3
  # ode: uniform in the bin of a grey level; gaussian: the noise of t_min
  evaluation.dequantization = 'uniform'
  evaluation.num_samples = 100  # iw: draws of z for each image
  evaluation.num_probes = 1  # ode: of Hutchinson's estimate
  evaluation.seed = 0
  # of generated images, as `sampling` says: fid, sfid; fd, kid, is, pr
  # (precision, recall), dc (density, coverage), cmmd, accuracy, memorisation in
  # evaluation.features, and fd_digits, for instance, in others; of so many
  # images against all of a split (docs/evaluation.md)
  evaluation.num_generated = 50_000
  # inception, dinov2, digits, two_levels, shapes, pixels
  evaluation.features = 'inception'
  # the file of weights of inception or dinov2, or the folder of both; '':
  # $DIFFUSION_JAX_WEIGHTS
  evaluation.weights = ''
  evaluation.reference = 'train'  # train, test
  evaluation.num_draws = 10  # of the bootstrap of fd; 0: no standard error
  # of every combination of these a line in one table
  sweep = evaluation.sweep = ConfigDict()
  sweep.guidance_scale = ()
  sweep.num_steps = ()
  sweep.sampler = ()
  sweep.ema_decay = ()
  sweep.ema_sigma_rel = ()
  evaluation.name = ''  # appended to the folder of the results

  # --mode=sample,edit,evaluate,report,train (docs/samplers.md)
  sampling = config.sampling = ConfigDict()
  # ancestral, ddim, heun, dpm_solver_pp, dpm_solver_pp_2s, dpm_solver_pp_sde,
  # unipc, euler_maruyama, reverse_diffusion, annealed_langevin, velocity_heun
  # (JiT's), velocity_sde (SiT's); flow_map, of objectives of few steps
  sampling.sampler = 'ancestral'
  sampling.num_steps = 1000
  # another schedule whose levels are visited; '': that of the training
  sampling.schedule = ''
  # of the levels: uniform, quadratic, karras, logsnr; on steps of the schedule:
  # steps, leading, linspace, trailing (docs/schedules.md)
  sampling.spacing = 'uniform'
  # steps to keep, instead of num_steps: '250', '10,15,20', 'ddim50'
  sampling.respacing = ''
  # ddim: 0 (None) is the ODE, 1 ancestral; dpm_solver_pp_sde: 1 (None) the SDE
  sampling.eta = placeholder(float)
  sampling.order = placeholder(int)  # dpm_solver_pp, unipc: 1, 2, 3
  sampling.variance = 'fixed_small'  # ancestral: or fixed_large, learned
  sampling.langevin_steps = placeholder(int)  # annealed_langevin: at each level
  # annealed_langevin: in sigma^2
  sampling.langevin_step_size = placeholder(float)
  sampling.corrector_steps = 0  # of Langevin's corrector before each step
  sampling.corrector_snr = placeholder(float)
  # velocity_sde: w(t) is constant, sigma or sde (the schedule's own)
  sampling.diffusion = placeholder(str)
  sampling.diffusion_scale = placeholder(float)  # times this; 0: ODE
  # flow_map: each step goes to the end and adds noise; consistency functions
  # have no other steps
  sampling.stochastic = placeholder(bool)
  # velocity_heun: its velocity divides by max(sigma, this); JiT: 0.05
  sampling.min_sigma = placeholder(float)
  sampling.churn = 0.0  # EDM's S_churn, of all steps together
  sampling.churn_min = placeholder(float)  # of sigma / alpha
  sampling.churn_max = placeholder(float)  # None: no limit
  sampling.churn_noise = placeholder(float)  # factor of the added noise
  # uncond + scale (cond - uncond): 1 is no guidance, 0 no class; needs
  # conditioning.dropout, or guidance_run (docs/guidance.md)
  sampling.guidance_scale = 1.0
  sampling.guidance_rescale = 0.0  # phi: how far x0 gets its deviation back
  sampling.guidance_min = 0.0  # guided where sigma / alpha is between these
  sampling.guidance_max = placeholder(float)  # None: no limit
  # only so many first channels are guided, as 3 by DiT's release; None: all
  sampling.guidance_channels = placeholder(int)
  # the workdir of a run, a worse one, in place of uncond: autoguidance
  sampling.guidance_run = ''
  sampling.classifier = ''  # the workdir of a classifier that guides
  sampling.classifier_scale = 1.0
  sampling.clip = True  # estimates of x0 to [-1, 1], after guidance
  # clips before the classifier guides, not after, as guided-diffusion does
  sampling.clip_before_classifier = False
  # instead, clips x0 to a quantile such as 0.995 and divides by it; 0: off
  sampling.dynamic_threshold = 0.0
  sampling.num_samples = 100
  sampling.batch_size = 100
  sampling.labels = ()  # classes to sample, in turn; (): all
  # texts of the pictures in turn, separated by |; None: of the test split
  sampling.prompt = placeholder(str)
  sampling.ema = True  # averaged parameters
  sampling.ema_decay = 0.0  # one of training.more_ema_decays; 0: the first
  # the width of an average that is made of the run's snapshots instead
  sampling.ema_sigma_rel = placeholder(float)
  sampling.checkpoint = 'latest'  # latest, best, or a step
  sampling.seed = 0  # image i is a function of seed and i
  sampling.trajectory = False  # also a GIF of how the images emerge
  sampling.name = 'samples'  # of the files written into samples/

  edit = config.edit = ConfigDict()  # --mode=edit (docs/inpainting.md)
  edit.task = 'inpaint'  # inpaint, sdedit, interpolate, superres, colorize
  edit.image = ''  # a file of the size of the run; superres: that much smaller
  edit.mask = ''  # inpaint, sdedit: a file of that size, white is known
  edit.image2 = ''  # interpolate: the other end
  # replace, repaint (inpaint alone), reconstruction; palette, of runs with
  # conditioning.image; '': repaint or reconstruction, and palette of such runs
  edit.method = ''
  edit.num_samples = 4  # results; interpolate: from one end to the other
  edit.label = placeholder(int)  # the class; None: no class
  edit.num_resamples = 10  # repaint
  edit.jump = 10  # repaint, in steps of sampling
  edit.scale = 1.0  # reconstruction: of what the observation changes
  edit.iterations = 1  # reconstruction: of conjugate gradients, each step
  edit.factor = 2  # superres by reconstruction: so many times larger
  edit.strength = 0.5  # sdedit: where it begins, 0 (the image) to 1 (noise)
  edit.repeats = 1  # sdedit: each result edited again
  edit.name = 'edit'  # of the files written into edits/

  average = config.average = ConfigDict()  # --mode=average (docs/averages.md)
  average.sigma_rel = placeholder(float)  # the width
  average.step = placeholder(int)  # of a snapshot; None: the latest
  # the run folder that is written; '': averages/<sigma_rel>-<step> of the run
  average.out = ''

  convert = config.convert = ConfigDict()  # --mode=convert (docs/weights.md)
  convert.source = ''  # the folder or file of weights that become a run
  # diffusers, openai, ho, score_sde, edm, safetensors; '': recognised
  convert.format = ''
  convert.model = ''  # openai, score_sde: the name of a published model
  convert.options = ''  # of the format: 'image_size=64 class_cond=True'
  convert.to = ''  # what the run becomes instead: diffusers, safetensors
  convert.out = ''  # the folder or file that is written then
  convert.label = placeholder(int)  # diffusers: the class built in; -1: none

  # --mode=report,train (docs/report.md)
  report = config.report = ConfigDict()
  report.runs = ()  # workdirs of further runs, which are shown beside this one
  report.after_training = True  # also writes report.html when a training ends
  # a trajectory of the sampler is drawn if it takes no longer than so many
  # seconds, by the images per second of the training; 0: none
  report.trajectory_seconds = 10.0

  noise = config.noise = ConfigDict()  # --mode=noise
  noise.image = 'china.jpg'  # a file, or scikit-learn's china.jpg, flower.jpg
  noise.size = 600  # of the square picture
  noise.fit = 'crop'  # crop the longer side, or scale (stretch) both
  noise.strip = 6  # pictures in the strip
  noise.frames = 51  # of the animation
  noise.num_draws = 100  # of white noise, for the Monte-Carlo estimate
  return config


# All networks of this package take the first three fields, but for dit and
# edm2, which have no groups.
SMALL_NETWORK = {
  'channels': 8,
  'num_groups': 4,
  'num_blocks': 1,
  'head_channels': 4,
  'stem_channels': 4,
  'num_heads': 2,
  'bottleneck': 4,
  'class_tokens': 2,
  'class_tokens_at': 0,
}


def with_argument(config, arg, variants=()):
  """Returns the config, for `:smoke` shrunk to a few seconds of training.

  It then has a tiny network and four steps. Data sets that must be downloaded
  are replaced by synthetic pictures. A run in latents uses those of the smoke
  run of its autoencoder, which comes first, and a run that begins with another
  or has a teacher the smoke run of that. variants: further arguments, which
  the experiment applies itself; each exists with `_smoke` as well.
  """
  known = 'smoke', *variants, *(f'{name}_smoke' for name in variants)
  if arg and arg not in known:
    names = ', '.join(map(repr, known))
    raise ValueError(f'the argument of this config can be {names}, not {arg!r}')
  if not arg.endswith('smoke'):
    return config
  at_hand = '', 'digits', 'photos'
  if config.data.name not in at_hand and ':' not in config.data.name:
    config.data.name = 'shapes' if config.conditioning.text else 'synthetic'
    files = 'path', 'tfds_name', 'train_split', 'test_split', 'test_fraction'
    for field in files:
      config.data[field] = None
  if config.latent.run:  # that of the autoencoder's smoke run
    config.latent.run += '-smoke'
  for section, field in (('training', 'init_from'), ('objective', 'teacher')):
    run = config[section][field]
    if run:  # the smoke run of runs/digits_flow-unscaled has a name of its own
      config[section][field] = run + ('_smoke' if '-' in run else '-smoke')
  own = ':' in config.network.name  # of a user's module: what it sets shrinks
  always = ['channels', 'num_blocks']
  if config.network.name not in ('dit', 'edm2'):
    always.append('num_groups')
  for field, small in SMALL_NETWORK.items():
    every = field in always and not own
    if every or config.network[field] is not None:
      config.network[field] = small
  config.optimizer.warmup_steps = 2
  config.training.num_steps = 4
  config.training.mesh = (-1, 1)
  config.training.batch_size = 8
  config.training.log_every = 1
  config.training.steps_per_call = 1  # every step is logged
  config.training.sample_every = 4
  config.training.checkpoint_every = 2
  config.training.evaluate_batches = 1
  config.evaluation.num_samples = 4
  config.evaluation.num_generated = 16
  config.training.metrics_images = 16
  config.sampling.num_steps = 4
  config.sampling.respacing = '4' if config.sampling.respacing else ''
  # the score of an untrained network is almost 0, and a Langevin step goes as
  # its inverse square
  config.sampling.corrector_steps = 0
  config.sampling.corrector_snr = None
  config.sampling.num_samples = 16
  config.sampling.batch_size = 16
  config.report.after_training = False
  config.edit.num_resamples = config.edit.jump = 2
  config.noise.size = 64
  config.noise.frames = 5
  config.noise.num_draws = 10
  return config

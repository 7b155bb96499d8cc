"""What each mode refuses: one row for each rule, as typed.

A row is [config] flags => a part of the line that is printed. The config is
digits:smoke with a small network unless the row begins with another one, whose
trial it is; `none` is a command without --config, and self_conditioning is
digits with it. The folder runs/ has runs of some of them. Indented lines
continue a row. tests/app/config shows on a toy what the fields of all sections
refuse.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import serialization
from PIL import Image

from diffusion_jax.app.modes import MODES
from tests import refusals
from tests.app.conftest import CONFIGS, refuse_to_compile, refused, trial, untrained, without_config

RUNS = 'digits digits_classifier digits_autoencoder self_conditioning two_moons'
AUTOENCODER = 'tests.app.small_network:SmallAutoencoder'
TABLES = {}
TABLES['train'] = """
network.name.x=3 => there is no field config.network.name.x
training.batch_size=99999999999 => training.batch_size=99999999999: a batch takes 23,842 GiB, and
  the machine has
schedule.num_steps=1000000000 => schedule.num_steps=1000000000 is not an integer up to 10^5
mnist data=npz data.path=/nowhere/mnist.npz => config.data: npz file /nowhere/mnist.npz not found
training.batch_size=12 training.mesh=-1,1 => batch_size=12 cannot be split over the 8 devices of the
  mesh: take a multiple of 8, or fewer devices by --config.training.machine.mesh
training.machine.accumulate=8 training.mesh=2,1 => batch_size=8 cannot be split over the 2 devices
  of the mesh in 8 parts
training.machine.fixed_parts=6 => fixed_parts=6 is not a power of 2
training.machine.fixed_parts=8 training.mesh=1,2 => needs a copy of the parameters on every device
training.machine.fixed_parts=2 training.mesh=4,1 => cannot be split over 4 devices
training.machine.fixed_parts=16 training.mesh=1,1 => does not divide training.batch_size=8
training.machine.fixed_parts=4 training.mesh=1,1 training.machine.accumulate=2 => already cuts the
  batch into parts: set training.machine.accumulate=1
training.mesh=16,1 => training.machine.mesh: a mesh of 16x1 needs 16 devices, there are
training.machine.trace.steps=0 => training.machine.trace.steps=0 is not an integer of at least 1
training.skip_nonfinite=1 optimizer.repair_gradients=True => would take: set one
training.average=powers => config.training.average.widths is not set: powers needs it
training.average=powers training.average.widths= => widths=() must be one or several different
training.average=powers training.average.widths=0.05,0.1,0.05 => must be one or several different
training.average=half_life training.average.warmup=false => there is no field
  config.training.average.warmup with training.average=half_life; training.average=decay has it
two_moons conditioning.context=vector conditioning.context.heads=2 => there is no field
  config.conditioning.context.heads with conditioning.context=vector; conditioning.context=words has
data=npz data.path=az://a/b.npz => config.data: az://a/b.npz: data are read from gs:// and s3://
evaluation.metrics=fid,elbo training.checkpoints.best.by=fod => best.by='fod' (did you mean 'fid'?)
  is not one of test_loss, fid
data.validation_fraction=0.1 training.checkpoints.best.by=test_loss evaluation.metrics=fid =>
  best.by='test_loss' is not one of validation_loss, fid
data.validation_fraction=0.0001 => config.data: validation_fraction=0.0001 leaves none of the 1437
  training examples for the validation part
evaluation.metrics=elbo training.metrics.every=1 => name a metric of them in
  config.evaluation.metrics, as fid
optimizer.warmup_steps=9999 optimizer.decay_steps=9 => config.optimizer: decay_steps of decay
  'linear' must be larger than warmup_steps=9999, got 9
objective=reflow => training.teacher: objective=reflow needs the folder of the
digits_distilled training.start=None training.teacher=nowhere => config.training.teacher: there is
  no run in nowhere
training.teacher=x => objective=denoising does not use a teacher
objective=vdm => config.objective: vdm needs noise at t = 0 and signal at t = 1
objective=mean_flow => noise_input=step: the network of objective=mean_flow gets
data=tests.app.toy_parts:UnitPictures => config.data: x must be uint8 [n, 8, 8, 1], got float32 [1,
  8, 8, 1]: uint8 arrays are levels, such as
data=tests.app.toy_parts:curves => config.data: x never changes at 0 of its last axis (0): leave
  this number out
data=tests.app.toy_parts:number => config.data='tests.app.toy_parts:number': its constructor must
  return a source, such as ArraySource(x), not a number
parametrization=tests.app.toy_parts:number => its constructor must return a Parametrization(kind),
  such as Parametrization('v'), not a number
schedule=tests.app.toy_parts:ramp => schedule(t) must be a dj.NoiseLevel of numbers, not a number
  (docs/parts.md)
schedule=tests.app.toy_parts:backwards => config.schedule='tests.app.toy_parts:backwards':
  alpha_s is
sampling.schedule=tests.app.toy_parts:backwards =>
  config.sampling.schedule='tests.app.toy_parts:backwards': alpha_s is
noise_input=tests.app.toy_parts:estimate => config.noise_input='tests.app.toy_parts:estimate':
  noise_input(level) must be a function, not a Sampler
network=tests.app.toy_parts:Pooled => config.network: its output for x of the shape [1, 8, 8, 1]
  must be an array [1, 8, 8, 1], and it is an array [1]
objective.weight=tests.app.toy_parts:nothing => weight(level) must be one number for each level, not
  None (docs/parts.md)
objective.weight=tests.app.toy_parts:mean_weight => weight(level) of one
  level must not depend on the others of a batch: of two levels it is 4.86
noise_input=tests.app.toy_parts:mean_noise => noise_input(level) of one level
  must not depend on the others of a batch: of two levels it is -0.25, 0.25, and of each alone 0, 0
schedule=tests.app.toy_parts:mean_schedule => schedule(t) of one level must not
  depend on the others of a batch
objective.times=tests.app.toy_parts:one_time => must return (level, weight), [batch_size] each, not
  a number
objective.coupling=tests.app.toy_parts:weight sampling.sampler.eta=0 =>
  config.objective.coupling='tests.app.toy_parts:weight': it is called as coupling(key, x0, y, cond)
objective.coupling=tests.app.toy_parts:of_words sampling.sampler.eta=0 =>
  config.objective.coupling='tests.app.toy_parts:of_words': draw(key, batch, context): KeyError:
objective=tests.app.toy_parts:unnamed => config.objective='tests.app.toy_parts:unnamed':
  loss(params, context, inputs, keys) must return metrics with 'loss', as
  objectives.means(loss=losses), not none
objective=tests.app.toy_parts:number => must return an Objective(draw, loss), not a
optimizer=tests.app.toy_parts:number => must return optax's optimizer and a
schedule=flow => config.parametrization=eps: the schedule has no signal at t = 1
conditioning.labels=False => conditioning: dropout=0.1 has no effect without
data=synthetic data.num_classes=0 => labels needs data of classes, and these have no labels: set
  data.num_classes to their number or
data=photos => these have no labels: set data to a set with labels or conditioning.labels=False
data=folder data.path=. data.skip_damaged=True => have no labels: set data.labelled=True, whose
  classes are the sub-folders, or conditioning.labels=False
data=synthetic data.image_shape=30,30,3 network=unet network.multipliers=1,2,2,2 => config.network:
  sides of 30x30 cannot be halved 3 times: sides must be multiples of 8
conditioning.image=colorize => conditioning.image: luminance needs 3 channels
conditioning.image=superres conditioning.image.factor=3 => config.conditioning.image: factor must
  divide images
conditioning.image=inpaint conditioning.augment=0.1 => conditioning: augment changes the images
conditioning.augment=0.1 => config.conditioning.augment needs a network with the
conditioning.text=bytes => these images have no texts for conditioning.text: data=shapes has
network=unet network.attention_resolutions=5 => network.attention_resolutions: no feature map has
  the height
network=unet network.attention_resolutions= network.num_groups=3 => config.network: num_groups=3
  does not divide
network=unet network.attention=cudnn => network.attention=cudnn needs a GPU, and
network=vdm network.channels=8 network.num_groups=4 => network 'vdm' needs config.noise_input=logsnr
network=vdm network.channels=8 noise_input=logsnr conditioning.self_conditioning=True => the input
  x0, which vdm does not have
shapes_text training.random_flip=True => make texts such as 'on the left' wrong
digits_classifier data=synthetic data.num_classes=0 network.attention_resolutions= => needs images
  of two or more classes: set data.num_classes
digits_vae network=hierarchical network.num_groups=4 => objective=vae trains one layer of latents,
  and this network has
digits_vae decoding.decoder=bernoulli => has 2 grey levels, and these images
digits_vae objective.free_bits=0.1 training.machine.fixed_parts=2 training.mesh=1,1 => the loss is
  not a mean over the batch, by objective.free_bits
digits_flow objective.coupling=exact training.machine.fixed_parts=2 training.mesh=1,1 => the loss is
  not a mean over the batch, by objective.free_bits or .coupling
digits_latent training.machine.fixed_parts=2 training.mesh=1,1 => needs stored latents: write them
  by --mode=encode, and set latent.path
digits_vae objective.free_bits=0.1 training.machine.accumulate=2 => free_bits needs the whole batch:
  set training.machine.accumulate=1
digits_masked transitions=gaussian => needs the betas of a schedule of steps
digits_masked states.output=logistic => output=logistic:
digits_masked transitions=uniform => needs a process with a masked state
digits_d3pm sampling.sampler=confidence training.sample_every=4 => a masked state
digits_d3pm sampling.remasking=0.1 training.sample_every=4 => a masked state
digits_masked objective=d3pm => do not give the num_steps
digits_meanflow noise_input.scale=1000 => set noise_input=time and noise_input.scale=1
digits_meanflow noise_input=logsnr => gets t and t - s: set it to time
digits_meanflow objective=lagrangian noise_input.scale=1000 => contains the derivative in time
digits_meanflow objective=progressive conditioning.dropout=0 objective.guidance=power_law => also
  trains the network
digits_meanflow network=edm2 network.attention_resolutions= => needs a network with the input
  elapsed, which edm2 does
digits_meanflow network=unet network.attention=cudnn => network.attention=cudnn
digits_meanflow objective.guidance=power_law conditioning.dropout=0 => also trains the network
  without a condition: set conditioning.dropout
digits_latent latent.run=nowhere => latent.run: there is no run in nowhere, and
digits_latent latent.run=runs/digits => has no latents with a height and a width
digits_latent sampling.bound=clip => sampling.bound needs pixels, and this run
digits_latent sampling.classifier.run=x => sampling.classifier needs pixels
digits_latent latent.path=x data=binarized data.source=digits => draws new images in each epoch
digits_latent conditioning.image=superres => conditioning.image needs pixels
digits_latent training.sample_every=4 sampling.guidance=autoguidance
  sampling.guidance.run=runs/digits sampling.guidance.scale=2 => is a diffusion model, and a
  diffusion model of latents is needed
digits_latent objective=vdm => objective='vdm' is not one of denoising, hybrid
digits_latent data=synthetic data.image_shape=8,8,3 => shape of x is (8, 8, 1), and here (8, 8, 3)
report.runs=lost report.after_training=True => report.runs: lost is not a run
training.num_steps=6 optimizer.decay_steps=3 => optimizer.decay_steps=3: the learning rate is 0 from
  step 3 on, and training.num_steps=6: set decay_steps to 6, or None
evaluation.metrics=fd evaluation.features=pixels evaluation.reference=lost training.metrics.every=4
  => evaluation.reference: npz file lost not found
joint conditioning.context=vector => is in x: set context=None, and data.joint
two_moons sampling.bound=clip => config.sampling.bound=clip needs levels
"""
TABLES['sample'] = """
sampling.num_steps=1000000000 => sampling.num_steps=1000000000 is not an integer up to 10^5
sampling.num_samples=99999999999 => num_samples=99999999999 is not an integer up to 10^8
sampling.sampler=tests.app.toy_parts:ramp => its constructor must return a dj.Sampler(init, step),
  not a function
sampling.grid=tests.app.toy_parts:number => config.sampling.grid='tests.app.toy_parts:number': its
  constructor must return an object with levels(schedule, end_clean), a dj.NoiseLevel [N + 1] from
sampling.grid=tests.app.toy_parts:Upward => config.sampling.grid: alpha_s is
sampling.guidance=tests.app.toy_parts:weight => must return an object with scale and guide(pair,
sampling.sampler=tests.app.toy_parts:estimate => config.sampling.sampler: the step of a sampler
  returns (x, state), not an array [2, 8, 8, 1]
sampling.sampler=tests.app.toy_parts:fresh sampling.sampler.draw=one_number =>
  config.sampling.sampler: random numbers of the shape [] cannot be drawn for each of 2 images: draw
  arrays [B, ...], as x.shape or x.shape[:1]
sampling.sampler=dpm_solver_pp sampling.churn.s_churn=1 => sampling.sampler=dpm_solver_pp uses
  earlier steps
schedule=continuous_cosine sampling.grid=respaced sampling.grid.steps=ddim50 =>
  config.sampling.grid: respaced needs a schedule of steps
sampling.weights=raw sampling.weights.decay=0.5 => there is no field config.sampling.weights.decay
  with sampling.weights=raw; sampling.weights=average has it
sampling.ancestral_noise.eta=1 => sampler=ddim draws noise already: take a
sampling.churn.s_churn=1 sampling.churn.s_min=3 sampling.churn.s_max=2 => config.sampling: s_min=3.0
  is above s_max=2.0: no level would be churned
sampling.guidance.scale=2 conditioning.dropout=0 => guidance.scale=2.0 needs a network that was
  trained with conditioning.dropout
sampling.guidance=autoguidance sampling.guidance.run=runs/digits_classifier
  sampling.guidance.scale=2 => sampling.guidance.run: the run in runs/digits_classifier is a
  classifier, and a diffusion model is
sampling.sampler=cfg_plus_plus sampling.sampler.scale=1 => a number in [0, 1)
sampling.sampler=cfg_plus_plus => config.sampling.sampler.scale is not set: cfg_plus_plus needs it
sampling.guidance.scale=2 sampling.guidance.interval=3,0.3 => config.sampling.guidance: low=3 is
  above high=0.3: no level would be guided
sampling.sampler=cfg_plus_plus sampling.sampler.scale=0.5 sampling.guidance.scale=2 => cfg_plus_plus
  takes two predictions of x_0 at each step, which sampling.guidance would change
sampling.sampler=feynman_kac sampling.sampler.scale=2 sampling.sampler.particles=1 =>
  sampling.sampler.particles=1 is not an integer of at least 2
sampling.sampler=feynman_kac sampling.sampler.scale=2 sampling.classifier.run=runs/digits =>
  takes two predictions of x_0 at each step, which sampling.classifier would change
sampling.sampler=feynman_kac sampling.sampler.scale=2 conditioning.dropout=0 =>
  config.sampling.sampler.scale=2.0 needs a network that was
sampling.sampler=feynman_kac sampling.sampler.scale=2 sampling.sampler.run=runs/digits_classifier =>
  sampling.sampler.run: the run in runs/digits_classifier is a classifier, and a diffusion model is
sampling.classifier.run=runs/digits => sampling.classifier.run: the run in runs/digits is a
  diffusion model, and a classifier is
conditioning.labels=False conditioning.dropout=0 sampling.labels=3 => config.sampling.labels=3 has
  no effect with conditioning.labels=False
conditioning.image=inpaint sampling.labels=3 => samples of this run continue test images
sampling.labels=3,10 => labels=10 is not a class: the classes are 0..9
sampling.prompt=circle => sampling.prompt: the network of this run reads no text
shapes_text sampling.prompt= => sampling.prompt: each text must have a word
shapes_text sampling.prompt=a23456789-123456789-123456789-123456789-123456789-1234567 => at most
  text_length=56
sampling.checkpoint=best => has a metric: train with
sampling.weights=width => config.sampling.weights.sigma_rel is not set: width needs it
digits_classifier => is a classifier, which makes no images
digits_vae sampling.trajectory=True => sampling.trajectory has no effect on a
digits_masked sampling.guidance.scale=2 => conditioning.dropout
digits_meanflow sampling.guidance_scale=2 => is outside the scales of the training, 1 to 1.0
digits_meanflow objective.guidance=power_law objective.guidance.high=4 sampling.guidance_scale=5 =>
  is outside the scales of the training, 1 to 4.0
digits_consistency sampling.stochastic=False sampling.num_steps=2 => set sampling.num_steps=1, or
  sampling.stochastic=True
"""
INPAINT = 'edit.image=digit.png edit.mask=mask.png'
TABLES['edit'] = f"""
edit.method.jump=1 => config.edit: image is not set: give --config.edit.image=
edit.image=digit.png => mask is not set: give --config.edit.mask=
{INPAINT} edit.image=none.png => none.png not found
{INPAINT} edit.image=text.png => cannot be read as an image
{INPAINT} edit.image=large.png => large.png has 8x9 pixels (width x height), 8x8
{INPAINT} edit.mask=white.png => is white everywhere: white pixels
{INPAINT} edit.method.jump=9 => config.edit.method: jump is 9: it must be less than
  the 4 steps
edit=superres edit.method=repaint => config.edit.method=repaint needs a mask: set it to
  reconstruction or palette for edit=superres
edit.method=replace edit.method.jump=1 => edit.method.jump
edit.method=palette => needs a run with conditioning.image=inpaint
edit.label=10 => edit.label=10 is not a class: the classes are 0..9
conditioning.dropout=0 => config.edit.label: the network of this run needs a class: the classes are
sampling.sampler=unipc => which sampling.sampler=unipc would
edit=sdedit {INPAINT} sampling.sampler=unipc => config.edit.mask changes x between steps, which
  sampling.sampler=unipc
edit=colorize edit.image=digit.png => this run have no colours
edit=interpolate edit.num_samples=1 => config.edit.num_samples=1 is not an integer of at least 2
edit=interpolate conditioning.self_conditioning=True => was trained with
  conditioning.self_conditioning
sampling.guidance.scale=2 => guidance.scale=2.0 needs a class: give --config
sampling.classifier.run=x => config.sampling.classifier: edits cannot be guided
edit.label=1 sampling.sampler=feynman_kac sampling.sampler.scale=2 => sampler=feynman_kac: edits
  cannot be guided by it
conditioning.labels=False conditioning.dropout=0 edit.label=1 => takes no labels
conditioning.image=inpaint edit=sdedit => trained with conditioning.image=inpaint
conditioning.image=inpaint edit.method=reconstruction => conditioning.image=None
shapes_text conditioning.dropout=0 sampling.guidance=None sampling.num_samples=100 =>
  sampling.prompt
digits_classifier => is a classifier, which makes no images
digits_vae => is a VAE, which cannot edit pictures
text_masked => config.edit=inpaint needs pictures, uint8 [H, W, C], and your data are
{INPAINT} sampling.num_samples=2 => config.sampling.num_samples=2 has no effect with --mode=edit,
  which reads edit.num_samples, label and output: leave one
edit=interpolate sampling.sampler=heun => sampling.sampler=heun has no effect with edit=interpolate,
  which has steps of its own
edit=restore edit.image=digit.png => config.edit.operator is not set: restore needs one of mask,
  matrix, blur, motion, downsample, gray, hdr, phase, or your own
edit=restore edit.operator=mask edit.image=digit.png => mask is not set: give
  --config.edit.operator.mask=file.png
edit=steer => config.edit.reward is not set: steer needs one of brightness, or
edit=restore edit.operator=blur edit.posterior=decoupled sampling.sampler=heun =>
  sampling.sampler=heun has no effect with edit.posterior=decoupled
edit=restore edit.operator=blur edit.posterior=proximal sampling.sampler=heun => has no effect with
  edit.posterior=proximal
edit=restore edit.operator=blur edit.posterior=gibbs sampling.num_steps=2 =>
  sampling.grid.number=2 has no effect with edit.posterior=gibbs
edit=restore edit.operator=downsample => image is not set: give --config.edit.image='in/*.png'
edit=restore edit.operator=downsample edit.image=none/*.png => image=none/*.png: no picture was
  found
edit=restore edit.operator=downsample edit.image=digit.png => digit.png has 8x8 pixels (width x
  height), 4x4 are needed
edit=restore edit.operator=hdr edit.image=digit.png => posterior=moment needs a linear operator, and
  hdr is not: set posterior
self_conditioning edit=steer edit.reward=brightness => edit=steer needs a denoiser
self_conditioning edit=restore edit.operator=downsample edit.simulate=True edit.image=digit.png =>
  edit=restore needs a denoiser
"""
TABLES['evaluate'] = """
evaluation.batch_size=99999999999 => evaluation.batch_size=99999999999: a batch takes 23,842 GiB
evaluation.metrics= => metrics is empty: give one of elbo, ode
evaluation.elbo.random_steps=9 evaluation.elbo.num_steps=5 => config.evaluation.elbo: steps is 9: it
  must
evaluation.fid.num_draws=3 => config.evaluation.fid.num_draws=3 has no effect with
  evaluation.metrics=elbo: add fid, or leave this out
evaluation.sweep=num_steps => num_steps is not field=value,value
evaluation.sweep='weights.decay=0.5 num_steps=3,4' => config.evaluation.sweep: num_steps has no
  effect with evaluation.metrics=elbo: elbo has its own, evaluation.elbo.num_steps
evaluation.sweep=guidance.scale=2,2.0 evaluation.metrics=fd => has the point guidance.scale=2.0
  twice
two_moons data=csv data.path=a.csv data.x=a data.context=b data.label=c conditioning.labels=True
  evaluation.metrics=sbc => sbc draws x given only the context, and this run has labels, too
evaluation.sweep=num_stps=3 => config.sampling.num_stps (did you mean
evaluation.metrics=accuracy evaluation.features=pixels => these classes, as digits has: set
  config.evaluation.features, now
evaluation.metrics=accuracy evaluation.features=digits conditioning.labels=False
  conditioning.dropout=0 => accuracy needs labels of the samples
evaluation.metrics=memorisation evaluation.features=pixels evaluation.reference=test =>
  reference=test: memorisation compares samples with the training examples
table evaluation.metrics=copies evaluation.reference=test => reference=test: copies compares samples
  with the training examples
evaluation.metrics=fd evaluation.features=x => features='x' is not one of
evaluation.metrics=loss objective=vlb => config.evaluation.loss: objective=vlb does not only denoise
evaluation.metrics=loss objective=tests.app.toy_parts:objective => is your own: diffusion_jax.tes
digits_classifier evaluation.metrics=loss => config.evaluation.metrics: a classifier has no metric
  'loss': give one of accuracy, independent_pixels
evaluation.metrics=fd_pixels => fd with --config.evaluation.fd.features=pixels
evaluation.metrics=tests.app.toy_parts:no => has no attribute 'no'
evaluation.metrics=nowhere:fd => has the name of another metric
evaluation.metrics=fid => need classify_image_graph
evaluation.metrics=fd evaluation.features=classifier => no file : give as weights a file that
  --mode=convert
evaluation.metrics=fd evaluation.features=classifier evaluation.weights=digit.png => digit.png is
  not an exported classifier: give
two_moons evaluation.metrics=fid => config.evaluation.metrics=fid needs pictures
evaluation.metrics=is evaluation.features=pixels => is needs logits of a
"""
TABLES['convert'] = """
none => give either source=<weights>, which become
none convert.source=none => convert.source: file or folder none not found
none convert.source=stored/ho convert.format=diffuser => convert.format='diffuser' (did you mean
  'diffusers'?) is not one of diffusers
none convert.source=stored/ho convert.options=ema => convert.options: 'ema' is not name=value
none convert.source=stored/ho convert.options=ema=True => convert.source: unknown options of
  UNet2DModel: ema; known are
none convert.source=stored/ho/config.json => config.json cannot be read as weights (safetensors,
  npz, PyTorch or
none convert.source=stored => stored is not a folder of diffusers, which has a
none convert.source=digit.png => digit.png cannot be read as weights
none convert.source=runs/digits => runs/digits is a folder of the class None
none convert.source=checkpoint_26 => is ambiguous: give --config.convert.format=
none convert.source=chainer.npz => are not read: give a folder of diffusers
none convert.source=stored/ho network=dit => config.network.name is unet, dit now: this comes with
  the weights
none convert.source=stored/labels data=digits => config.data=digits: image_shape is (8, 8, 1), and
  (4, 4, 1) for
digits convert.source=stored/labels => holds a run: give another --workdir
none convert.to=diffusers => convert.out is not set: give the file
convert.to=onnx convert.out=x => ONNX is not written. stablehlo is a program that JAX runs
none convert.to=safetensors convert.out=x convert.label=1 => convert.label is for
  convert.to=diffusers only
convert.to=diffusers convert.out=x sampling.num_steps=3 => sampling.grid.number=3 has no effect with
  convert.to=diffusers, which writes weights and the schedule
convert.to=lora convert.out=x sampling.guidance.scale=3 => sampling.guidance=classifier_free has no
  effect with convert.to=lora
convert.to=lora convert.out=x => to=lora exports adapters: train
convert.to=safetensors convert.out=digit.png => digit.png exists already
digits_classifier sampling.checkpoint=latest convert.to=diffusers convert.out=x =>
  network='NoisyClassifier' has no counterpart in diffusers: it can be 'UNet'
convert.to=stablehlo convert.out=x sampling.classifier.run=runs/digits_classifier => cannot export
  guidance
"""
TABLES['average'] = """
seed=0 => average.sigma_rel is not set: give a relative width
average.sigma_rel=0.05 => runs/digits has no snapshots, and averages need them: train with
  --config.training.average=powers --config.training.average.widths=0.05,0.10
"""
TABLES['report'] = 'report.runs=lost => report.runs: lost is not a run folder'


def rows(table):
  """Yields (config, flags, message) of the rows of a table."""
  for flags, message in refusals.typed(table):
    name, *flags = shlex.split(flags)
    if '=' in name:
      name, flags = 'digits', [name, *flags]
    yield name, flags, message


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Makes runs/ and the files that the rows name."""
  folder = tmp_path_factory.mktemp('refusals')
  for name in RUNS.split():
    untrained(config_of(name), folder / 'runs' / name)
  (folder / 'stored').symlink_to(CONFIGS.parent / 'tests/interop/stored')
  grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
  for name, x in {
    'digit': grey,
    'mask': np.where(grey < 32, 255, 0).astype(np.uint8),
    'white': np.full((8, 8), 255, np.uint8),
    'small': grey[::2, ::2],
    'large': np.zeros((9, 8), np.uint8),
  }.items():
    Image.fromarray(x).save(folder / f'{name}.png')
  (folder / 'text.png').write_text('no picture')
  (folder / 'a.csv').write_text('a,b,c\n1,2,u\n2,1,v\n')
  weights = serialization.msgpack_serialize({'a': np.zeros(3)})
  (folder / 'checkpoint_26').write_bytes(weights)
  chainer = {'model/conv_in/W': np.zeros((3, 3, 3, 8))}
  np.savez(folder / 'chainer.npz', **chainer)
  return folder


def config_of(name, **fields):
  if name == 'none':
    return without_config(**fields)
  more = {
    'digits_latent': {'latent.run': 'runs/digits_autoencoder'},
    'digits_autoencoder': {'network': AUTOENCODER},
    'self_conditioning': {'conditioning.self_conditioning': True},
  }.get(name, {})
  small = name in ('digits', 'self_conditioning')
  return trial('digits' if small else name, small=small, **more | fields)


def files_in(folder):
  paths = [path for path in folder.rglob('*') if path.is_file()]
  return {path for path in paths if path.name != 'settings.json'}


@pytest.mark.parametrize(
  'mode, name, flags, message',
  [
    pytest.param(mode, *row, id=' '.join((mode, row[0], *row[1])))
    for mode, table in TABLES.items()
    for row in rows(table)
  ],
)
def test_a_mistake_is_one_clear_line(mode, name, flags, message, folder, monkeypatch):
  """Nothing is compiled, or written but the settings of an evaluation."""
  monkeypatch.chdir(folder)
  refuse_to_compile(monkeypatch)
  before = files_in(folder)
  fields = dict(flag.split('=', 1) for flag in flags)
  workdir = 'new' if mode == 'train' else f'runs/{name}'
  start: Any = MODES[mode]
  found = refused('', lambda: start(config_of(name, **fields), Path(workdir), given=fields))
  assert message in found, found
  assert files_in(folder) == before and not Path('new').exists()

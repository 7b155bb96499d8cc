"""The side of torch and diffusers of benchmarks.against_torch.

In its best setting: channels last, fused Adam, averages by torch._foreach, the
samplers in inference mode; on a GPU torch.compile, bfloat16 and TensorFloat-32
too.
"""

import contextlib
import copy

import diffusers
import torch
from diffusers.utils import logging
from torch.nn.functional import mse_loss

from benchmarks import cases, edm2_torch, turns

logging.set_verbosity_error()
SCHEDULER = diffusers.DDPMScheduler()


def _denoise(module, x, noise, labels):
  return module(x, timestep=noise, class_labels=labels).sample


def _ddpm_loss(module, x0, labels, objective):
  steps = torch.randint(1000, x0.shape[:1], device=x0.device)
  eps = torch.randn_like(x0)
  found = _denoise(module, SCHEDULER.add_noise(x0, eps, steps), steps, labels)
  return mse_loss(found.float(), eps)


def _vae_loss(module, x0, labels, objective):
  # Ours has the mass of N(output, 1) in the bin of a pixel: a little more work.
  q = module.encode(x0).latent_dist
  error = mse_loss(module.decode(q.sample()).sample.float(), x0)
  return 0.5 * error + objective.beta * q.kl().float().mean() / x0[0].numel()


def _edm_loss(module, x0, labels, objective):
  eps, times = torch.randn_like(x0), objective.times
  sigma = torch.randn(len(x0), 1, 1, 1, device=x0.device)
  sigma = (times.mean + times.std * sigma).exp()
  norm = (sigma**2 + 0.25).sqrt()
  noise = sigma.log().flatten() / 4
  found = module((x0 + sigma * eps) / norm, noise, labels).float()
  # With EDM's weight, 1 / c_out^2, and sigma_data 0.5.
  return mse_loss(found, (2.0 * sigma * x0 - 0.5 * eps) / norm)


# class: (output, loss)
KINDS = {
  'UNet2DModel': (_denoise, _ddpm_loss),
  'DiTTransformer2DModel': (_denoise, _ddpm_loss),
  'AutoencoderKL': (lambda module, x, *_: module(x).sample, _vae_loss),
  'EDM2': (lambda module, *inputs: module(*inputs), _edm_loss),
}


class Side:
  """Runs forward passes, training steps and DDIM of a `turns.Case`."""

  def __init__(self, case):
    self.case = case
    self.ours = cases.make_model(case)
    self.gpu = torch.cuda.is_available()
    self.device = torch.device('cuda' if self.gpu else 'cpu')
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    self.dtype = getattr(torch, case.dtype)
    if self.gpu and case.memory:
      torch.cuda.set_per_process_memory_fraction(case.memory)
    self.labels = self._labels(case.batch)
    options = cases.torch_options(self.ours)
    kind = options.get('_class_name', 'EDM2')
    self.output, self.loss = KINDS[kind]
    make = edm2_torch.UNet
    make = make if kind == 'EDM2' else getattr(diffusers, kind).from_config
    model = make(options)
    self.model = model.to(self.device, memory_format=torch.channels_last)
    if case.remat:
      self.model.enable_gradient_checkpointing()
    self.run = None

  def facts(self):
    """Returns versions, the device, parameters and the rate of products."""
    name = torch.cuda.get_device_name() if self.gpu else 'cpu'
    return {
      'versions': {'torch': torch.__version__, 'diffusers': diffusers.__version__},
      'device': name,
      'parameters': sum(p.numel() for p in self.model.parameters()),
      'matmul_flop_per_s': self._matmul_rate(),
    }

  def compute(self, x, noise, tensors):
    """Takes our weights; returns the output in float32."""
    tensors = {name: torch.from_numpy(a) for name, a in tensors.items()}
    self.model.load_state_dict(tensors)
    labels = self._labels(len(x))
    with torch.inference_mode():
      x = torch.tensor(x, device=self.device).permute(0, 3, 1, 2)
      noise = torch.tensor(noise, device=self.device)
      out = self.output(self.model.eval(), x, noise, labels)
    return out.permute(0, 2, 3, 1).float().cpu().numpy()

  def prepare(self, task):
    """Makes 'forward', 'train' or 'ddim' ready, compiled where it is asked."""
    self.run = getattr(self, f'_{task}')()
    if self.gpu:
      torch.cuda.reset_peak_memory_stats()
    return {'torch_compile': self.case.compiled}

  def begin(self, tensors):
    """Takes the first weights of a training."""
    self.first = {name: torch.from_numpy(a) for name, a in tensors.items()}

  def curve(self, images, seed, rate):
    """Trains on images uint8 [steps, B, H, W, C]; see `turns.curve`."""
    torch.manual_seed(seed)
    self.model.load_state_dict(self.first)
    step = self._train(rate)

    def advance(batch):
      x = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2)
      return step(x.float() / 127.5 - 1.0)

    losses, seconds = turns.curve(advance, images)
    return [float(x) for x in losses], seconds

  def wait(self):
    """Waits for the GPU."""
    if self.gpu:
      torch.cuda.synchronize()

  def peak(self):
    """Returns the peak of the memory in bytes: of the GPU or the process."""
    if self.gpu:
      return torch.cuda.max_memory_allocated()
    return turns.peak_bytes()

  def _compile(self, model):
    if self.case.compiled:
      is_vae = self.loss is _vae_loss  # whose two parts are called
      for part in (model.encoder, model.decoder) if is_vae else (model,):
        part.compile()

  def _labels(self, count):
    if not self.ours.conditioning.labels:
      return None
    return torch.from_numpy(cases.labels_of(self.ours, count)).to(self.device)

  def _images(self):
    shape = self.case.batch, *self.ours.facts.x.shape
    x = torch.randn(shape, device=self.device)
    return x.permute(0, 3, 1, 2)  # channels last in memory

  def _for_sampling(self):
    model = copy.deepcopy(self.model).eval().to(self.dtype)
    model = model.to(memory_format=torch.channels_last)
    self._compile(model)
    return model

  def _forward(self):
    model, x = self._for_sampling(), self._images().to(self.dtype)
    level = cases.network_of(self.case).noise[1]
    noise = torch.full((self.case.batch,), level, device=self.device)

    @torch.inference_mode()
    def run():
      self.output(model, x, noise, self.labels)

    return run

  def _ddim(self):
    model, shape = self._for_sampling(), self._images().shape
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(self.case.ddim_steps)

    @torch.inference_mode()
    def run():
      x = torch.randn(shape, device=self.device)
      x = x.to(memory_format=torch.channels_last)
      for t in scheduler.timesteps:
        times = t.to(self.device).expand(self.case.batch)  # DiT needs them all
        eps = self.output(model, x.to(self.dtype), times, self.labels)
        x = scheduler.step(eps.float(), t, x).prev_sample

    return run

  def _train(self, rate=2e-4):
    model = self.model.train()
    self._compile(model)
    objective = self.ours.config.objective
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    adam = torch.optim.Adam(parameters, lr=rate, fused=True)
    clip_norm = self.ours.config.optimizer.clip_norm
    fixed = self._images().clamp(-1.0, 1.0)
    half = contextlib.nullcontext()
    if self.dtype != torch.float32:
      half = torch.autocast(self.device.type, self.dtype)

    def run(image=fixed):
      with half:
        loss = self.loss(model, image, self.labels, objective)
      adam.zero_grad(set_to_none=True)
      loss.backward()
      if clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
      adam.step()
      torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1e-4)
      return loss.detach()

    return run

  def _matmul_rate(self):
    size = 8192 if self.gpu else 2048
    a, b = torch.randn(2, size, size, device=self.device, dtype=self.dtype)
    best = float('inf')
    for _ in range(11):
      self.wait()
      self.run = lambda: torch.matmul(a, b)
      best = min(best, turns.time_calls(self, 1)[0])
    return 2 * size**3 / best

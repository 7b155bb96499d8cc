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

from benchmarks import cases, turns

logging.set_verbosity_error()


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
    self.labels = {}
    if self.ours.conditioning.labels:
      labels = torch.zeros(case.batch, dtype=torch.long, device=self.device)
      self.labels = {'class_labels': labels}
    self.kind, self.folder = diffusers.UNet2DModel, 'unet'
    options = cases.torch_options(self.ours)
    if options['_class_name'] == 'DiTTransformer2DModel':
      self.kind, self.folder = diffusers.DiTTransformer2DModel, 'transformer'
    self.model = self._place(self.kind.from_config(options))
    self.run = None

  def facts(self):
    """Returns versions, the device, parameters and the rate of products."""
    name = torch.cuda.get_device_name() if self.gpu else 'cpu'
    return {
      'versions': {
        'torch': torch.__version__,
        'diffusers': diffusers.__version__,
      },
      'device': name,
      'parameters': sum(p.numel() for p in self.model.parameters()),
      'matmul_flop_per_s': self._matmul_rate(),
    }

  def compute(self, folder, x, noise):
    """Returns the output for weights that ours wrote, in float32."""
    model = self.kind.from_pretrained(
      f'{folder}/{self.folder}', low_cpu_mem_usage=False
    )
    model = self._place(model.eval())
    labels = {name: a[:2] for name, a in self.labels.items()}
    with torch.inference_mode():
      x = torch.from_numpy(x).permute(0, 3, 1, 2).to(self.device)
      noise = torch.from_numpy(noise).to(self.device)
      out = model(x, timestep=noise, **labels).sample
    return out.permute(0, 2, 3, 1).float().cpu().numpy()

  def prepare(self, task):
    """Makes 'forward', 'train' or 'ddim' ready, compiled where it is asked."""
    self.run = getattr(self, f'_{task}')()
    if self.gpu:
      torch.cuda.reset_peak_memory_stats()
    return {'torch_compile': self.case.compiled}

  def wait(self):
    """Waits for the GPU."""
    if self.gpu:
      torch.cuda.synchronize()

  def peak(self):
    """Returns the peak of the memory in bytes: of the GPU or the process."""
    if self.gpu:
      return torch.cuda.max_memory_allocated()
    return turns.peak_bytes()

  def _place(self, model):
    model = model.to(self.device, memory_format=torch.channels_last)
    if self.case.remat:
      model.enable_gradient_checkpointing()
    return model

  def _compiled(self, function):
    return torch.compile(function) if self.case.compiled else function

  def _images(self):
    shape = self.case.batch, *self.ours.state_shape
    x = torch.randn(shape, device=self.device)
    return x.permute(0, 3, 1, 2)  # channels last in memory

  def _for_sampling(self):
    model = copy.deepcopy(self.model).eval().to(self.dtype)
    model = model.to(memory_format=torch.channels_last)
    return self._compiled(model)

  def _forward(self):
    model, x = self._for_sampling(), self._images().to(self.dtype)
    noise = torch.full((self.case.batch,), 500, device=self.device)

    @torch.inference_mode()
    def run():
      model(x, timestep=noise, **self.labels)

    return run

  def _times(self, t):
    # A number for each image, which DiT needs.
    return t.to(self.device).expand(self.case.batch)

  def _ddim(self):
    model, shape = self._for_sampling(), self._images().shape
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(self.case.ddim_steps)

    @torch.inference_mode()
    def run():
      x = torch.randn(shape, device=self.device)
      x = x.to(memory_format=torch.channels_last)
      for t in scheduler.timesteps:
        eps = model(
          x.to(self.dtype), timestep=self._times(t), **self.labels
        ).sample
        x = scheduler.step(eps.float(), t, x).prev_sample

    return run

  def _train(self):
    model = self.model.train()
    called = self._compiled(model)
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    adam = torch.optim.Adam(parameters, lr=2e-4, fused=True)
    scheduler = diffusers.DDPMScheduler()
    clip_norm = self.ours.config.optimizer.clip_norm
    image = self._images().clamp(-1.0, 1.0)
    half = contextlib.nullcontext()
    if self.dtype != torch.float32:
      half = torch.autocast(self.device.type, self.dtype)

    def run():
      steps = torch.randint(1000, (self.case.batch,), device=self.device)
      eps = torch.randn_like(image)
      xt = scheduler.add_noise(image, eps, steps)
      with half:
        found = called(xt, timestep=steps, **self.labels).sample
      loss = torch.nn.functional.mse_loss(found.float(), eps)
      adam.zero_grad(set_to_none=True)
      loss.backward()
      if clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
      adam.step()
      torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1e-4)

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

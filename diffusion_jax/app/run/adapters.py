"""Trainings of adapters of the weights of another run (training.lora_rank)."""

import dataclasses

from diffusion_jax.app import models
from diffusion_jax.app.config import predecessors
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.model import Frozen, Model
from diffusion_jax.app.run import other_runs
from diffusion_jax.runtime import buckets, processes
from diffusion_jax.training import lora
from diffusion_jax.weights import adapters
from diffusion_jax.weights.checkpoints import check_fits


def adapted(model: Model) -> Model:
  """Returns the model whose parameters are adapters, for a training.

  It is the model itself if training.lora_rank is 0. The first start copies the
  base, the averaged weights of training.init_from, into the run folder. Raises
  UserError for a network without kernels to adapt.
  """
  c = model.config.training
  if not c.lora_rank:
    return model
  scale = (c.lora_alpha or c.lora_rank) / c.lora_rank
  shapes, teacher = models.shapes(model), model.teacher

  def init(key):
    args = key, shapes['network'], c.lora_rank, c.lora_convolutions
    with from_config('training.lora_rank'):
      return {'network': lora.lora_init(*args)}

  def draw(params, guides, keys, cond):
    assert model.draw is not None
    rest = dict(params)
    merged = lora.merge_network(rest.pop(lora.BASE), params, scale)
    return model.draw(rest | merged, guides, keys, cond)

  def objective(test=False):
    return lora.lora_objective(model.objective(test), scale)

  def prepare(source, mesh):
    return teacher.prepare(source, mesh) | {lora.BASE: _base(model, scale)}

  def base_shapes():
    return {**teacher.shapes(), lora.BASE: shapes}

  frozen = Frozen(prepare, base_shapes, teacher.load)
  parts = {'init': init, 'objective': objective, 'teacher': frozen}
  return dataclasses.replace(model, draw=model.draw and draw, **parts)


def _base(model, scale):
  # Returns the base; the first start copies it into the run folder.
  path, workdir = adapters.path_of(model.workdir), model.workdir
  begun = path.exists() or predecessors.has_checkpoint(workdir)
  if not processes.broadcast([begun])[0]:
    field, run = 'training.init_from', model.config.training.init_from
    params = other_runs.open_weights(field, run, model.init).params
    if processes.is_first():
      adapters.write(workdir, params, scale)
    buckets.share(path, 'the base')
  with from_config('training.lora_rank'):
    base, stored = adapters.read(workdir)
    check_fits(base, models.shapes(model), f'{path} is of another network')
    if stored != scale:
      raise ValueError(f'lora_alpha / lora_rank is {scale:g}, and {stored:g} in {path}')
  return base

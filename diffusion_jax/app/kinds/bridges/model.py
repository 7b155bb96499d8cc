"""Bridges: models that take the points of a source to the data, and back."""

import dataclasses
import functools

import diffusion_jax as dj
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.bridges import BridgeSampling
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.model import Guides, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.rules import described
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.bridges.equations import reversed_bridge
from diffusion_jax.bridges.objective import predicted
from diffusion_jax.bridges.sampler import bridge_sampler
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a bridge; models see the points of the source as they see x."""
  _check_source(facts)
  facts, outputs = facts._replace(context=facts.x), 1 + bool(config.objective.diffusion)
  noisy = ConfiguredNetwork.of(config, facts, channels=outputs * facts.x.shape[-1])
  c: BridgeSampling = config.sampling.make()
  model = diffusion.of_network(noisy, run, functools.partial(plan_of, noisy, c))
  return dataclasses.replace(model, ends=c.ends)


def _check_source(facts):
  if facts.context is None:
    raise UserError(
      'config.objective=bridge needs data with a source: set data=between, or give data=npz a '
      '`context` of the shape of x'
    )
  x, source = (described(facts._replace(x=part)) for part in (facts.x, facts.context))
  if x != source:
    raise UserError(f'config.data: x has {x}, and the source {source}: a bridge needs the same')


def plan_of(
  noisy: ConfiguredNetwork,
  c: BridgeSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, from the source to the data or back."""
  schedule, diffusion = noisy.schedule(), noisy.config.objective.diffusion

  def step_function(cond, **_):
    network, entries = noisy.given(), noisy.inputs.among(cond)

    def predict(xt, t):
      output = network.output((params or {})['network'], xt, schedule(t), entries)
      return predicted(output, diffusion)

    return reversed_bridge(predict) if c.reverse else predict

  levels = dj.level_grid(schedule, c.grid.number)
  sampler = bridge_sampler(diffusion, c.stochastic)
  return Plan(schedule, levels, sampler, step_function, noisy.prior_sample, starts=True)

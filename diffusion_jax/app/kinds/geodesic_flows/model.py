"""Flow matching of angles, directions and rotations along geodesics, of one variable of `joint`."""

import dataclasses
import functools

import jax

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.geodesic_flows import GeodesicSampling
from diffusion_jax.app.kinds.model import Guides, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.rules import described
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Objective

X = 'x'  # the variable


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a flow of directions; facts.x says on which manifold."""
  if facts.x.manifold is None:
    raise UserError(
      'config.objective=geodesic_flow needs angles, directions or rotations, and your data are '
      f'{described(facts)}: say data.kind of an npz file, or take another objective'
    )
  manifold, shape = manifold_of(facts), facts.x.shape
  x = jax.ShapeDtypeStruct((1, *shape), 'float32')
  seen, tangent = (jax.eval_shape(f, x) for f in (manifold.seen, lambda x: manifold.log(x, x)))
  # Each angle is one output of a network that sees its cosine and sine.
  channels = 1 if facts.x.manifold == 'angles' else tangent.shape[-1]
  noisy = ConfiguredNetwork.of(config, facts, state_shape=seen.shape[1:], channels=channels)
  plan = functools.partial(plan_of, noisy, config.sampling.make())
  model = diffusion.of_network(noisy, run, plan)
  objective = functools.partial(objective_of, noisy)
  return dataclasses.replace(model, state_shape=shape, objective=objective)


def manifold_of(facts: Facts) -> joint.Manifold:
  """Returns the manifold of x as models see it, whose angles are in radians."""
  if facts.x.manifold == 'angles':
    return joint.circle()
  return joint.sphere() if facts.x.manifold == 'directions' else joint.rotations()


def network_of(noisy: ConfiguredNetwork, test: bool = False) -> joint.JointNetwork:
  """Returns the network as one of the variable X; `test`: without dropout."""
  given = noisy.trained(test)
  is_of_angles = noisy.facts.x.manifold == 'angles'

  def apply(params, x, noise, cond, *, key=None):
    output = given.apply(params, x[X], noise[X], cond, key=key)
    return {X: output[..., 0] if is_of_angles else output}

  variable = joint.directions(manifold_of(noisy.facts), noisy.schedule())
  variable = variable._replace(noise_input=noisy.process.noise_input)
  return joint.JointNetwork(apply, {X: variable}, given.condition)


def objective_of(noisy: ConfiguredNetwork, test: bool = False) -> Objective:
  """Makes the loss; `test`: of a held-out loss, without dropout."""
  section = noisy.config.objective
  made = (section.as_held_out() if test else section).make({'network': network_of(noisy, test)})
  return diffusion.constrained(noisy, made)


def plan_of(
  noisy: ConfiguredNetwork,
  c: GeodesicSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, from uniform points along geodesics."""
  schedule, manifold = noisy.schedule(), manifold_of(noisy.facts)
  shape = noisy.facts.x.shape

  def step_function(cond, **_):
    inputs = noisy.inputs.among(cond)
    denoise = network_of(noisy, test=True).denoiser((params or {})['network'], inputs)
    return lambda x, level: denoise({X: x}, {X: level})[X]

  def prior_sample(keys, level):
    return manifold.uniform(keys, (*keys.shape, *shape))

  levels = dj.level_grid(schedule, c.grid.number)
  return Plan(schedule, levels, joint.geodesic(manifold), step_function, prior_sample)

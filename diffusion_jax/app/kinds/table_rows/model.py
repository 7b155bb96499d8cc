"""Diffusion models of rows of a table, whose cells are numbers and categories."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.model import Guides, Model
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.app.kinds.table_rows import CellFeatures, RowSampling
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.networks.row_network import RowNetwork
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Objective

Array = jax.Array
NUMBERS, CATEGORIES = 'numbers', 'categories'  # the variables
MASKING = dj.PolynomialMasking()  # the schedule of categories, at the time of numbers


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a diffusion model of rows; the columns of x say what its cells are."""
  if not facts.x.kinds:
    raise UserError('config.objective=cells needs rows of a table: set data=table')
  cells: CellFeatures = config.cells.make()
  noisy = ConfiguredNetwork.of(config, facts)
  noisy = dataclasses.replace(noisy, state_shape=(*facts.x.shape, cells.features))
  noisy = dataclasses.replace(noisy, channels=cells.features)
  table = RowModel(noisy, cells.features)
  made = diffusion.of_network(noisy, run, functools.partial(plan_of, table, config.sampling.make()))
  return dataclasses.replace(
    made,
    state_shape=facts.x.shape,
    init=table.init,
    objective=table.objective,
    measured=table,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class RowModel:
  """The variables of a table: its numbers, and its categories, whose states are their numbers.

  All columns of categories have as many states as the longest, and a masked one. x [B, C] has
  all cells in their order, NaN where one is not known, and the number of a state as a float.
  """

  noisy: ConfiguredNetwork
  features: int

  @property
  def facts(self) -> Facts:
    """The facts of the table."""
    return self.noisy.facts

  @functools.cached_property
  def columns(self) -> dict[str, np.ndarray]:
    """The indices of the columns of each variable that the table has."""
    numbers = np.array(self.facts.x.numbers, int)
    others = np.setdiff1d(np.arange(self.facts.x.shape[0]), numbers)
    return {n: x for n, x in ((NUMBERS, numbers), (CATEGORIES, others)) if len(x)}

  @property
  def counts(self) -> tuple[int, ...]:
    """How many categories each of their columns has."""
    return tuple(len(self.facts.x.categories[i]) for i in self.columns.get(CATEGORIES, ()))

  def process(self) -> dj.ReplacementProcess:
    """Returns what categories change to: the masked state."""
    return dj.masking_process(max(self.counts))

  def network_of_rows(self) -> RowNetwork:
    """Returns the Flax module of all cells."""
    numbers = len(self.columns.get(NUMBERS, ()))
    counts = self.counts
    return RowNetwork(self.noisy.network, numbers, counts, self.features)

  def variables(self) -> dict[str, joint.Variable]:
    """Returns the variables, whose cells have levels of their own at one clock."""
    process, made = self.noisy.process, {}
    kind = process.parametrization
    if NUMBERS in self.columns:
      made[NUMBERS] = joint.gaussian(
        process.schedule, kind.kind, sigma_data=kind.sigma_data, level_axes=2
      )
    if CATEGORIES in self.columns:
      made[CATEGORIES] = joint.states(self.process(), MASKING, level_axes=2)
    return {n: v._replace(noise_input=process.noise_input) for n, v in made.items()}

  def split(self, x: Array) -> dict[str, Array]:
    """Returns the variables of x [B, C]; a state that is not known is -1."""
    arrays = {n: x[:, at] for n, at in self.columns.items()}
    if CATEGORIES in arrays:
      states = arrays[CATEGORIES]
      arrays[CATEGORIES] = jnp.where(jnp.isnan(states), -1.0, states).astype(jnp.int32)
    return arrays

  def joined(self, arrays: dict[str, Array]) -> Array:
    """Returns x [B, C] of the variables."""
    parts = [arrays[n].astype(jnp.float32) for n in self.columns]
    order = np.argsort(np.concatenate([*self.columns.values()]))
    return jnp.concatenate(parts, axis=1)[:, order]

  def levels(self, level: dj.NoiseLevel) -> dict[str, dj.NoiseLevel]:
    """Returns the levels of the variables at the time of a level, [] or of cells, [B, C]."""

    def own(name):
      at = self.columns[name]
      mine = jax.tree.map(lambda a: a[:, at] if jnp.ndim(a) == 2 and a.shape[1] > 1 else a, level)
      return mine if name == NUMBERS else MASKING(mine.t)

    return {name: own(name) for name in self.columns}

  def network(self, test: bool = False) -> joint.JointNetwork:
    """Returns the network of all cells; `test`: without dropout."""
    module = self.network_of_rows()

    def apply(params, x, noise, cond, *, key=None) -> Any:
      train = key is not None and not test
      rngs: dict[str, Any] = {'dropout': key} if train else {}
      return module.apply({'params': params}, x, noise, cond, train=train, rngs=rngs)

    return joint.JointNetwork(apply, self.variables())

  def init(self, key: Array) -> Params:
    """Returns the first parameters."""
    x = self.split(jnp.zeros((1, self.facts.x.shape[0])))
    noise = {name: jnp.zeros(a.shape) for name, a in x.items()}
    rngs = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
    return {'network': self.network_of_rows().init(rngs, x, noise, {})['params']}

  def objective(self, test: bool = False) -> Objective:
    """Makes the loss; `test`: of a held-out loss, without dropout."""
    section = self.noisy.config.objective
    own = {
      'network': self.network(test),
      'arrays': lambda batch: self.split(batch['x']),
      'sizes': {name: len(at) for name, at in self.columns.items()},
    }
    made = (section.as_held_out() if test else section).make(own)
    return diffusion.constrained(self.noisy, made)


def plan_of(
  table: RowModel,
  c: RowSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, of rows x [B, C]; other runs do not guide it."""
  schedule = table.noisy.schedule()
  samplers = {}
  if NUMBERS in table.columns:
    samplers[NUMBERS] = c.sampler.make({'schedule': schedule})
  if CATEGORIES in table.columns:
    samplers[CATEGORIES] = dj.ancestral_states(table.process())

  def step_function(cond, **_):
    return table.network(test=True).denoiser((params or {})['network'])

  def prior_sample(keys, level):
    variables = table.variables()
    shapes = {name: (*keys.shape, len(at)) for name, at in table.columns.items()}
    levels = {name: variable.schedule(1.0) for name, variable in variables.items()}
    grids = {n: jax.tree.map(lambda a: a[None], x) for n, x in levels.items()}
    return table.joined(joint.draw_prior(keys, variables, shapes, grids))

  sampler = of_rows(table, joint.joint_sampler(samplers))
  levels = diffusion.levels_of(c.grid, schedule)
  return Plan(schedule, levels, sampler, step_function, prior_sample, stride=table.facts.x.shape[0])


def of_rows(table: RowModel, sampler: Any) -> dj.Sampler:
  """Returns the sampler of the variables as one of rows x [B, C], along the levels of numbers."""

  def step(key, x, state, denoise, *, level_s, level_t):
    level_s, level_t = table.levels(level_s), table.levels(level_t)
    arrays = table.split(x)
    arrays, state = sampler.step(key, arrays, state, denoise, level_s=level_s, level_t=level_t)
    return table.joined(arrays), state

  return dj.Sampler(lambda x: sampler.init(table.split(x)), step)

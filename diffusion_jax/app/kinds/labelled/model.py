"""Diffusion models of examples and their labels, as two variables of one network."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.diffusion import model as diffusion
from diffusion_jax.app.kinds.labelled import GRIDS, LabelFeatures, LabelledSampling
from diffusion_jax.app.kinds.model import Guides, Latents, Model
from diffusion_jax.app.kinds.network import Conditioning, ConfiguredNetwork
from diffusion_jax.app.kinds.sampling import Plan
from diffusion_jax.core.levels import NoiseLevel
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError
from diffusion_jax.networks.labelled_network import LabelledNetwork
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.objectives import Objective

Array = jax.Array
X, LABEL = 'x', 'label'  # the variables
MASKING = dj.PolynomialMasking()  # the schedule of the label, at the time of x


def make(config: Node, run: RunFolder, facts: Facts) -> Model:
  """Makes a diffusion model of examples and their labels."""
  if not facts.num_classes:
    field = sections.label_field(config.data)
    raise UserError(
      f'config.objective=labelled needs data of classes, and these have no labels: set '
      f'{sections.LABELS[field]}'
    )
  head: LabelFeatures = config.label.make()
  noisy = ConfiguredNetwork.of(config, facts)
  # A masked label is the network's null class.
  noisy = dataclasses.replace(
    noisy,
    channels=facts.x.shape[-1] + head.features,
    conditioning=Conditioning(labels=True, dropout=1.0),
  )
  labelled = LabelledModel(noisy, head.features)
  c: LabelledSampling = config.sampling.make()
  is_given = c.drawn == 'x_given_label'
  made = diffusion.of_network(noisy, run, functools.partial(plan_of, labelled, c))
  return dataclasses.replace(
    made,
    conditioning=noisy.conditioning if is_given else Conditioning(),
    init=labelled.init,
    objective=labelled.objective,
    measured=labelled,
    latents=Latents(lambda autoencoder, x, keys=None: x, functools.partial(_example, c.drawn)),
    given=X if c.drawn == 'label_given_x' else '',
    draws=() if c.drawn == 'x' else ('labels',),
  )


def _example(drawn, autoencoder, z):
  # Returns x of both variables, or of an array that is x; 0 where it is integrated out.
  x = z[X] if isinstance(z, dict) else z
  return jnp.zeros_like(x) if drawn == 'label' else x


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledModel:
  """The variables of labelled examples: x, and the label with a masked state."""

  noisy: ConfiguredNetwork
  features: int

  @property
  def facts(self) -> Facts:
    """The facts of the examples."""
    return self.noisy.facts

  def process(self) -> dj.ReplacementProcess:
    """Returns what a label changes to: the masked state."""
    return dj.masking_process(self.facts.num_classes)

  def module(self) -> LabelledNetwork:
    """Returns the Flax module of both."""
    return LabelledNetwork(self.noisy.network, self.facts.num_classes, self.features)

  def variables(self, of_bound: bool = False) -> dict[str, joint.Variable]:
    """Returns the variables; of_bound: x has the weight of the bound, not the training's."""
    process = self.noisy.process
    kind, schedule = process.parametrization, process.schedule
    weight = dj.vdm_weight(schedule) if of_bound else dj.v_weight
    made = {
      X: joint.gaussian(schedule, kind.kind, weight=weight, sigma_data=kind.sigma_data),
      LABEL: joint.states(self.process(), MASKING),
    }
    return {n: v._replace(noise_input=process.noise_input) for n, v in made.items()}

  def network(self, test: bool = False, of_bound: bool = False) -> joint.JointNetwork:
    """Returns the network of both; `test`: without dropout."""
    module = self.module()

    def apply(params, x, noise, cond, *, key=None) -> Any:
      train = key is not None and not test
      rngs: dict[str, Any] = {'dropout': key} if train else {}
      return module.apply({'params': params}, x, noise, cond, train=train, rngs=rngs)

    return joint.JointNetwork(apply, self.variables(of_bound))

  def init(self, key: Array) -> Params:
    """Returns the first parameters."""
    x = {X: jnp.zeros((1, *self.facts.x.shape)), LABEL: jnp.zeros(1, int)}
    noise = {name: jnp.zeros(1) for name in x}
    rngs = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
    return {'network': self.module().init(rngs, x, noise, {})['params']}

  def objective(self, test: bool = False) -> Objective:
    """Makes the loss; `test`: of a held-out loss, without dropout."""
    section, shape = self.noisy.config.objective, self.facts.x.shape
    own = {
      'network': self.network(test),
      'arrays': lambda batch: {X: batch['x'], LABEL: batch['label']},
      'size': jnp.zeros(shape).size,
    }
    made = (section.as_held_out() if test else section).make(own)
    return diffusion.constrained(self.noisy, made)

  def grids(self, levels: NoiseLevel) -> dict[str, NoiseLevel]:
    """Returns the grids of both at the times of the levels of x."""
    return {X: levels, LABEL: MASKING(levels.t)}

  # -- what metrics measure ---------------------------------------------------

  def schedule(self, params: Params) -> dj.Schedule:
    """Returns the schedule of x."""
    return self.noisy.schedule(params)

  def label_logits(self, params: Params, x0: Array) -> Array:
    """Returns log p(label | x_0), [B, num_classes], by one call of the network."""
    masked = jnp.full(len(x0), self.facts.num_classes)
    level = {X: dj.clean_level(), LABEL: MASKING(1.0)}
    found = self.network(True).denoiser(params['network'])({X: x0, LABEL: masked}, level)
    return found[LABEL][:, : self.facts.num_classes]

  def path_loss(
    self,
    params: Params,
    keys: Array,
    x0: dict[str, Array],
    levels: dict[str, NoiseLevel],
    num_times: int,
  ) -> Array:
    """Returns the diffusion loss along a path, [B], in nats; see `joint.path_loss`."""
    network = self.network(True, of_bound=True)
    return joint.path_loss(keys, network, params['network'], levels, x0, num_times=num_times)


def plan_of(
  model: LabelledModel,
  c: LabelledSampling,
  params: Params | None = None,
  guides: Guides | None = None,
) -> Plan:
  """Returns the plan of config.sampling, of a dict of x and labels; no other runs guide it."""
  schedule, process = model.noisy.schedule(), model.process()
  levels = GRIDS[c.drawn](model.grids(diffusion.levels_of(c.grid, schedule)))
  samplers = {
    X: c.sampler.make({'schedule': schedule}),
    LABEL: dj.ancestral_states(process),
  }

  def prior_sample(keys, level):
    shapes = {X: (*keys.shape, *model.facts.x.shape), LABEL: keys.shape}
    grids = {n: jax.tree.map(lambda a: jnp.asarray(a)[None], x) for n, x in level.items()}
    return joint.draw_prior(keys, model.variables(), shapes, grids)

  def place_given(x, cond):
    given = {'x_given_label': ('label', LABEL), 'label_given_x': ('context', X)}
    if c.drawn not in given:
      return x
    name, variable = given[c.drawn]
    return x | {variable: cond[name].astype(x[variable].dtype)}

  def step_function(cond, scale=None, **_):
    return denoiser_of(model, c, params or {}, scale)

  return Plan(
    schedule,
    levels,
    joint.joint_sampler(samplers),
    step_function,
    prior_sample,
    place_given=place_given,
    others=lambda x: {} if c.drawn == 'x' else {'labels': x[LABEL]},
  )


def denoiser_of(
  model: LabelledModel, c: LabelledSampling, params: Params, scale: Array | float | None = None
) -> joint.JointDenoiser:
  """Returns the denoiser of both, whose x is guided by the label and clipped.

  The label at noise, which is the masked state, stands for no label.
  """
  denoise = model.network(test=True).denoiser(params['network'])
  noise = MASKING(1.0)
  output = model.noisy.process.parametrization
  scale = (c.guidance.scale if c.guidance else 1.0) if scale is None else scale

  def both(xt, level):
    found = denoise(xt, level)

    def of_x(x, own):
      return found[X]

    guided = of_x
    if c.guidance is not None and diffusion.is_guided(scale):
      unknown = {LABEL: jnp.full_like(xt[LABEL], model.facts.num_classes)}
      without = joint.given_others(denoise, X, unknown, {LABEL: noise})
      guided = c.guidance.guide(dj.paired(of_x, without, output), scale)
    if c.bound is not None and model.noisy.clips:
      guided = c.bound(guided)
    return {**found, X: guided(xt[X], level[X])}

  return both

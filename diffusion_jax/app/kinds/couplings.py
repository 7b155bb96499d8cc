"""What objective.coupling excludes: all that takes noise to be independent of x_0."""

from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.rules import EDIT, EVALUATE, Row
from diffusion_jax.app.kinds.sampling import draws_noise

_COUPLING = 'objective.coupling'


def _condition_without_cost(c, facts):
  names = 'text', 'image'
  return next((x for x in names if c.at(f'conditioning.{x}')), '')


def _noisy_step(c, facts):
  sampler = c.sampling.get('sampler')
  if sampler is not None and draws_noise(sampler):
    return f'sampler={sampler.name}'
  names = 'stochastic', 'churn', 'ancestral_noise', 'corrector', 'classifier'
  return next((name for name in names if c.sampling.get(name)), '')


def _metric_of_independent_noise(c, facts):
  metrics = sections.of_metrics(c.evaluation)
  return next((name for name, x in metrics.items() if x.declared.independent_noise), '')


_REASON = (
  ' takes noise to be independent of x_0, and objective.coupling={c.objective.coupling.name} '
  'pairs them: '
)

# A row for kinds that can draw by the ODE or by the SDE, whose noise contradicts a coupling.
NOISY_STEP = Row(
  _noisy_step,
  'config.sampling.{it}' + _REASON + 'take steps of the ODE, such as sampling.sampler=ddim with '
  'eta=0',
  section=_COUPLING,
)

COUPLINGS = (
  Row(
    _condition_without_cost,
    'config.conditioning.{it}: objective.coupling={c.objective.coupling.name} has a cost for '
    'labels and contexts only: set one of the two to None',
    section=_COUPLING,
  ),
  Row(
    _metric_of_independent_noise,
    'config.evaluation.metrics={it}' + _REASON + 'take ode',
    EVALUATE,
    section=_COUPLING,
  ),
  Row(
    lambda c, facts: not c.edit.constructor.inverts,
    'config.edit={c.edit.name}' + _REASON + 'take interpolate, which follows the ODE',
    EDIT,
    section=_COUPLING,
  ),
)

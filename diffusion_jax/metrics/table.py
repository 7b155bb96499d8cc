"""The metrics by name: a row is a name and its constructor."""

from collections.abc import Callable, Mapping

from diffusion_jax.metrics import (
  accuracy,
  bound_parts,
  chords,
  fid,
  forecasts,
  likelihoods,
  losses,
  manifolds,
  memorisation,
  mmd,
  of_labelled,
  order_gap,
  pairs,
  regression,
  rows,
  state_bits,
  vae_bits,
  vectors,
)
from diffusion_jax.metrics.metric import ModelMetric, SampleMetric

OfSamples = Mapping[str, Callable[..., SampleMetric]]
OfModels = Mapping[str, Callable[..., ModelMetric]]

# Metrics of generated images, also of any project's files, in any features.
OF_FILES: OfSamples = {
  'fd': fid.fd,
  'sfd': fid.sfd,
  'kid': mmd.kid,
  'is': accuracy.inception,
  'pr': manifolds.pr,
  'dc': manifolds.dc,
  'cmmd': mmd.unit_mmd,
  'accuracy': accuracy.of_samples,
  'memorisation': memorisation.copies,
}
# Metrics of numbers, without features.
OF_VALUES: OfSamples = {
  'c2st': vectors.c2st,
  'sliced_w2': vectors.sliced,
  'energy': mmd.energy,
  'moments': vectors.moments,
}
# Metrics of draws for held-out pairs, of models with a condition or with given elements.
OF_PAIRS: OfSamples = {
  'sbc': pairs.sbc,
  'interval_coverage': pairs.interval_coverage,
  'density_coverage': pairs.density_coverage,
  'tarp': pairs.tarp,
  'contraction': pairs.contraction,
  'regression': regression.regression,
  'crps': forecasts.crps,
  'predictive': forecasts.predictive,
}
# Metrics of rows of a table, of numbers and categories.
OF_ROWS: OfSamples = {
  'shape': rows.shape,
  'trend': rows.trend,
  'alpha_precision': rows.alpha_precision,
  'copies': rows.copies_of_rows,
  'categories': rows.categories,
  'detection': rows.detection,
  'usefulness': rows.usefulness,
}
# Metrics of angles, directions and rotations.
OF_DIRECTIONS: OfSamples = {'chordal_energy': chords.chordal_energy}
METRICS: OfSamples = {'fid': fid.fid, 'sfid': fid.sfid, **OF_FILES, **OF_VALUES, **OF_PAIRS}

# Metrics of a model on real images.
_PIXELS = {'independent_pixels': likelihoods.independent_pixels}
OF_DIFFUSION: OfModels = {
  'elbo': likelihoods.elbo,
  'ode': likelihoods.ode,
  'loss': losses.loss,
  'order_gap': order_gap.order_gap,
  'bound_parts': bound_parts.bound_parts,
  **_PIXELS,
}
OF_STATES: OfModels = {
  'elbo': state_bits.state_elbo,
  'order_gap': state_bits.state_order_gap,
  **_PIXELS,
}
OF_LABELLED: OfModels = {
  'elbo': of_labelled.joint_elbo,
  'labels': of_labelled.label_accuracy,
  **_PIXELS,
}
OF_LATENTS: OfModels = {'ode': vae_bits.latent_ode, **_PIXELS}
OF_OTHERS: OfModels = _PIXELS
OF_VAES: OfModels = {'elbo': vae_bits.vae_elbo, 'iw': vae_bits.importance_weighted, **_PIXELS}
OF_CLASSIFIERS: OfModels = {'accuracy': accuracy.of_classifier, **_PIXELS}

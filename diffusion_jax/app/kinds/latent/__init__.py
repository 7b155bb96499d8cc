"""Diffusion models of latents: their schema and rules."""

from diffusion_jax.app.kinds import choices, diffusion
from diffusion_jax.app.kinds.couplings import NOISY_STEP
from diffusion_jax.app.kinds.rules import EDIT, GUIDED_ALONE, TRAIN, Row
from diffusion_jax.metrics import table

# The last term of hybrid's bound treats latents as grey levels, as DiT does
# (Peebles & Xie 2023). Other bounds need pixels.
_OF_LATENTS = {n: choices.DENOISING[n] for n in ('denoising', 'hybrid')}

_OF_PIXELS = (
  'conditioning.augment',
  'conditioning.image',
  'conditioning.self_conditioning',
  'sampling.classifier',
)


def _needs_pixels(c, facts):
  is_bounded = c.at('sampling.bound.name') not in (None, 'auto')
  return next((path for path in _OF_PIXELS if c.at(path)), 'sampling.bound' * is_bounded)


def _reads_images(c):
  if c.data.name == 'binarized':
    return 'data=binarized draws new images in each epoch'
  return c.conditioning.text and 'conditioning.text reads texts'


def _posterior_of_pixels(c, facts):
  return c.at('edit.posterior') is not None and not c.edit.posterior.make().in_latents


_RULES = (
  Row(
    _needs_pixels,
    'config.{it} needs pixels, and this run diffuses latents (config.latent): switch it off',
  ),
  Row(
    lambda c, facts: c.objective.declared.map_kind,
    'config.objective={c.objective.name} declares map_kind={it}, and flow maps of latents are not '
    'drawn: leave config.latent out',
  ),
  Row(
    lambda c, facts: c.latent.path and _reads_images(c),
    'config.latent.path={c.latent.path}: {it}, which stored latents lack: leave latent.path out, '
    'so that each step encodes its images',
    TRAIN,
  ),
  Row(
    lambda c, facts: c.edit.constructor.observes,
    'config.edit={c.edit.name} needs pixels, and this run diffuses latents: it can do inpaint, '
    'sdedit and interpolate',
    EDIT,
  ),
  Row(
    _posterior_of_pixels,
    'config.edit.posterior={c.edit.posterior.name} needs pixels, and this run diffuses latents: '
    'set it to steered',
    EDIT,
  ),
)

SCHEMA = diffusion.SCHEMA._replace(
  kind='a diffusion model of latents',
  tables={**choices.TABLES, 'objective': _OF_LATENTS},
  metrics={**table.OF_LATENTS, **table.METRICS},
  rules=(*_RULES, GUIDED_ALONE, NOISY_STEP),
)

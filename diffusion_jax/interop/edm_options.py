"""The keywords of EDM's classes (Karras et al. 2022)."""

from collections.abc import Collection
from types import SimpleNamespace

from diffusion_jax.interop.options import (
  Allowed,
  Options,
  check,
  complete,
  typed,
)

# The class of a wrapper, and the keywords of its constructor with defaults.
OUTER: Options = dict(
  precond='EDMPrecond', model_type='DhariwalUNet', img_resolution=0,
  img_channels=3, label_dim=0, use_fp16=False, sigma_min=0,
  sigma_max=float('inf'), sigma_data=0.5, beta_d=19.9, beta_min=0.1, M=1000,
  epsilon_t=1e-5, C_1=0.001, C_2=0.008,
)  # fmt: skip
# The keywords of the networks.
OPTIONS: dict[str, Options] = {
  'SongUNet': dict(
    model_channels=128, channel_mult=(1, 2, 2, 2), channel_mult_emb=4,
    num_blocks=4, attn_resolutions=(16,), dropout=0.1, label_dropout=0,
    augment_dim=0, embedding_type='positional', channel_mult_noise=1,
    encoder_type='standard', decoder_type='standard', resample_filter=(1, 1),
  ),
  'DhariwalUNet': dict(
    model_channels=192, channel_mult=(1, 2, 3, 4), channel_mult_emb=4,
    num_blocks=3, attn_resolutions=(32, 16, 8), dropout=0.1, label_dropout=0,
    augment_dim=0,
  ),
}  # fmt: skip
GROUPS = 32  # in a norm, or fewer so that a group has 4 channels


def choose_options(**given: object) -> SimpleNamespace:
  """Returns all options, with EDM's defaults.

  Raises ValueError for options without a counterpart here. Song et al.'s
  wrapper of VE networks is read around NCSN++ without other inputs only.
  """
  model = str(given.get('model_type', OUTER['model_type']))
  check('EDM', {'model_type': model}, {'model_type': tuple(OPTIONS)})
  defaults = {**OUTER, **OPTIONS[model]}
  if given.get('precond') == 'VEPrecond':
    defaults |= {'sigma_min': 0.02, 'sigma_max': 100}
  return complete(model, defaults, typed(model, defaults, given), _allowed)


def _allowed(o) -> Allowed:
  ve, adm = o.precond == 'VEPrecond', o.model_type == 'DhariwalUNet'
  wrappers = 'EDMPrecond', 'VPPrecond', 'VEPrecond', 'iDDPMPrecond'
  allowed: dict[str, Collection[object] | str] = {
    'precond': wrappers,
    'img_resolution': '' if o.img_resolution else 'it is missing',
    'channel_mult_emb': (4,),
    'augment_dim': (0,) if ve or adm else (0, 9),
    'label_dim': (0,) if ve else (o.label_dim,),
  }
  if adm:
    narrow = o.model_channels * min(o.channel_mult) < 4 * GROUPS
    reason = (
      f'with fewer than {4 * GROUPS} channels its norms have fewer groups'
    )
    return allowed | {
      'model_channels': reason if narrow else '',
      'precond': () if ve else wrappers,
    }
  kinds = {'fourier': 2} if ve else {'positional': 1, 'fourier': 2}
  return allowed | {
    'embedding_type': tuple(kinds),
    'channel_mult_noise': (kinds.get(o.embedding_type),),
    'encoder_type': ('standard', 'residual'),
    'decoder_type': ('standard',),
  }

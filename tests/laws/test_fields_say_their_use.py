"""What a field is for is said by its parameter, and by nothing else.

Planted faults: `remat` of one network without `Free`; `Serve.port` a `WritePath`; `Evaluation`
without `uses`.
"""

import collections

from diffusion_jax import paths
from diffusion_jax.app.config.schema import parameters, uses
from diffusion_jax.app.kinds import roles, schemas
from diffusion_jax.app.modes import MODES
from diffusion_jax.declared import Use, declared_by
from diffusion_jax.networks import vdm

# Words of two meanings, and why.
OTHERS = {('network.attention', vdm.ScoreNetwork): 'whether it has a layer of attention'}


def test_a_name_has_one_use_in_all_choices_of_a_section():
  """A rule looks at the path, so what is said of one choice holds for all."""
  found = collections.defaultdict(lambda: collections.defaultdict(set))
  for path, constructor in schemas.constructors():
    for name, use in uses(constructor).items():
      if (f'{path}.{name}', constructor) not in OTHERS:
        found[f'{path}.{name}'][use].add(constructor)
  assert len(found) > 300
  assert not {field: each for field, each in found.items() if len(each) > 1}


def test_all_choices_of_a_section_say_its_use():
  found = collections.defaultdict(set)
  for path, constructor in schemas.constructors():
    found[path].add(declared_by(constructor).uses)
  assert not {path: each for path, each in found.items() if len(each) > 1}
  assert {path for path, each in found.items() if each != {Use(0)}} == {
    *{*roles.USES} - {'compilation_cache'},
    'latent',
  }


def test_a_section_that_a_mode_is_led_by_says_that_it_uses_a_model():
  """The sections of a mode are the model's own, which are choices, or say how it is used."""
  model = {name for kind in schemas.KINDS for name in kind.choices} - {'edit'}
  assert {name for mode in MODES.values() for name in mode.reads} <= model | {*roles.USES}


def test_what_is_written_is_not_named_by_a_stored_config():
  for path, constructor in schemas.constructors():
    for name, parameter in parameters(constructor).items():
      if paths.use_of(parameter.annotation) == paths.WRITTEN:
        assert {path, name} & {*roles.NOT_READ}, f'{path}.{name}'

"""How images are drawn, in words."""

from collections.abc import Collection, Mapping
from typing import Any

_FIRST = 'sampler', 'grid', 'bound'
# Values of which nothing is said, besides False, 0 and what is left out.
_NEUTRAL: dict[str, Any] = {
  'weights': {'name': 'average', 'decay': 0.0},
  'guidance_scale': 1.0,
  'interval': [0.0, 'inf'],
  'top_p': 1.0,
  'zero_above': 'inf',
}
_SHORT = {'guidance_scale': 'guidance'}


def in_words(sampling: Mapping[str, Any], unsaid: Collection[str]) -> list[str]:
  """Returns how images are drawn by a stored section `sampling`: ['ddim eta=0', '10 steps'].

  unsaid: its fields that do not say how an image is drawn from a checkpoint. Sections that
  differ in another field have other words.
  """
  words = []
  if sampler := sampling.get('sampler'):
    words.append(_section_in_words(sampler))
  if grid := sampling.get('grid'):
    words.append(grid_in_words(grid))
  if 'bound' in sampling and (bound := sampling['bound'] or {'name': 'none'}) != {'name': 'auto'}:
    words.append(f'bound {_section_in_words(bound)}')
  for name, value in sampling.items():
    if name not in (*_FIRST, *unsaid) and value and value != _NEUTRAL.get(name):
      words.append(_field_in_words(name, value))
  return words


def grid_in_words(grid: Mapping[str, Any]) -> str:
  """Returns the levels of a stored section `grid`: '10 steps', '10 logsnr steps', 'respaced 50'.

  A user's own is described by its name and its fields.
  """
  if grid['name'] == 'respaced':
    return f'respaced {grid["steps"]}'
  if grid['name'] != 'steps':
    return _section_in_words(grid)
  number, spacing = grid['number'], grid.get('spacing', 'uniform')
  between = '' if spacing == 'uniform' else f'{spacing} '
  return f'{number} {between}step{"" if number == 1 else "s"}'


def _field_in_words(name: str, value: Any) -> str:
  name = _SHORT.get(name, name)
  if value is True:
    return name
  if not isinstance(value, Mapping):
    return f'{name} {_value_in_words(value)}'
  if 'scale' not in value:
    return f'{name} {_section_in_words(value)}'
  rest = {n: x for n, x in value.items() if n != 'scale' and x and x != _NEUTRAL.get(n)}
  kind, *others = _section_in_words(rest).split(' ', 1)
  # The kind `run` does not say what it guides by.
  return ' '.join([name if kind == 'run' else kind, _value_in_words(value['scale']), *others])


def _section_in_words(section):
  rest = {n: x for n, x in section.items() if n != 'name' and x not in (None, '')}
  return ' '.join([section['name'], *(f'{n}={_value_in_words(x)}' for n, x in rest.items())])


def _value_in_words(x):
  if isinstance(x, Mapping):
    return f'({_section_in_words(x)})'
  if isinstance(x, str):
    return x.partition(', ')[0]  # what was read is stored as its name and its sums
  return repr(x).removesuffix('.0') if isinstance(x, float) else str(x)

"""What may stand in a field as 'module:name', and what is refused uncalled."""

import functools
import sys

import pytest

from diffusion_jax.build import make, own_parts
from diffusion_jax.errors import UserError
from tests.build import toy_parts

NO_PARTS = (
  'os:system',
  'os:popen',
  'os:getcwd',
  'subprocess:run',
  'subprocess:call',
  'subprocess:Popen',
  'builtins:eval',
  'builtins:exec',
  'builtins:exit',
  'builtins:dict',
  'shutil:rmtree',
  'pickle:load',
  'runpy:run_path',
  'sys:modules',
  'sys:version',
)


@pytest.mark.parametrize('field', own_parts.PLACES)
def test_what_is_no_part_is_refused_in_every_place(field):
  own_parts.allow(NO_PARTS)  # as if the user had named them
  for name in NO_PARTS:
    with pytest.raises(UserError, match=f"{field}='{name}' cannot make a"):
      own_parts.find(field, name)


PARTS = {
  'schedule.name': 'Schedule',
  'sampling.schedule': 'Schedule',
  'network.name': 'Network',
  'objective.name': 'objective',
  'sampling.sampler': 'sampler',
  'objective.weight': 'sampler',  # any function whose parameters have defaults
}


@pytest.mark.parametrize('field', PARTS)
def test_a_part_that_the_user_has_named_is_found(field):
  name = f'{toy_parts.__name__}:{PARTS[field]}'
  own_parts.allow([name])
  assert own_parts.find(field, name) is getattr(toy_parts, PARTS[field])


def test_facts_need_no_default_and_partial_functions_are_parts(monkeypatch):
  module = sys.modules[__name__]

  def levels(schedule, variance, *, order=1):
    return order

  for field, name, part in (
    ('sampling.sampler', 'of_facts', levels),
    ('sampling.sampler', 'partial', functools.partial(levels, order=2)),
    ('data.name', 'pictures', lambda split, number: None),
  ):
    monkeypatch.setattr(module, name, part, raising=False)
    own_parts.allow([f'{__name__}:{name}'])
    assert own_parts.find(field, f'{__name__}:{name}') is part
  own = f"{__name__}:of_facts' cannot make a weight: its parameter schedule"
  with pytest.raises(UserError, match=own):
    own_parts.find('objective.weight', f'{__name__}:of_facts')


def test_a_name_that_nobody_has_given_is_not_imported(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'never_named.py').write_text('open("imported", "w")\n')
  message = 'would be imported, .* add --allow=never_named:Schedule'
  with pytest.raises(UserError, match=message):
    own_parts.find('schedule.name', 'never_named:Schedule')
  assert not (tmp_path / 'imported').exists()
  own_parts.allow(['never_named:Schedule'])
  with pytest.raises(UserError, match='cannot be imported: module .* has no'):
    own_parts.find('schedule.name', 'never_named:Schedule')
  assert (tmp_path / 'imported').exists()


def test_other_fields_take_no_modules():
  own_parts.allow(['os:system'])
  with pytest.raises(UserError, match="gamma='os:system' is not one of fixed"):
    make.choose({'fixed': 1}, 'schedule', 'gamma', 'os:system')

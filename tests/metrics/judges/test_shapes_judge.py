"""The judge of shapes reads colour, form, size and place of drawn objects."""

import numpy as np
import pytest

from diffusion_jax.demos import shapes
from diffusion_jax.metrics.judges import shapes_judge
from diffusion_jax.metrics.judges.shapes_judge import compare, detect, judge
from tests import as_main


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('side', [16, 32])
def test_real_pictures_show_what_their_sentences_say(split, side):
  """At least 99 % of the pictures of one object and of two agree."""
  source = shapes.shapes(split, (side, side, 3), 10_000, 2)
  result = judge(*source.read(np.arange(500)).values())
  assert set(result) == {1, 2}
  for verdict in result.values():
    assert verdict['count'] > 150
    assert verdict['all'] >= 0.99


def drawn(sentence, side=16):
  scene = shapes.parse(sentence)
  return shapes.draw_picture(np.random.default_rng(0), scene, side)


ONE = 'a small red square on the left'
WRONG = {
  'number': 'a red square above a blue circle',
  'colour': 'a small purple square on the left',
  'shape': 'a small red cross on the left',
  'size': 'a large red square on the left',
  'place': 'a small red square at the top',
}


@pytest.mark.parametrize('aspect', WRONG)
def test_each_aspect_is_judged_by_itself(aspect):
  found = compare(drawn(WRONG[aspect]), shapes.parse(ONE))
  wrong = {name for name, right in found.items() if not right}
  if aspect == 'number':
    assert len(wrong) == 6
  else:
    assert wrong == {aspect, 'all'}
  assert compare(drawn(WRONG[aspect]), shapes.parse(WRONG[aspect]))['all']


def test_of_two_objects_the_relation_is_judged():
  image = drawn('a red square above a blue circle')
  right = lambda sentence: compare(image, shapes.parse(sentence))
  assert right('a blue circle below a red square')['all']
  for relation in ('below', 'to the left of', 'to the right of'):
    found = right(f'a red square {relation} a blue circle')
    assert found['colour'] and found['shape'] and not found['place']
  swapped = right('a blue square above a red circle')
  assert not swapped['all'] and swapped['number']
  twins = drawn('a white cross to the left of a white cross')
  for relation, expected in (('to the right of', True), ('above', False)):
    scene = shapes.parse(f'a white cross {relation} a white cross')
    assert compare(twins, scene)['place'] == expected


def test_a_square_by_hand():
  """The square has 8 x 8 blue pixels, with the centre at (12, 6)."""
  image = np.full((16, 16, 3), shapes.GROUND, np.uint8)
  image[2:10, 8:16] = shapes.COLOURS['blue']
  (found,) = detect(image)
  assert found[:3] == ('blue', 'square', 'large')
  assert (found.x, found.y) == (12 / 16, 6 / 16)


def test_noise_is_no_object_of_ours():
  noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
  assert judge(noise, [ONE] * 50)[1]['all'] < 0.1


def test_the_command(tmp_path):
  source = shapes.shapes('test', num_pictures=1000, num_objects=2)
  arrays = source.read(np.arange(20))
  path = tmp_path / 'samples.npz'
  np.savez(path, arr_0=arrays['x'], texts=arrays['text'])
  result = as_main.run(shapes_judge, path)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[0].startswith('one object: 100.0% +- 0.0% of ')
  assert lines[1].startswith('2 objects: 100.0% +- 0.0% of ')

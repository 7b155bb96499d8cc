"""Drawn shapes are what their sentences say, and some combinations are held out."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_array_equal

from diffusion_jax.data import pipeline, text
from diffusion_jax.demos import shapes

words = lambda table: st.sampled_from(tuple(table))
kind = words(shapes.COLOURS), words(shapes.SHAPES)
plain = st.builds(shapes.Thing, *kind, st.none(), st.none())
sizes, places = (st.none() | words(t) for t in (shapes.SIZES, shapes.PLACES))
one = st.builds(shapes.Thing, *kind, sizes, places)
scenes = st.builds(shapes.Scene, st.tuples(one), st.none()) | st.builds(
  shapes.Scene, st.tuples(plain, plain), words(shapes.RELATIONS)
)


@given(scenes)
def test_sentences_are_read_back(scene):
  assert shapes.parse(shapes.describe(scene)) == scene


def test_a_sentence_reads_as_one_would_say_it():
  thing = shapes.Thing('red', 'circle', 'small', 'on the left')
  assert shapes.describe(shapes.Scene((thing,))) == ('a small red circle on the left')
  pair = shapes.Thing('red', 'circle'), shapes.Thing('blue', 'square')
  assert shapes.describe(shapes.Scene(pair, 'above')) == ('a red circle above a blue square')


def test_a_picture_is_a_function_of_its_index():
  """A picture does not depend on the other indices, their order or the source."""
  index = np.array([7, 3, 3, 40])
  source = shapes.shapes('train', num_pictures=50, num_objects=2)
  again = shapes.shapes('train', num_pictures=100, num_objects=2)
  images, texts = source.read(index).values()
  assert (images.shape, images.dtype) == ((4, 16, 16, 3), np.uint8)
  for i, image, sentence in zip(index, images, texts, strict=True):
    other = again.read(np.array([i]))
    assert_array_equal(image, other['x'][0])
    assert other['text'] == [sentence]
  assert not (images[0] == images[1]).all()
  test = shapes.shapes('test', num_pictures=100).read(np.array([3]))['x']
  assert not (test[0] == images[1]).all()


def pairs_of(sentence):
  """Returns (colour, shape) of each object, without the parser."""
  colours, names = '|'.join(shapes.COLOURS), '|'.join(shapes.SHAPES)
  return set(re.findall(rf'\b({colours}) ({names})\b', sentence))


@pytest.mark.parametrize('num_objects', [1, 2])
def test_held_out_combinations_are_in_the_test_split_alone(num_objects):
  held_out = set(shapes.HELD_OUT)
  assert len({colour for colour, _ in held_out}) == 4
  assert {shape for _, shape in held_out} == set(shapes.SHAPES)
  train, test = (
    shapes.shapes(split, num_objects=num_objects).read(np.arange(n))['text']
    for split, n in (('train', 2000), ('test', 300))
  )
  drawn = set().union(*map(pairs_of, train))
  assert not drawn & held_out
  assert drawn | held_out == {(c, s) for c in shapes.COLOURS for s in shapes.SHAPES}
  assert all(pairs_of(sentence) & held_out for sentence in test)


def test_areas_are_those_of_the_shapes():
  """Coverage adds up to the area in closed form, at random places."""
  rng = np.random.default_rng(0)
  area = {'circle': np.pi, 'square': 4.0, 'triangle': 2.0, 'cross': 4 * 0.36 * (2 - 0.36)}
  mean = lambda low, high: (low**2 + low * high + high**2) / 3  # of half^2
  for shape, expected in area.items():
    scene = shapes.Scene((shapes.Thing('white', shape, 'large'),))
    found = [
      (shapes.draw_picture(rng, scene, 32)[..., 0] - 64.0).sum() / (250 - 64) for _ in range(100)
    ]
    expected *= 32**2 * mean(*shapes.SIZES['large'])
    assert abs(np.mean(found) / expected - 1) < 0.02


def test_objects_lie_inside_and_apart():
  """The ground is visible in every corner and between two objects."""
  source = shapes.shapes('test', num_pictures=5000, num_objects=2)
  for image, sentence in zip(*source.read(np.arange(200)).values(), strict=True):
    ground = (image == shapes.GROUND).all(axis=-1)
    assert ground[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    if 'above' in sentence or 'below' in sentence:
      rows = ~ground.all(axis=1)
    elif 'left of' in sentence or 'right of' in sentence:
      rows = ~ground.all(axis=0)
    else:
      continue
    assert (np.diff(rows.astype(int)) == 1).sum() + rows[0] == 2


def test_a_batch_has_the_tokens_of_its_pictures():
  source = shapes.shapes('train', num_pictures=30)
  batch = pipeline.batch_at(source, 8, 0, 3, text_length=50)
  assert batch['text'].shape == batch['text_mask'].shape == (8, 50)
  images, texts = source.read(np.arange(30)).values()
  scaled = images.astype(np.float32) / 127.5 - 1.0
  for image, sentence in zip(batch['x'], text.decode(batch['text']), strict=True):
    (i,) = np.flatnonzero(np.abs(scaled - image).max(axis=(1, 2, 3)) < 1e-6)
    assert texts[i] == sentence
  part = pipeline.batch_at(source, 8, 0, 3, rows=slice(4, 6), text_length=50)
  assert_array_equal(part['text'], batch['text'][4:6])
  assert 'text' not in pipeline.batch_at(source, 8, 0, 3)

"""Texts through the programs: training, prompts, captions of a folder."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import shapes_text
from diffusion_jax import build
from diffusion_jax.demos import shapes
from diffusion_jax.data.text import decode
from diffusion_jax.errors import UserError
from diffusion_jax.programs import PROGRAMS, edit, sample
from diffusion_jax.runs import sample_inputs
from tests.programs.conftest import unet_smoke as smoke


def text_config(**changes):
  config = shapes_text.get_config('smoke')
  config.training.mesh = (1, 1)
  config.network.text_layers = 1
  config.network.multipliers = (1,)
  config.network.attention_resolutions = ()
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Four steps, with a preview and a test loss."""
  workdir = tmp_path_factory.mktemp('runs') / 'shapes'
  changes = {
    'sampling.num_samples': 8,
    'sampling.batch_size': 8,
  }
  PROGRAMS['train'](text_config(**changes), str(workdir))
  return workdir


def samples(run, name, **changes):
  fields = {
    'sampling.num_samples': 4,
    'sampling.batch_size': 4,
    'sampling.name': name,
  }
  PROGRAMS['sample'](text_config(**fields | changes), str(run))
  with np.load(run / 'samples' / f'{name}.npz') as arrays:
    lines = (run / 'samples' / f'{name}.txt').read_text().splitlines()
    assert lines == arrays['texts'].tolist()
    return arrays['arr_0'], lines


def test_a_run_is_previewed_and_evaluated(run):
  assert (run / 'samples' / 'step_00000004.png').is_file()
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['test_loss'] > 0


def test_prompts_are_taken_in_turn_and_each_makes_its_picture(run):
  """Guided away from the null text, where the prompt does not matter."""
  prompts = ['a red circle above a blue square', 'a white cross']

  def shown(name, prompt, scale=4.0):
    fields = {'sampling.prompt': prompt, 'sampling.guidance_scale': scale}
    return samples(run, name, **fields)

  two, lines = shown('two', ' | '.join(prompts))
  assert lines == prompts * 2
  one, lines = shown('one', prompts[0])
  assert lines == prompts[:1] * 4
  np.testing.assert_array_equal(one[::2], two[::2])  # image i: seed, i, prompt
  assert (one[1::2] != two[1::2]).any()
  null, _ = shown('null', prompts[0], 0.0)
  np.testing.assert_array_equal(null, shown('other', prompts[1], 0.0)[0])
  assert (null != one).any()


def test_a_sheet_has_a_column_for_each_prompt():
  config = text_config(**{'sampling.prompt': 'a|b|c'})
  pictures = np.zeros((12, 16, 16, 3), np.uint8)
  height, width, _ = sample.sheet(config, pictures).shape
  assert (height, width) == (3 * (4 * 17 + 1), 3 * (3 * 17 + 1))


def test_without_a_prompt_the_texts_of_the_test_split_are_shown():
  test = shapes.shapes('test', num_objects=2)
  texts = sample_inputs.choose_texts(text_config(), 4)
  assert texts == test.texts(range(4))
  config = text_config(**{'data.num_pictures': 20})
  assert sample_inputs.choose_texts(config, 5) == [
    *test.texts(range(2))
  ] * 2 + [test.texts([0])[0]]


def test_the_bound_is_conditioned_on_the_texts(run):
  fields = {
    'evaluation.num_images': 2,
    'evaluation.batch_size': 2,
    'evaluation.num_steps': 2,
  }
  PROGRAMS['evaluate'](text_config(**fields), str(run))
  (result,) = (run / 'evaluation').glob('*/result.json')
  assert 0 < json.loads(result.read_text())['bits_per_dim'] < 20


@pytest.mark.parametrize(
  'prompt, message',
  [
    ('', 'config.sampling.prompt: a text is empty'),
    ('a cross| |a circle', 'config.sampling.prompt: a text is empty'),
    ('a' * 57, r'config.sampling.prompt: .* has 57 bytes, more than .*=56'),
  ],
)
def test_a_prompt_that_cannot_be_read_is_one_line(run, prompt, message):
  with pytest.raises(UserError, match=message) as error:
    samples(run, 'x', **{'sampling.prompt': prompt})
  assert '\n' not in str(error.value)


def test_an_edit_is_conditioned_on_the_prompt():
  fields = {'edit.num_samples': 3, 'sampling.prompt': 'a|b'}
  cond = edit.choose_cond(text_config(**fields))
  assert decode(cond['text']) == ['a', 'b', 'a']
  assert edit.choose_cond(text_config()) == {}  # the null text
  with pytest.raises(UserError, match='sampling.prompt: .* needs a text'):
    edit.choose_cond(text_config(**{'conditioning.dropout': 0.0}))


def test_a_network_without_text_takes_no_prompt():
  with pytest.raises(
    UserError, match='sampling.prompt is set, but the network'
  ):
    sample_inputs.choose_texts(smoke(**{'sampling.prompt': 'a red circle'}), 1)
  assert sample_inputs.choose_texts(smoke(), 1) is None


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: smoke(**{'conditioning.text': True}), 'digits has no texts'),
    (lambda: text_config(**{'data.random_flip': True}), "'on the left' wrong"),
    (
      lambda: text_config(**{'network.name': 'ddpmpp'}),
      "conditioning.text=True needs network.name=unet or dit: 'ddpmpp' takes",
    ),
    (
      lambda: text_config(**{'network.text_heads': 3}),
      'does not divide the 64',
    ),
  ],
)
def test_texts_that_are_refused_end_in_one_line(make, message, tmp_path):
  with pytest.raises(UserError, match=message) as error:
    PROGRAMS['train'](make(), str(tmp_path))
  assert '\n' not in str(error.value)


@pytest.fixture
def pictures(tmp_path):
  """Four pictures in two folders, with captions."""
  lines = []
  for name in ('a/0', 'a/1', 'b/0', 'b/1'):
    path = tmp_path / f'{name}.png'
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (16, 16), (10, 20, 30)).save(path)
    lines.append({'file_name': f'{name}.png', 'text': f'picture {name} ü'})
  text = '\n'.join(map(json.dumps, lines))
  (tmp_path / 'metadata.jsonl').write_text(text)
  return tmp_path


def in_folder(pictures, **changes):
  fields = {
    'data.name': 'folder',
    'data.path': str(pictures),
    'training.batch_size': 4,
  }
  return text_config(**fields | changes)


def test_a_folder_with_captions_is_read_with_its_labels(pictures):
  both = {'data.num_classes': 2, 'conditioning.labels': True}
  config = in_folder(pictures, **both)
  batch = next(build.build_batches(config, build.build_source(config)))
  words = decode(batch['text'])
  assert sorted(words) == [
    f'picture {name} ü' for name in ('a/0', 'a/1', 'b/0', 'b/1')
  ]
  for sentence, label in zip(words, batch['label'], strict=True):
    assert sentence[8] == 'ab'[label]
  # there is no test split: texts of the training split
  assert sample_inputs.choose_texts(config, 2) == [
    'picture a/0 ü',
    'picture a/1 ü',
  ]


def test_a_caption_too_long_is_noticed_at_the_start(pictures):
  config = in_folder(pictures, **{'conditioning.text_length': 12})
  with pytest.raises(UserError, match='config.data: .* has 14 bytes, more tha'):
    build.build_source(config)


def test_a_broken_test_split_is_not_replaced_by_the_training_split(tmp_path):
  for split in ('train', 'test'):
    (tmp_path / split).mkdir()
    Image.new('RGB', (16, 16)).save(tmp_path / split / '0.png')
  line = json.dumps({'file_name': '0.png', 'text': 'black'})
  (tmp_path / 'train' / 'metadata.jsonl').write_text(line)
  with pytest.raises(UserError, match='test'):
    sample_inputs.choose_texts(in_folder(tmp_path), 1)

"""A rule is asked in its modes only; what needs levels, pictures, a grid or a context says so."""

import pytest

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.rules import DECLARED, Row, described, lines, set_fields
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, read

WRONG = Row(lambda c, facts: c.seed, 'seed {it} of {c.network.name}, {data}')
NUMBERS = Facts(ArraySpec((8, 8, 1)))
TEXTS = Facts(ArraySpec((16,), 256))
VECTORS = Facts(ArraySpec((4,)))
OBSERVED = DIGITS._replace(context=ArraySpec((3,)))
# What is needed -> data without it.
WITHOUT = {'levels': NUMBERS, 'pictures': TEXTS, 'a context': NUMBERS, 'data [': TEXTS}
# Mode, config, flag, what it needs.
ROWS = """
train digits sampling.bound=clip levels
train digits sampling.bound=quantile levels
train digits conditioning.self_conditioning=true levels
train digits objective=hybrid levels
train digits objective=vlb levels
train digits_masked objective=masked levels
train digits_d3pm objective=d3pm levels
train digits_vae objective=vae levels
train digits_hvae objective=hvae levels
train digits_classifier objective=classifier pictures
train digits_latent latent=autoencoder pictures
train digits training.random_flip=true pictures
train digits_edm conditioning.augment=0.1 pictures
train digits conditioning.image=inpaint pictures
train digits network=ddpmpp data [
train digits network=edm2 data [
train digits network=vdm data [
train digits conditioning.context=auto a context
train digits sampling.context=y.npz a context
evaluate digits evaluation.metrics=elbo levels
evaluate digits_vae evaluation.metrics=iw levels
evaluate digits evaluation.metrics=independent_pixels levels
evaluate digits evaluation.metrics=fid pictures
evaluate digits evaluation.metrics=sfid pictures
evaluate digits evaluation.metrics=is pictures
evaluate digits evaluation.metrics=cmmd pictures
evaluate digits_classifier evaluation.metrics=accuracy pictures
edit digits edit=inpaint pictures
edit digits edit=sdedit pictures
edit digits edit=interpolate pictures
edit digits edit=superres pictures
edit digits edit=colorize pictures
edit digits edit.operator=blur pictures
edit digits edit.operator=motion pictures
edit digits edit.operator=downsample pictures
edit digits edit.operator=gray pictures
edit digits edit.operator=hdr pictures
edit digits edit.operator=phase pictures
""".strip().splitlines()


@pytest.mark.parametrize('row', ROWS)
def test_what_needs_other_data_says_so_in_one_line(row):
  mode, name, flag, what = row.split(' ', 3)
  path, value = flag.split('=')
  more = [('edit', 'restore')] if path == 'edit.operator' else []
  config = store.with_flags(read(name), [*more, (path, value)])

  def found(facts):
    every = lines(DECLARED, config, mode, None, facts)
    return [line for line in every if line.startswith(f'config.{path}=')]

  assert not found(OBSERVED)
  (line,) = found(WITHOUT[what])
  data = f' and your data are {described(WITHOUT[what])}: '
  assert f' needs {what}' in line and data in line and '\n' not in line


def test_a_table_without_a_context_hears_of_training_without():
  rows = DECLARED
  (line,) = lines(rows, read('two_moons'), 'train', None, VECTORS)
  assert 'or train without, by conditioning.context=None' in line
  config = store.with_flags(read('vectors'), [('sampling.context', 'y.npy')])
  config = datasets.with_conditions(config, VECTORS)
  (line,) = lines(rows, config, 'sample', None, VECTORS)
  assert line.startswith('config.sampling.context=y.npy needs a context, and')
  assert line.endswith('without a context: leave it out')


def test_data_are_described_by_their_kind_and_shape():
  assert described(OBSERVED) == '17 levels [8, 8, 1]'
  assert described(NUMBERS) == 'real numbers [8, 8, 1] without a context'


@pytest.mark.parametrize('modes', [(), ('train',)])
def test_a_rule_is_of_its_modes(modes):
  config = store.with_flags(read('digits'), [('seed', '3')])
  rows = [WRONG._replace(modes=modes)]
  found = [*lines(rows, config, 'train', None, DIGITS)]
  assert found == ['seed 3 of unet, 17 levels [8, 8, 1] without a context']
  assert not [*lines(rows, read('digits'), 'train', None, DIGITS)]
  assert not [*lines([WRONG._replace(modes=('edit',))], config, 'train', None, DIGITS)]


def test_a_field_whose_name_another_begins_with_is_not_set(tmp_path):
  """optimizer.weight_decay_mask is not below optimizer.weight_decay."""
  config = store.with_flags(read('digits'), [('optimizer.weight_decay_mask', 'all')])
  assert not [*set_fields(config, RunFolder.at(tmp_path), ['optimizer.weight_decay'])]
  assert ('optimizer.weight_decay_mask', 'all') in set_fields(
    config, RunFolder.at(tmp_path), ['optimizer']
  )

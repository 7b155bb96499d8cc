"""Law: two numbers of one name, on a page or a card, are of the same conditions.

Results that agree but for the checkpoint, the examples, their classes or the number of samples have
other names in tables, tiles and the comparison of runs, and other words on the card; so have the
curves of a training. What is printed names the judge, the split, the number and the noun, and is
on the page. Losses that are of other things are said to be so. Planted faults: `results.named`
without the checkpoint; `results.examples_of` returns []; `results.final` without the number of
samples; a card without `examples_of`; `told_apart` returns its argument; `scorers.of_samples`
without a suffix; `write` gets the reference of every metric; `sampling_words.in_words` without the
bound, without names of fields that are True, or with the names of sections only; numbers by `:g`;
a grid named by its fields; `costs` of the first point; `results.parts` with the first score of a
result; `roles.OF_LOSS` without a section of `floors.settings_of`.
"""

import copy
import itertools
import json
from unittest.mock import Mock

import numpy as np
import pytest

from diffusion_jax.app.config import folder
from diffusion_jax.app.evaluate import cells, mode as evaluate, scorers
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.app.train import floors
from diffusion_jax.metrics import features, table
from diffusion_jax.report import card, page, record, results
from diffusion_jax.report.charts import Chart
from diffusion_jax.report.record import Record
from diffusion_jax.report.sampling_words import in_words
from diffusion_jax.runtime.files import with_error, write_summed
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import of_run, printed_by, read, smoke, trial, untrained
from tests.app.fields import typed, within

SCORE = {'value': 0.5, 'error': 0.1, 'note': ''}
DRAWN = {'weights': 1, 'sampling': {'checkpoint': '44', 'num_samples': 70, 'seed': 0}}
REAL = {'weights': 1, 'sampling': {'checkpoint': '44'}, 'evaluation': {'split': 'test'}}
KINDS = {
  'fd': {
    'metric': 'fd',
    'metrics': {'fd_digits': SCORE},
    'settings': {**DRAWN, 'evaluation': {'reference': 'train'}},
    'protocol': {'samples': DRAWN},
  },
  'sbc-test': {
    'metric': 'sbc',
    'metrics': {'sbc': SCORE},
    'settings': {**DRAWN, 'evaluation': {'split': 'test'}},
    'split': 'test',
    'pairs': 9,
    'protocol': {'samples': DRAWN},
  },
  'elbo-test': {
    'metric': 'elbo',
    'metrics': {'elbo': SCORE | {'note': 'bits/dim'}},
    'split': 'test',
    'examples': 9,
    'settings': REAL,
  },
  'loss-test': {
    'metric': 'loss',
    'metrics': {'loss': SCORE},
    'losses': {'loss': {'all': SCORE}},
    'split': 'test',
    'examples': 9,
    'settings': REAL,
  },
}
CHANGES = {
  'checkpoint': ('40', ['settings', 'sampling'], ['protocol', 'samples', 'sampling']),
  'num_samples': (80, ['settings', 'sampling'], ['protocol', 'samples', 'sampling']),
  'pairs': (8, []),
  'reference': ('test', ['settings', 'evaluation']),
  'split': ('validation', ['settings', 'evaluation'], []),
  'other_data': ({'name': 'folder'}, []),
  'classes': ('of all classes in turn', ['protocol']),
}


def changed(kind, change):
  """Returns a result with another value of a field, or None if it has no such field."""
  value, *places = CHANGES[change]
  found, has = copy.deepcopy(KINDS[kind]), change == 'other_data'
  for place in places:
    section = found
    for name in place:
      section = section.get(name, {})
    is_new = change == 'classes' and place == ['protocol'] and kind == 'fd'
    if change in section or change == 'other_data' or is_new:
      section[change], has = value, True
  return found if has else None


PAIRS = [
  (kind, change)
  for kind, change in itertools.product(KINDS, CHANGES)
  # The name of a folder has the split of real examples.
  if changed(kind, change) and not (change == 'split' and kind in ('elbo-test', 'loss-test'))
]


def run_of(name, kind, content):
  return Record(name, {}, {}, [], [(kind, content)], [], sampled=44, unsaid=roles.UNSAID)


@pytest.mark.parametrize('kind, change', PAIRS)
def test_other_conditions_have_other_names(kind, change, tmp_path):
  pair = KINDS[kind], changed(kind, change)
  runs = [run_of(str(i), kind, content) for i, content in enumerate(pair)]
  names = [{*results.final(run)} for run in runs]
  assert not names[0] & names[1]
  shown = [
    [x.title if isinstance(x, Chart) else (x.caption, *x.rows[1:]) for x in results.parts(run)]
    for run in runs
  ]
  assert shown[0] and shown[0] != shown[1]
  if change == 'checkpoint':  # of other weights, which a card leaves out
    return
  words = []
  for i, content in enumerate(pair):
    path = tmp_path / str(i) / 'evaluation' / kind / 'result.json'
    path.parent.mkdir(parents=True)
    write_summed(path, content)
    words.append([x.about for x in card.scores_of(tmp_path / str(i), 1, 'images', roles.UNSAID)])
  assert words[0] != words[1] or not words[0]


@pytest.mark.parametrize('kind', KINDS)
def test_the_usual_conditions_are_not_said(kind):
  """The usual conditions are the checkpoint that is sampled, and the training examples."""
  text = str([*results.final(run_of('a', kind, KINDS[kind]))])
  assert not any(word in text for word in ('checkpoint', 'against', 'other'))


OPTIONS = {
  'fd': {'fd': {'num_draws': 5}},
  'sbc-test': {'sbc': {'num_bins': 5}},
  'elbo-test': {'elbo': {'decoder': 'tanh', 'num_steps': 9}},
  'loss-test': {'loss': {'draws': 5}},
}


@pytest.mark.parametrize('kind', KINDS)
def test_options_that_differ_are_said_in_place_of_hashes(kind, tmp_path):
  """Metrics of the same draws are in one row, also if one of them has two results."""
  both = []
  for i, value in enumerate((1, None)):
    content = copy.deepcopy(KINDS[kind])
    section = content['settings'].setdefault('evaluation', {})
    section |= {
      name: fields if value is None else dict.fromkeys(fields, value)
      for name, fields in OPTIONS[kind].items()
    }
    both.append((f'{kind}-0000000{i}', content))
  others = []
  if kind == 'fd':
    others = [('pr', {**KINDS['fd'], 'metric': 'pr', 'metrics': {'recall': SCORE}})]
  run = Record('a', {}, {}, [], [*both, *others], [], sampled=44, unsaid=roles.UNSAID)
  parts = [*results.parts(run)]
  shown = ' '.join(
    [x.title if isinstance(x, Chart) else f'{x.caption} {x.rows}' for x in parts]
    + [*results.final(run)]
  )
  for name, content in [*both, *others]:
    path = tmp_path / 'evaluation' / name / 'result.json'
    path.parent.mkdir(parents=True)
    write_summed(path, content)
  shown_on_card = ' '.join(x.about for x in card.scores_of(tmp_path, 1, 'images', roles.UNSAID))
  (fields,) = OPTIONS[kind].values()
  for text in [shown, shown_on_card] if kind != 'loss-test' else [shown]:  # a card has no losses
    assert '0000000' not in text
    for field, value in fields.items():
      words = field.replace('_', ' ')
      assert f'{words} 1' in text and f'{words} {value}' in text
  if kind in ('fd', 'sbc-test'):
    assert len(parts[0].rows) == 2  # a head, and the row of all metrics of these draws


def test_equal_names_have_hashes_where_nothing_else_tells_them_apart():
  both = [(f'fd-0000000{i}', KINDS['fd']) for i in range(2)]
  assert [name for name, _ in results.told_apart(both, roles.UNSAID)] == [
    'fd-00000000',
    'fd-00000001',
  ]


def test_scores_are_named_with_their_judge(tmp_path):
  """A score names its judge, unless its metric has one of its own, as FID has."""
  one = {'fid', 'sfid'}
  metrics = [n for n in table.METRICS if n in {*table.OF_FILES} | one]
  names = {}
  for space in features.EXTRACTORS:
    fields = within('evaluation', metrics=','.join(metrics), features=space)
    model = make_model(smoke(**fields), RunFolder.at(tmp_path))
    for each in scorers.of_samples(model):
      names.setdefault(each.name, set()).add(each.suffix)
  assert {*names} == {*metrics}
  for name, suffixes in names.items():
    assert suffixes == ({''} if name in one else {f'_{space}' for space in features.EXTRACTORS})


def test_only_what_reads_a_reference_is_of_other_data(tmp_path, monkeypatch):
  run = untrained(smoke(), tmp_path / 'run')
  monkeypatch.setattr(evaluate.datasets, 'another_set', lambda config, split: {'name': 'others'})
  monkeypatch.setattr(evaluate.trained_on, 'count', lambda *args: {})
  fields = within('evaluation', metrics='fd,is,accuracy', features='digits', num_generated=16)
  MODES['evaluate'](of_run(run, **fields, **{'evaluation.fd.num_draws': 0}), run)
  paths = (run / 'evaluation').glob('*/result.json')
  found = {x['metric']: x for x in map(json.loads, (path.read_text() for path in paths))}
  assert {name for name, x in found.items() if 'other_data' in x} == {'fd'}
  assert 'accuracy_digits' in found['accuracy']['metrics']


def test_numbers_are_examples_and_a_floor_says_how_many(tmp_path):
  few = within('data', num_examples=40, num_test=16)
  few |= {'sampling.checkpoint': 'latest', 'training.checkpoints.best': None}
  run = untrained(trial('two_moons', **few), tmp_path / 'run')
  fields = within('evaluation', metrics='fd,memorisation,loss', floor=True, num_generated=20)
  out = printed_by(MODES['evaluate'], of_run(run, **fields), run)
  assert 'image' not in out.replace('num_images', '')
  assert '16 examples of the other split in place of 20 samples (Frechet distances of fewer' in out
  assert 'of 40 train examples of two_moons' in out and '16 test examples, matmul' in out


# Each field of a section `sampling` that changes an image, with values that differ.
CHANGED = """
  digits sampling.sampler=ddim,ancestral,dpm_solver_pp sampling.sampler.eta=0,0.5
  digits sampling.grid.number=9,10 sampling.grid.spacing=uniform,logsnr sampling.grid=respaced,steps
  digits sampling.schedule=,cosine,sigmoid sampling.bound=,auto,clip,quantile
  digits sampling.bound=quantile sampling.bound.quantile=0.9,0.99 sampling.bound.largest=None,2
  digits sampling.guidance=,classifier_free,adaptive_projected,cfg_zero_star
  digits sampling.guidance=classifier_free sampling.guidance.scale=1,2
  digits sampling.guidance=classifier_free sampling.guidance.interval=0,8;0,9
  digits sampling.guidance=classifier_free sampling.guidance.rescale=0,0.5
  digits sampling.guidance=classifier_free sampling.guidance.channels=None,1
  digits sampling.guidance=cfg_zero_star sampling.guidance.zero_above=2,inf
  digits sampling.guidance=adaptive_projected sampling.guidance.parallel=0,0.5
  digits sampling.guidance=adaptive_projected sampling.guidance.max_norm=None,2
  digits sampling.weights=average,raw sampling.weights.decay=0,0.9999991
  digits sampling.weights=average sampling.weights.decay=0.9999991,0.9999989
  digits sampling.weights=width sampling.weights.sigma_rel=0.05,0.1
  digits sampling.sampler=ddim sampling.sampler.eta=0.12345671,0.12345672
  digits sampling.churn=,edm sampling.corrector=,langevin sampling.ancestral_noise=,ddim
  digits sampling.classifier=,run
  rollout sampling.order=,pyramid,blocks sampling.stride=None,8,16
  rollout sampling.order=pyramid sampling.order.delay=1,2
  rollout sampling.order=blocks sampling.order.size=1,4
  rollout sampling.lengths=3;4;3,4
  digits_masked sampling.top_p=0.5,1 sampling.remasking=0,0.1 sampling.guidance=,classifier_free
  digits_consistency sampling.stochastic=False,True sampling.guidance_scale=1,2
  moons_bridge sampling.stochastic=False,True sampling.reverse=False,True
  digits_joint sampling.drawn=together,label_first,x_first,x_given_label,label_given_x,x,label
"""


def ways():
  """Yields (config, fields that stay, a field, its values)."""
  for line in CHANGED.strip().splitlines():
    config, *fields = line.split()
    pairs = [field.split('=') for field in fields]
    stay = [(name, text) for name, text in pairs if ',' not in text]
    for name, text in pairs:
      if ',' in text:
        yield config, stay, name, text.split(';' if ';' in text else ',')


def words_of(sampling):
  return in_words(sampling, roles.UNSAID['sampling'])


def sampling_of(config, *fields):
  return folder.plain(store.with_flags(read(config), fields))['sampling']


@pytest.mark.parametrize('config, stay, name, values', [*ways()], ids=str)
def test_what_changes_an_image_is_said(config, stay, name, values):
  words = [tuple(words_of(sampling_of(config, *stay, (name, value)))) for value in values]
  assert len({*words}) == len(values) and '' not in sum(words, ()), words


def test_a_run_that_guides_is_called_by_its_field():
  run = 'sampling.classifier.run', 'runs/c'
  sampling = sampling_of('digits', ('sampling.classifier', 'run'), run)
  assert 'classifier 1 run=runs/c' in words_of(sampling)


@pytest.mark.parametrize('fields', [{}, {'steps': 100}, {'number': 20}, {'steps': 9, 'number': 9}])
def test_a_grid_of_the_users_is_called_by_its_name(fields):
  sections = [{'name': name, **fields} for name in ('parts:pyramid', 'parts:ramp', 'a:steps')]
  sections += [{**sections[0], 'rho': 7.0}]
  words = [words_of({'grid': grid}) for grid in sections]
  assert [text.split()[0] for (text,) in words] == [grid['name'] for grid in sections]
  assert len({text for (text,) in words}) == len(sections)


def test_no_field_of_a_sampling_section_is_left_out():
  """A new field is in the table above, or says that it does not change how an image is drawn."""
  known = {name.split('.')[1] for _, _, name, _ in ways()}
  configs = 'digits', 'digits_masked', 'digits_consistency', 'moons_bridge', 'digits_vae'
  for config in (*configs, 'digits_joint'):
    assert {*sampling_of(config)} <= known | {*roles.UNSAID['sampling']}


# -- curves, losses and sweeps ---------------------------------------------------


def trained(folder, *lines):
  """Returns the record of a run whose metrics.jsonl has these lines."""
  (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(x)}\n' for x in lines))
  return record.read(
    folder.name, folder, {'facts.x.shape': [8, 8, 1], 'facts.x.levels': 17}, unsaid=roles.UNSAID
  )


def test_curves_of_scores_are_named_as_results_are(tmp_path):
  """Curves of other numbers of samples have a name, a chart and a column each."""
  runs = []
  for i, count in enumerate((70.0, 1000.0)):
    place = tmp_path / str(i)
    place.mkdir()
    line = {'step': 4, 'fd_digits': 0.25, 'test_loss': 0.5, 'num_samples': count}
    runs.append(trained(place, {'step': 4, 'loss': 1.0, 'learning_rate': 0.1}, line))
  first, second = ({*results.final(run)} for run in runs)
  assert first & second == {'loss', 'test loss'}
  evaluated = {*results.final(run_of('a', 'fd', KINDS['fd']))}
  assert first - second == evaluated == {'FD digits of 70 images'}
  titles = [chart.title for chart in page.curve_charts(runs)]
  assert len({*titles}) == len(titles) == 4  # the loss, the learning rate and both scores
  changed = trained(tmp_path, line, line | {'step': 8, 'num_samples': 12_000.0})
  assert {'FD digits of 1,000 images', 'FD digits of 12,000 images'} < {*results.final(changed)}


OF_OTHERS = """
  network.channels=16 optimizer.learning_rate=0.1 training.num_steps=8 sampling.num_steps=9
  evaluation.num_images=9 training.average.decay=0.5 noise_input=time
"""
OF_OTHER_LOSSES = """
  schedule=cosine schedule.start=0.01 objective=hybrid objective.weight=min_snr
  objective.times=antithetic parametrization=v conditioning.dropout=0.5 data.quarter_turns=1
  data=synthetic training.random_flip=True
"""


@pytest.mark.parametrize('field', (OF_OTHERS + OF_OTHER_LOSSES).split())
def test_losses_are_compared_where_their_floors_are_the_same(field, tmp_path):
  name, text = field.split('=')
  models = [make_model(smoke(**x), RunFolder.at(tmp_path)) for x in ({}, {name: text})]
  fields = [folder.flat(folder.stored_form(x.config, x.facts)) for x in models]
  runs = [Record(str(i), x, {}, [], [], []) for i, x in enumerate(fields)]
  _, *notes = page.comparison(runs, roles.decides_loss)
  same, other = (floors.settings_of(x, 'test', 8) for x in models)
  assert bool(notes) == (same != other) == (field in OF_OTHER_LOSSES.split())
  assert all(f'the runs differ in {name}' in note for note in notes)


def test_losses_of_whole_batches_are_compared_at_one_size():
  """The pairs of a coupling, and a mean of bits, depend on how many examples there are."""
  for name, fields in (('moons_bridge', {}), ('digits_vae', {'objective.free_bits': 0.1})):
    runs = []
    for size in (8, 16):
      config = read(name)
      config = store.with_fields(config, fields | {'training.batch_size': size})
      runs.append(Record(str(size), folder.flat(folder.plain(config)), {}, [], [], []))
    _, note = page.comparison(runs, roles.decides_loss)
    assert note == 'Losses cannot be compared: the runs differ in training.batch_size.'


def test_every_section_decides_a_loss_or_does_not():
  others = {'seed', 'network', 'noise_input', 'optimizer', 'training', 'matmul_precision'}
  others |= {*roles.USES}
  names = 'digits', 'digits_latent', 'digits_d3pm', 'digits_masked', 'digits_vae', 'moons_bridge'
  for name in (*names, 'digits_meanflow', 'digits_classifier', 'joint'):
    sections = {*folder.plain(read(name))}
    assert sections <= {*roles.OF_LOSS} | others and not {*roles.OF_LOSS} & others


SWEPT = {
  'num_steps=8,5': '40 samples are drawn at each of 2 points, with the class',
  'guidance=classifier_free guidance.scale=1,2': '40 samples of 4 steps are drawn at each of 2',
  'labels=1,2': '40 samples of 4 steps are drawn at each of 2 points (evaluation',
}


@pytest.mark.parametrize('sweep', SWEPT)
def test_a_line_of_a_sweep_says_what_its_points_share(sweep, tmp_path):
  plain = untrained(smoke(), tmp_path / 'run')
  fields = {'evaluation.metrics': 'fd', 'evaluation.sweep': sweep, 'evaluation.num_generated': 40}
  run = Run.open(of_run(plain, **fields), RunFolder.at(plain))
  points = cells.points_of(run)
  (line,) = evaluate.costs(points, None, scorers.classes_of(points[0].model))
  assert line.startswith(SWEPT[sweep])


# -- what is printed is on the page ----------------------------------------------

TERMS = {name: np.array([[0.5, 0.25, 0.125]]) for name in ('diffusion', 'squared_error')}
BITS = {'prior': np.full(3, 0.1), 'reconstruction': np.full(3, 0.3), **TERMS}
KL = {'dimensions': np.full(3, 64), 'kl_of_channels': np.full((1, 2), 5.0)}
IN_BOX = {'nats': np.array([1.5, 2.0, 1.0]), 'truncated': np.array([1.25, 2.0, 1.0])}
RIGHT = {'right': np.arange(11.0)[None] / 4, 'chance': np.full(3, 0.1)}
# Fields of trials, their evaluations, and what metrics of real examples measure.
PRINTED = {
  'digits': (
    '',
    'metrics=elbo,ode,independent_pixels,fd,pr,accuracy floor=True num_images=3 num_generated=12',
    BITS,
  ),
  'two_moons': (
    'data.num_examples=100 data.num_test=16',
    'metrics=ode,sbc,interval_coverage,density_coverage,tarp,contraction num_images=3 num_pairs=12 '
    'draws_per_pair=4',
    IN_BOX,
  ),
  'rollout': ('data.num_test=16', 'metrics=predictive,crps num_pairs=12 draws_per_pair=4', {}),
  'digits_vae': ('', 'metrics=elbo,iw num_images=3', BITS | KL),
  'digits_classifier': ('', 'metrics=accuracy num_images=3', RIGHT),
}


@pytest.mark.parametrize('name', PRINTED)
def test_each_score_that_is_printed_is_on_the_page(name, tmp_path, monkeypatch):
  fields, metrics, arrays = PRINTED[name]
  rng, printed, table_of = np.random.default_rng(0), [], evaluate.table

  def recorded(scores):
    printed.extend(scores)
    return table_of(scores)

  def measured(measure, metric, params, read, count, **how):
    found = {n: x for n, x in arrays.items() if len(x) == 1}
    many = {n: np.resize(x, count) for n, x in arrays.items() if n not in found}
    return found | many | {'total': rng.normal(3.0, 1.0, count)}

  def draw(params, index, cond):
    x = rng.uniform(-1.0, 1.0, (len(index), *model.facts.x.shape)).astype(np.float32)
    return x, None, {}

  def generate(*args):
    return Mock(side_effect=draw, start=lambda *args: lambda: draw(*args))

  monkeypatch.setattr(evaluate, 'table', recorded)
  monkeypatch.setattr(evaluate.real_images, 'arrays_of', measured)
  monkeypatch.setattr(evaluate.sample, 'generate', generate)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  latest = {'sampling.checkpoint': 'latest', 'training.checkpoints.best': None}
  config = smoke() if name == 'digits' else trial(name, **latest, **typed(fields))
  run = untrained(config, tmp_path / 'run')
  changed = of_run(run, **within('evaluation', **typed(metrics)))
  model = make_model(changed, RunFolder.at(run))
  MODES['evaluate'](changed, run)
  shown = record.read(
    'run', run, folder.flat(folder.read_config(RunFolder.at(run))), 4, roles.UNSAID
  )
  text = page.render([shown])
  assert len(printed) >= 1 + metrics.count(',')
  for score, (value, error), _ in printed:
    assert with_error(value, error) in text, score
    assert results.in_words(score) in text
  tiles = {*results.final(shown)}
  assert name != 'two_moons' or 'nats/dim, ODE truncated test, within the box' in tiles

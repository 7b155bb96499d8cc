"""The page of a run folder with hostile names."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from diffusion_jax.data import drawings
from diffusion_jax.report import charts, page, pictures, record
from diffusion_jax.runtime import sessions

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>&"\''
CONFIG = {
  'seed': 0,
  'data.name': 'digits',
  'network.name': HOSTILE,
  'network.channels': 8,
  'objective.name': 'denoising',
  'conditioning.labels': True,
  'sampling.sampler.name': 'ddim',
  'sampling.labels': [],
  'edit.name': 'inpaint',
  'facts.x.shape': [8, 8, 1],
}


class Page(HTMLParser):
  """Collects the elements of a page, their attributes and their text."""

  def __init__(self, text):
    super().__init__()
    self.html, self.elements, self.text, self._open = text, [], {}, []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self._open.append(tag)
    self.text.setdefault(tag, []).append('')

  def handle_endtag(self, tag):
    if tag in self._open:
      while self._open.pop() != tag:
        pass

  def handle_data(self, data):
    for tag in set(self._open):
      self.text[tag][-1] += data

  def all(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]

  def data(self):
    """Returns (attributes, text) of the scripts that are data."""
    both = zip(self.all('script'), self.text['script'], strict=True)
    return [script for script in both if 'type' in script[0]]


def write_run(folder, loss=1.0):
  """Writes what a training, two evaluations and a plan leave."""
  (folder / 'samples').mkdir(parents=True)
  lines = []
  for step in (100, 200, 300):
    line = {'step': step, 'loss': loss / step, 'learning_rate': 1e-3}
    line |= {'grad_norm': 1.0, 'images_per_second': 50.0, HOSTILE: 1.0}
    line |= {f'loss_quarter_{i}': i / step for i in range(1, 5)}
    lines += [line, {'step': step, 'test_loss': 2 * loss / step}]
    sheet = np.full((16, 24, 1), step % 256, np.uint8)
    drawings.write_png(folder / 'samples' / f'step_{step:08d}.png', sheet)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)
  terms = [0.5, 0.25, 0.125]
  write_result(folder / 'evaluation' / 'elbo-test', {
    'metric': 'elbo', 'split': 'test',
    'metrics': {'elbo': {'value': 2.8732, 'error': 0.037, 'note': 'bits/dim'}}, 'examples': 360,
    'terms': terms, 'rate': terms, 'distortion': terms,
  })  # fmt: skip
  write_result(
    folder / 'evaluation' / 'samples',
    {
      'protocol': {'samples': {'sampling': {'sampler': {'name': HOSTILE}}}},
      'metrics': {'fid': {'value': 3.17, 'error': None, 'note': HOSTILE}},
    },
  )
  for host in range(2):
    path = folder / 'traces' / 'plugins' / 'profile' / 'steps_5-7' / f'host_{host}.xplane.pb'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  sessions.write_start(folder, 0, 1234567)
  sessions.write_end(folder, 300, 300)
  return folder


def write_result(folder, content):
  folder.mkdir(parents=True)
  (folder / 'result.json').write_text(json.dumps(content))


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  """Returns a page about two runs."""
  folder = tmp_path_factory.mktemp('runs')
  run = record.read(HOSTILE, write_run(folder / 'a'), CONFIG)
  fields = CONFIG | {'network.name': 'unet', 'network.channels': 16}
  other = record.read('other', write_run(folder / 'b', 3.0), fields)
  row = np.zeros((8, 80, 1), np.uint8)
  film = pictures.film('way', 'From noise', [('step 0', row), ('step 9', row)])
  near = pictures.film('near', 'Neighbours', [('mean 0.2', row)])
  defaults = {'network.channels': 128, 'seed': 0, 'conditioning.labels': True}
  gallery = [pictures.film('heun', 'Images', [('19 calls', row)])]
  return Page(page.render([run, other], defaults, film, near, gallery, apart=('edit',)))


SECTIONS = (
  'samples', 'gallery', 'trajectory', 'curves', 'evaluation', 'neighbours',
  'runs', 'traces', 'config', 'environment',
)  # fmt: skip


def test_a_run_that_has_everything_has_every_section(found):
  assert [s['id'] for s in found.all('section')] == list(SECTIONS)
  assert [a['href'] for a in found.all('a')][1:] == [f'#{s}' for s in SECTIONS]
  shown = ' '.join(found.text['section'] + found.text['dl'])
  for value in (
    '2.873\xa0±\xa00.037',
    '3.17',
    '19 calls',
    'Bits by step',
    '1,234,567',
    'steps_5-7',
  ):
    assert value in shown, value
  assert found.text['p'][0].startswith('digits 8x8x1 · network')
  line = r'Trained 300 steps( in 0:00:\d\d)? on 8 × cpu; ended \d{4}-\d\d-\d\d \d\d:\d\d UTC'
  assert re.fullmatch(line, found.text['p'][1])
  assert 'edit.name' not in shown
  assert len(found.html.encode()) < 1e5


# Results and lines of sessions.jsonl with values of other types.
DAMAGED = """
evaluation/a/result.json {"metrics": {"elbo": {"value": 2.0}}, "examples": "many"}
evaluation/a/result.json {"metrics": {"elbo": {"value": 2.0, "error": -1.0}}, "examples": 3}
evaluation/a/result.json {"metrics": {"elbo": {"value": 2.0, "error": [1]}}, "examples": 3}
evaluation/a/result.json {"examples": 3}
evaluation/a/result.json {"losses": 3}
evaluation/a/result.json {"losses": {}}
evaluation/a/result.json {"metrics": 3}
evaluation/a/result.json {"metrics": {"fid": 3}}
evaluation/a/result.json {"metrics": {"fid": {"value": 3.0, "note": [1]}}}
evaluation/a/result.json {"metrics": {"fid": {}}, "protocol": {"samples": "none"}}
evaluation/a/result.json {"rate": [1.0], "distortion": [1.0, 2.0]}
evaluation/a/result.json {"terms": [[1.0], "x"]}
evaluation/a/result.json {"t": 3, "accuracy": 4}
sessions.jsonl {"event": "start", "parameters": "many"}
sessions.jsonl {"event": "start", "parameters": {"a": 1}}
"""


GOOD = {'metrics': {'elbo': {'value': 2.5, 'error': None, 'note': 'bits/dim'}}, 'examples': 360}


@pytest.mark.parametrize('row', DAMAGED.strip().splitlines())
def test_a_file_of_other_types_is_left_out(row, tmp_path):
  """The good file next to it is shown."""
  write_result(tmp_path / 'evaluation' / 'good', GOOD)
  sessions._append(tmp_path, {'event': 'start', 'time': 'a good time'})
  name, _, content = row.partition(' ')
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    file.write(f'{content}\n')
  found = Page(page.render([record.read('run', tmp_path, CONFIG)]))
  shown = [s['id'] for s in found.all('section')]
  assert shown == ['evaluation', 'config', 'environment']
  assert 'good' in found.text['th'] and 'a' not in found.text['th']
  assert 'a good time' in found.text['td']


def test_no_line_of_the_page_is_a_strangers(tmp_path):
  """Newlines and other control characters in names and values are spaces."""
  line = 'ssh-ed25519 KEY'
  text = f'x\n{line}\nx\r{line}\x1b[2J\u2028\u202e\ud800'
  write_result(
    tmp_path / 'evaluation' / f'a\n{line}\n',
    {'metrics': {text: {'value': 3.17, 'error': None, 'note': text}}},
  )
  (tmp_path / 'metrics.jsonl').write_text(json.dumps({'step': 1, text: 1.0}))
  sessions._append(tmp_path, {'event': 'start', 'step': 0, text: text})
  run = record.read(text, tmp_path, CONFIG | {'network.name': text, text: text})
  html = page.render([run])
  html.encode()
  assert html.count(line) > 8
  assert line not in map(str.strip, html.splitlines())
  assert not {*'\r\x1b\u2028\u202e'} & {*html}


def test_the_page_loads_nothing(found):
  for tag, attrs in found.elements:
    for name in ('src', 'href', 'srcset', 'action', 'data', 'poster'):
      value = attrs.get(name, '#')
      assert value.startswith(('#', 'data:image/')), (tag, name, value[:80])
  style = ' '.join(found.text['style'])
  assert 'url(' not in style and '@import' not in style
  assert not found.all('link') and not found.all('iframe')
  (policy,) = (a['content'] for a in found.all('meta') if 'http-equiv' in a)
  assert policy.startswith("default-src 'none'; img-src data: blob:;")
  assert 'unsafe-inline' not in policy.partition('script-src')[2]


def test_names_and_values_are_never_markup(found):
  """A run, a field, a metric and a note are named like scripts."""
  assert HOSTILE not in found.html and '<script>alert' not in found.html
  assert not [a for _, a in found.elements if 'onerror' in a]
  assert found.text['h1'] == [HOSTILE]
  assert HOSTILE in found.text['title'][0]
  data = found.data()
  assert len(found.all('script')) == len(data) + 1  # the page's own
  assert all('<' not in text for _, text in data)
  assert any(HOSTILE in text for text in found.text['li'])  # a legend


def test_everything_usable_has_a_name(found):
  """Pictures, sliders, buttons, tables and charts do; ids are unique."""
  assert all(image['alt'] for image in found.all('img'))
  assert all(slider['aria-label'] for slider in found.all('input'))
  ids = [attrs['id'] for _, attrs in found.elements if 'id' in attrs]
  assert len(ids) == len(set(ids))
  labelled = [a for _, a in found.elements if 'aria-labelledby' in a]
  assert labelled and all(a['aria-labelledby'] in ids for a in labelled)
  plots = [a for a in found.all('div') if a.get('class') == 'plot']
  assert plots and all(a['role'] == 'img' and a['aria-label'] for a in plots)
  hidden = [a for a in found.all('svg') if 'aria-hidden' in a]  # of legends
  assert len(found.all('svg')) == len(plots) + len(hidden)
  assert found.all('html')[0]['lang'] == 'en'
  assert len(found.all('h1')) == 1


def test_the_slider_has_the_sheets_in_order(found):
  _, data = found.data()[0]
  frames = json.loads(data)
  assert [label for _, label in frames] == ['step 100', 'step 200', 'step 300']
  assert len({source for source, _ in frames}) == 3
  assert found.all('input')[0]['max'] == '2'


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_held_out_losses_share_the_chart_of_the_loss(split):
  names = 'loss', f'{split}_loss', f'{split}_loss_quarter_1'
  curves = {name: record.Curve([1, 2], [3.0, 2.0]) for name in names}
  loss, quarters = page.curve_charts([record.Record('a', CONFIG, curves, [], [], [])])
  assert (loss.title, quarters.title) == ('loss', f'{split.title()} loss by quarter of t')
  assert loss.rows[0] == ['step', 'loss', f'{split} loss']


def test_the_chart_of_the_loss_has_level_lines_of_exact_denoisers():
  """Level lines span the steps of one run's loss, quarters too, and of no other metric."""
  names = 'loss', 'test_loss', 'test_loss_quarter_2', 'error'
  curves = {name: record.Curve([10, 20, 30], [0.5, 0.25, 0.2]) for name in names}
  nan = float('nan')
  lines = {'memorised': (0.0123, 0.001), 'linear': (0.0456, 0.002), 'nothing_learnt': (1.0, nan)}
  lines = {line: record.Floor(*x) for line, x in lines.items()}
  test = lines | {'linear': record.Floor(0.06, nan), 'memorised': record.Floor(9.0, 1.0)}
  floors = {'loss': lines, 'test_loss': test, 'test_loss_quarter_2': test, 'error_2': lines}
  run = record.Record('a', CONFIG, curves, [], [], [], floors=floors)
  loss, quarters, error = page.curve_charts([run])
  shown = ['a linear denoiser 0.0456\xa0±\xa00.0020', 'memorised examples 0.0123\xa0±\xa00.0010']
  shown = [f'loss: {words}' for words in shown]
  assert loss.rows[0] == ['step', 'loss', 'test loss', *shown, 'test loss: a linear denoiser 0.06']
  level = ['0.0456', '0.0123', '0.06']
  assert [row[3:] for row in loss.rows[1:]] == [level, [''] * 3, level]
  assert quarters.rows[0] == ['step', 't ¼ to ½', 't ¼ to ½: a linear denoiser 0.06']
  assert error.rows[0] == ['step', 'error']
  for chart in page.curve_charts([run, run]):
    assert not any('linear' in name for name in chart.rows[0])
  assert page.floors_of(run, 'loss', charts.Line('loss', [7], [1.0]))[0].x == [7]


def test_a_rate_below_a_teraflop_is_in_gigaflops():
  for value, shown, title in (
    (2.5, '2.5 TFLOP/s', 'TFLOP/s'),
    (0.0025, '2.5 GFLOP/s', 'GFLOP/s'),
  ):
    curves = {'tflops': record.Curve([1, 2], [value, value])}
    run = record.Record('a', CONFIG, curves, [], [], [])
    assert page.tiles(run) == [('speed of a device', shown, '')]
    (chart,) = page.curve_charts([run])
    assert chart.title == f'speed of a device, {title}' and chart.rows[1][1] == '2.5'


def test_what_is_trained_on_is_said_in_words():
  for shape, levels, shown in (([1], 0, 'csv 1 number'), ([3], 0, 'csv 3 numbers')):
    fields = {'data.name': 'csv', 'facts.x.shape': shape, 'facts.x.levels': levels}
    assert page.summary(record.Record('a', fields, {}, [], [], [])) == shown


def test_losses_that_are_of_other_things_are_not_compared():
  run = record.Record('a', CONFIG, {}, [], [], [])
  decides = lambda field, fields: field.startswith('parametrization.')

  def lines(fields):
    return list(page.comparison([run, run._replace(fields=CONFIG | fields)], decides))

  assert len(list(page.comparison([run], decides))) == 0
  assert len(lines({'seed': 1})) == 1
  _, note = lines({'parametrization.name': 'v'})
  assert note == 'Losses cannot be compared: the runs differ in parametrization.name.'
  _, note = lines({f'parametrization.{i}': 'v' for i in range(5)})
  assert str(note).endswith(
    'parametrization.0, parametrization.1, parametrization.2 and 2 more fields.'
  )


def test_the_chart_of_a_curve_has_the_area_where_it_is_expected():
  """In one run's report, for the steps that it has; the table has the numbers."""
  names = 'loss', 'test_loss', 'test_loss_quarter_1'
  curves = {name: record.Curve([10, 20], [0.5, 0.25]) for name in names}
  expected = {name: {10: (0.4, 0.6), 20: (0.2, 0.3), 30: (0.1, 0.2)} for name in names[1:]}
  run = record.Record('a', CONFIG, curves, [], [], [], expected=expected)
  loss, quarters = page.curve_charts([run])
  assert loss.title == 'loss; shaded: expected' and quarters.title.endswith('; shaded: expected')
  assert loss.rows[0] == ['step', 'loss', 'test loss', 'test loss: expected']
  assert [row[3] for row in loss.rows[1:]] == ['0.4 to 0.6', '0.2 to 0.3']
  assert quarters.rows[2] == ['20', '0.25', '0.2 to 0.3']
  plain, *_ = page.curve_charts([run._replace(expected={})])
  areas = re.findall(r'<path d="([^"]*)" style="fill: [^"]*; opacity: 0.18', loss.svg)
  assert len(areas) == 1 and len(re.findall('[ML]', areas[0])) >= 4
  assert loss.svg.count('<circle') == plain.svg.count('<circle') and '0.18' not in plain.svg
  assert 'shaded' not in plain.title
  for chart in page.curve_charts([run, run]):
    assert 'expected' not in chart.title
  single = run._replace(expected={'test_loss': {20: (0.2, 0.3)}})
  assert 'stroke-opacity' in next(page.curve_charts([single])).svg

"""The page of a run: what it draws, for whom, and what it refuses."""

import base64
import contextlib
import io
import json
import re
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import serve
from diffusion_jax.app.run.drawing import draw_sheet
from diffusion_jax.app.run.weights import Run, make_model
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.run_folder import RunFolder
from tests import refusals
from tests.app.conftest import DIGITS, SMALL, drawing_of, refused, smoke, trial, untrained
from tests.app.fields import typed
from tests.app.small_network import SmallAutoencoder

SIZE = typed('serve.num_images=4 sampling.num_steps=3')


@contextlib.contextmanager
def served(config, workdir):
  """Yields the address of a page that is served by this process."""
  server = serve.server_of(serve.application(Run.open(config, RunFolder.at(workdir))))
  with serve.listening(0) as listener:
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
      yield f'http://127.0.0.1:{listener.getsockname()[1]}/'
    finally:
      server.should_exit = True
      thread.join(30)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return untrained(smoke(**SIZE), tmp_path_factory.mktemp('run'), deviation=0.5)


@pytest.fixture(scope='module')
def page(run):
  times = lambda: {x: x.stat().st_mtime_ns for x in run.rglob('*')}
  before = times()
  with served(smoke(**SIZE), run) as address:
    yield address
  assert times() == before  # It writes nothing in the run folder.


def get(address, path, **headers):
  request = urllib.request.Request(address + path, headers=headers)
  with urllib.request.urlopen(request, timeout=120) as answer:
    return answer.headers, answer.read().decode()


def draw(page, **fields):
  text = get(page, f'draw?{urllib.parse.urlencode(fields)}')[1]
  events = [json.loads(part.removeprefix('data: ')) for part in text.split('\n\n') if part]
  return [e for e in events if 'image' in e or 'error' in e]


def test_a_request_that_is_never_whole_is_dropped(page, monkeypatch):
  """An incomplete request is dropped, also the second of a connection; a long drawing goes on."""
  monkeypatch.setattr(serve, 'PATIENCE', 0.3)
  place = urllib.parse.urlsplit(page)
  whole = f'GET /settings HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n'.encode()
  for start in (b'', b'GET / HTTP/1.1\r\nHost:', whole + b'GET'):
    with socket.create_connection((place.hostname, place.port), timeout=20) as half:
      half.sendall(start)
      answer = b''.join(iter(lambda: half.recv(2**16), b''))  # noqa: B023
      assert (b'200 OK' in answer) == start.startswith(whole)
  assert draw(page, seed=1)


def picture(event):
  data = event['image'].removeprefix('data:image/png;base64,')
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    return np.asarray(image)


def test_the_last_picture_is_what_sampling_draws(page, run):
  """Label, sampler, number of steps, scale and seed choose it."""
  fields = {'labels': 3, 'sampler': 'ddim', 'num_steps': 5, 'guidance.scale': 2.0, 'seed': 7}
  *earlier, last = draw(page, **fields)
  assert [e['step'] for e in earlier] == [0, 1, 2, 3, 4]
  assert (last['step'], last['total']) == (5, 5)
  flags = [(f'sampling.{name}', str(x)) for name, x in fields.items()]
  config = store.with_flags(smoke(**SIZE), flags)
  x = drawing_of(config, run)(np.arange(4), {'label': np.full(4, 3)})
  expected = draw_sheet(make_model(config, RunFolder.at(run)), DIGITS.x.decode(x)).squeeze()
  assert np.abs(picture(last).astype(int) - expected).max() <= 16
  assert (picture(last) == expected).mean() > 0.99
  assert np.std(picture(earlier[0]) - picture(last)) > 10


def test_other_numbers_compile_no_step_again(page, monkeypatch):
  draw(page, sampler='ddim', num_steps=2, **{'guidance.scale': 2.0})
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **more: compiled.append(more.get('fun_name'))
  )
  fields = {'labels': 1, 'seed': 3, 'num_steps': 4, 'guidance.scale': -1.5}
  assert draw(page, sampler='ddim', **fields)[-1]['step'] == 4
  assert 'jit(step)' not in compiled
  assert draw(page, sampler='heun', **fields)[-1]['step'] == 4
  assert 'jit(step)' in compiled


def test_two_users_get_their_own_pictures(page):
  """Two users of the page each get the pictures of their own single request."""
  last = lambda seed: draw(page, labels=2, seed=seed)[-1]
  with ThreadPoolExecutor(2) as users:
    both = [*users.map(last, (1, 2))]
  assert both == [last(1), last(2)] and both[0] != both[1]


BAD = [
  ({'num_steps': 200000000}, 'steps: 200000000 are more than 10000'),
  ({'num_steps': '9' * 5000}, 'steps: 99999999999999999999 are more than'),
  ({'num_steps': 0}, 'sampling.num_steps=0 is not an integer of at least 1'),
  ({'labels': 12}, 'sampling.labels=12 is not a class'),
  ({'seed': -1}, 'seed=-1 is not in 0'),
  ({'sampler': 'nowhere:f'}, "'nowhere:f' would be imported"),
]


@pytest.mark.parametrize('error, fields, message', [*refusals.rows(UserError, BAD)])
def test_a_bad_value_is_an_answer_of_one_line(page, error, fields, message):
  (event,) = draw(page, **fields)
  assert '\n' not in event['error']
  assert re.search(message, event['error']), event['error']
  assert draw(page, num_steps=1)[-1]['step'] == 1  # it goes on


FOREIGN = """
400 index Host=evil.example
400 draw?seed=1 Host=evil.example:80
403 draw?seed=1 Sec-Fetch-Site=cross-site
403 draw?seed=1 Sec-Fetch-Site=same-site
403 draw?seed=1 Origin=http://evil.example
404 ../config.json
404 checkpoints
404 serve.html
"""


@pytest.mark.parametrize('row', FOREIGN.strip().splitlines())
def test_other_hosts_sites_and_paths_are_refused(page, row):
  code, path, *headers = row.split()
  with pytest.raises(urllib.error.HTTPError) as error:
    get(page, path.replace('index', ''), **typed(' '.join(headers)))
  assert error.value.code == int(code)


def test_the_page_loads_nothing_from_elsewhere(page):
  headers, text = get(page, '')
  policy = headers['Content-Security-Policy']
  assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
  assert '://' not in text
  settings = json.loads(get(page, 'settings')[1])
  names = [field['name'] for field in settings['fields']]
  assert names == ['labels', 'sampler', 'num_steps', 'guidance.scale', 'seed']


def test_a_number_of_steps_replaces_a_respacing(tmp_path):
  fields = typed('sampling.grid=respaced sampling.grid.steps=2')
  config = smoke(**fields, **{'serve.num_images': 4})
  with served(config, untrained(config, tmp_path / 'run')) as page:
    assert draw(page)[-1]['total'] == 2
    assert draw(page, num_steps=5)[-1]['total'] == 5


def test_an_error_of_two_lines_is_an_answer_of_one():
  def emerge(flags):
    raise UserError('one\ntwo')
    yield

  (text,) = serve.pictures(emerge, [])
  error = json.loads(text.removeprefix('data: '))['error']
  assert 'one' in error and 'two' in error and '\n' not in error


def test_a_port_that_is_taken_is_one_line():
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    message = f'config.serve.port={port} cannot be opened .*: give another'
    refused(message, serve.listening, port)


@pytest.mark.slow
def test_the_page_draws_in_a_browser(page):
  """Two tabs, a bad number, and pictures that emerge, in Chromium."""
  chromium = shutil.which('chromium') or pytest.skip('apt-get install chromium')
  driver = pytest.importorskip('playwright.sync_api', reason="pip install -e '.[browser]'")
  with driver.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
    wrong, tabs = [], [browser.new_page() for _ in range(2)]
    for seed, tab in enumerate(tabs):
      tab.on('pageerror', lambda error: wrong.append(str(error)))
      tab.on('console', lambda said: wrong.append(said.text))
      tab.goto(page)
      tab.fill('input[name=seed]', str(seed))
      tab.fill('input[name=num_steps]', '8')
      tab.select_option('select[name=labels]', '3')
      tab.click('button')
    for tab in tabs:
      tab.wait_for_selector('#said:has-text("step 8 of 8")')
      assert tab.locator('img').is_visible()
    sources = [tab.locator('img').get_attribute('src') for tab in tabs]
    assert sources[0] != sources[1]
    tabs[0].fill('input[name=seed]', '99999999999')
    tabs[0].click('button')
    tabs[0].wait_for_selector('#said.wrong')
    assert 'seed=99999999999 is not in' in tabs[0].locator('#said').inner_text()
    browser.close()
  assert not wrong


VAE = f'{SmallAutoencoder.__module__}:SmallAutoencoder'


@pytest.mark.parametrize(
  'name, changes, names',
  [
    ('digits_vae', {'network': VAE, 'sampling.checkpoint': 'latest'}, 'seed'),
    ('digits_meanflow', {'network': SMALL}, 'labels num_steps seed'),
    pytest.param(
      'digits_masked',
      {'conditioning.labels': True, 'conditioning.dropout': 0.1, 'network': SMALL},
      'labels sampler num_steps guidance.scale seed',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_other_kinds_of_models_are_drawn(name, changes, names, tmp_path):
  config = trial(name, **{'serve.num_images': 2}, **changes)
  run = untrained(config, tmp_path / 'run')
  opened = Run.open(config, RunFolder.at(run))
  emerge = serve.emerging(opened)
  assert [field['name'] for field in serve.fields(opened.model)] == names.split()
  flags = [('sampling.guidance.scale', '2')] if 'guidance' in names else []
  *_, last = emerge([('sampling.seed', '1'), *flags])
  assert last.step == last.total and last.sheet.shape == (60, 114, 1)


def test_guidance_with_steps_of_its_own_is_drawn(tmp_path):
  """Guidance with steps of its own has a program of one scale, here another than the run's."""
  guidance = typed('sampling.sampler=cfg_plus_plus sampling.sampler.scale=0.8')
  config = smoke(**SIZE, **guidance)
  run = untrained(config, tmp_path / 'run', deviation=0.5)
  opened = Run.open(config, RunFolder.at(run))
  emerge = serve.emerging(opened)
  names = [field['name'] for field in serve.fields(opened.model)]
  assert 'sampler.scale' in names and not {'sampler', 'guidance.scale'} & {*names}
  flags = [('sampling.sampler.scale', '0.2'), ('sampling.labels', '3')]
  *_, last = emerge(flags)
  changed = store.with_flags(config, flags)
  x = drawing_of(changed, run)(np.arange(4), {'label': np.full(4, 3)})
  expected = draw_sheet(make_model(changed, RunFolder.at(run)), DIGITS.x.decode(x))
  assert (last.sheet == expected).mean() > 0.99


def test_a_sampler_that_compiles_says_so_and_ends_with_its_user(tmp_path):
  """Each step of a drawing is an event, and a closed page ends its drawing."""
  run = untrained(smoke(**SIZE), tmp_path / 'run', deviation=0.5)
  emerge = serve.emerging(Run.open(smoke(**SIZE), RunFolder.at(run)))
  flags = [('sampling.sampler', 'lms'), ('sampling.num_steps', '15')]
  first = [frame.compiles for frame in emerge(flags)]
  assert first == [True, True, *[False] * 15]
  again: Any = emerge(flags)
  assert not any(next(again).compiles for _ in range(5))
  again.close()
  shown = [frame.sheet is not None for frame in emerge(flags)]
  assert sum(shown) == serve.NUM_FRAMES and shown[-1]

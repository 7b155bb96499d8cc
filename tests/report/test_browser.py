"""The page works in headless Chromium, and makes no request.

Run `pytest -m slow -n 0 tests/report/test_browser.py`. It uses the system's
Chromium or $CHROMIUM. With $AXE_CORE, the path of axe.min.js, axe-core checks
the page too.
"""

import os
import shutil
from pathlib import Path

import pytest

from diffusion_jax.report import page, record
from tests.report import test_page

CHROMIUM = os.environ.get('CHROMIUM') or next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def browser():
  if CHROMIUM is None:
    pytest.skip('Chromium is missing: apt-get install chromium, or set $CHROMIUM')
  driver = pytest.importorskip('playwright.sync_api', reason='pip install playwright')
  with driver.sync_playwright() as playwright:
    # Containers often refuse a sandbox, and the page is our own.
    yield playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  runs = [
    record.read(name, test_page.write_run(folder / x, loss), test_page.CONFIG)
    for name, x, loss in ((test_page.HOSTILE, 'a', 1.0), ('@x $y {z}', 'b', 3.0))
  ]
  path = folder / 'report.html'
  path.write_text(page.render(runs, {'network.channels': 128}), 'utf-8')
  return path


@pytest.fixture(params=['desktop, light', 'phone, dark'])
def opened(browser, file, request):
  """Opens the page; errors and requests fail the test."""
  phone = 'phone' in request.param
  context = browser.new_context(
    viewport={'width': 390, 'height': 844} if phone else None,
    color_scheme='dark' if 'dark' in request.param else 'light',
    has_touch=phone,
    is_mobile=phone,
  )
  tab, wrong = context.new_page(), []
  tab.on('pageerror', lambda error: wrong.append(str(error)))
  tab.on('console', lambda said: said.type in ('error', 'warning') and wrong.append(said.text))
  tab.on('dialog', lambda dialog: wrong.append(dialog.message))
  local = 'data:', 'blob:', 'file:'
  tab.on('request', lambda asked: asked.url.startswith(local) or wrong.append(asked.url))
  tab.goto(file.as_uri())
  yield tab
  context.close()
  assert not wrong


def test_a_printed_page_has_light_charts_that_fit(browser, file):
  tab = browser.new_page()
  tab.goto(file.as_uri())
  tab.emulate_media(media='print', color_scheme='dark')
  assert luminance(tab) > 600  # paper is light
  assert luminance(tab, '.plot text', 'fill') < 300
  width = tab.evaluate('document.querySelector(".plot").clientWidth')
  assert width <= 718 - 2 * 20  # A4 less margins of 1 cm, and the page's own
  tab.close()


TEXTS = """() => [...document.querySelectorAll('.plot text')].map((text) => {
  const [inner, outer] = [text, text.closest('.plot')].map((x) => x.getBoundingClientRect());
  const {a, b} = text.getScreenCTM();
  const size = Math.hypot(a, b) * parseFloat(getComputedStyle(text).fontSize);
  const cut = [outer.left - inner.left, inner.right - outer.right, outer.top - inner.top];
  return [text.textContent, size, Math.max(...cut, inner.bottom - outer.bottom)];
})"""


def test_numbers_of_charts_can_be_read_in_both_themes(opened):
  """Numbers of charts are large enough, uncut, and of the theme's colour."""
  assert opened.locator('.plot').count() == 7
  texts = opened.evaluate(TEXTS)
  assert len(texts) > 50 and min(size for _, size, _ in texts) >= 9
  assert not [text for text, _, cut in texts if cut > 1]
  for _ in range(2):
    assert abs(luminance(opened) - luminance(opened, '.plot text', 'fill')) > 250
    opened.locator('#theme').click()


def luminance(tab, selector='body', name='backgroundColor'):
  colour = tab.evaluate(f'getComputedStyle(document.querySelector("{selector}")).{name}')
  return sum(map(int, colour[4:-1].split(',')))


def test_the_theme_is_the_systems_until_the_button(opened, request):
  dark = 'dark' in request.node.callspec.params['opened']
  assert (luminance(opened) < 300) == dark
  opened.locator('#theme').click()
  assert (luminance(opened) < 300) != dark
  opened.reload()
  assert (luminance(opened) < 300) != dark  # it is remembered


def test_the_slider_turns_by_keyboard_and_plays(opened):
  film = opened.locator('.film').first
  slider, image = film.locator('input'), film.locator('img')
  last = image.get_attribute('src')
  slider.focus()
  opened.keyboard.press('ArrowLeft')
  assert film.locator('output').inner_text() == 'step 200'
  assert slider.get_attribute('aria-valuetext') == 'step 200'
  assert image.get_attribute('alt').endswith('step 200')
  assert image.get_attribute('src') != last
  opened.keyboard.press('Home')
  film.locator('button').click()
  opened.wait_for_function('(slider) => slider.value === slider.max', arg=slider.element_handle())
  assert image.get_attribute('src') == last


# The text of each number at the top that is cut, or covers its neighbour.
WIDER = """() => [...document.querySelectorAll('.tiles dd')].filter((number) => {
  const text = document.createRange();
  text.selectNodeContents(number);
  const [inner, tile] = [text, number.parentElement].map((x) => x.getBoundingClientRect());
  return inner.right > tile.right - 8 || inner.left < tile.left || inner.bottom > tile.bottom;
}).map((number) => number.textContent)"""


@pytest.mark.parametrize('width', [1280, 890, 500, 390, 320])
def test_the_numbers_at_the_top_fit_their_tiles(browser, tmp_path, width):
  """Also of a run whose best step is sampled, and of long values."""
  folder = test_page.write_run(tmp_path / 'run')
  scores = {f'a_score_{i}': {'value': 10.0**-i, 'error': None} for i in (0, 7, 12)}
  note = {'note': '0.9481 of exact draws, 1,000 for each pair'}
  scores['picp'] = {'value': 12345.678, 'error': 0.123} | note
  test_page.write_result(folder / 'evaluation' / 'more', {'metrics': scores})
  run = record.read('run', folder, test_page.CONFIG, sampled=200)
  (tmp_path / 'report.html').write_text(page.render([run]), 'utf-8')
  tab = browser.new_page(viewport={'width': width, 'height': 900})
  tab.goto((tmp_path / 'report.html').as_uri())
  assert tab.locator('.tiles dd').count() > 10
  assert 'sampling uses step 200' in tab.locator('main').inner_text().lower()
  assert not tab.evaluate(WIDER)
  assert tab.evaluate('document.documentElement.scrollWidth') <= width
  # All tiles are as wide as the first.
  widths = tab.evaluate('[...document.querySelectorAll(".tiles div")].map((x) => x.clientWidth)')
  assert max(widths) - min(widths) <= 1
  tab.close()


def test_nothing_is_wider_than_the_screen(opened):
  width = opened.evaluate('document.documentElement.scrollWidth')
  assert width <= opened.viewport_size['width']


def test_axe_finds_nothing_serious(opened):
  path = os.environ.get('AXE_CORE')
  if not path:
    pytest.skip('npm install axe-core, AXE_CORE=node_modules/axe-core/axe.min.js')
  opened.evaluate(Path(path).read_text())
  for details in opened.locator('details').all():
    details.evaluate('(element) => { element.open = true; }')
  found = opened.evaluate('axe.run()')['violations']
  serious = [x for x in found if x['impact'] in ('serious', 'critical')]
  assert not [(x['id'], x['nodes'][0]['html'][:200]) for x in serious]

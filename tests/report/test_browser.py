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
  """Scrolls through the page; errors and requests fail the test."""
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
  plots = tab.locator('.plot')
  for i in range(plots.count()):
    plots.nth(i).scroll_into_view_if_needed()
    tab.wait_for_selector(f'#{plots.nth(i).get_attribute("id")}[data-drawn]')
  yield tab
  context.close()
  assert not wrong


def test_every_chart_is_drawn_without_scrolling(browser, file):
  """A printed page would show charts empty that were not scrolled to."""
  tab = browser.new_page()
  tab.goto(file.as_uri())
  assert tab.locator('.plot').count() == 7
  left = '() => !document.querySelector(".plot:not([data-drawn])")'
  tab.wait_for_function(left)
  width = tab.evaluate('document.querySelector(".plot").clientWidth')
  assert width <= 718 - 2 * 20  # A4 less margins of 1 cm, and the page's own
  tab.emulate_media(media='print', color_scheme='dark')
  assert luminance(tab) > 600  # paper is light
  tab.close()


def luminance(tab):
  colour = tab.evaluate('getComputedStyle(document.body).backgroundColor')
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


def test_nothing_is_wider_than_the_screen(opened):
  width = opened.evaluate('document.documentElement.scrollWidth')
  assert width <= opened.viewport_size['width']


TOUCH_ACTION = """
(plot) => {
  const find = (root) => {
    for (const child of root.querySelectorAll('*')) {
      if (child.classList.contains('bk-events')) return child;
      const found = child.shadowRoot && find(child.shadowRoot);
      if (found) return found;
    }
    return null;
  };
  return getComputedStyle(find(plot)).touchAction;
}
"""


def test_a_finger_on_a_chart_scrolls_the_page(opened, request):
  """On a phone no tool takes the gesture; on a desktop dragging zooms."""
  found = opened.locator('.plot').last.evaluate(TOUCH_ACTION)
  phone = 'phone' in request.node.callspec.params['opened']
  assert found == ('auto' if phone else 'pinch-zoom')


def test_values_are_shown_at_the_cursor_and_zoomed(opened, request):
  if 'phone' in request.node.callspec.params['opened']:
    pytest.skip('a phone has no cursor')
  plot = opened.locator('#curves .plot').first
  plot.scroll_into_view_if_needed()
  box = plot.bounding_box()
  middle = box['y'] + box['height'] / 2
  opened.mouse.move(box['x'] + box['width'] / 2, middle)
  tooltip = opened.locator('.bk-Tooltip').first
  tooltip.wait_for()
  said = tooltip.evaluate('(element) => element.shadowRoot.textContent')
  assert 'step 200' in said and '@x $y {z}' in said
  assert test_page.HOSTILE in said
  x_range = '() => Bokeh.documents.at(-1).roots()[0].x_range.span'
  last = opened.locator('.plot').last
  last.scroll_into_view_if_needed()
  before, box = opened.evaluate(x_range), last.bounding_box()
  middle = box['y'] + box['height'] / 2
  opened.mouse.move(box['x'] + box['width'] * 0.4, middle - 40)
  opened.mouse.down()
  opened.mouse.move(box['x'] + box['width'] * 0.6, middle + 40, steps=4)
  opened.mouse.up()
  assert opened.evaluate(x_range) < 0.5 * before


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

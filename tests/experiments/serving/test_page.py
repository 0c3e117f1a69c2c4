"""The page, in a browser."""

import re
import shutil
from pathlib import Path

import pytest
from small_servers import of_numbers, of_texts, serving

from experiments.serving.limits import Limits
from metajax.trained import load

pytestmark = pytest.mark.in_ci
PATIENCE = 60


@pytest.fixture(scope='module')
def browser():
  webdriver = pytest.importorskip('selenium.webdriver')
  chromium = shutil.which('chromium') or shutil.which('google-chrome')
  driver = shutil.which('chromedriver')
  if chromium is None or driver is None:
    pytest.skip('there is no chromium')
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in (
    '--headless=new', '--no-sandbox', '--disable-gpu',
    '--disable-dev-shm-usage', '--window-size=1400,1000',
  ):  # fmt: skip
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  found = webdriver.Chrome(options, webdriver.ChromeService(driver))
  found.set_page_load_timeout(PATIENCE)
  found.set_script_timeout(PATIENCE)
  yield found
  found.quit()


def until(browser, holds):
  from selenium.webdriver.support.ui import WebDriverWait

  return WebDriverWait(browser, PATIENCE).until(lambda _: holds())


def each(browser, selector):
  return browser.find_elements('css selector', selector)


def opened(browser, running):
  browser.get(f'http://127.0.0.1:{running.port}/')
  until(browser, lambda: each(browser, '#predict')[0].is_enabled())


def predict(browser):
  """What the page says: labels or an error."""
  each(browser, '#predict')[0].click()
  until(browser, lambda: each(browser, '#predict')[0].is_enabled())
  labels = [found.text for found in each(browser, '#results .label')]
  return labels, each(browser, '#error')[0].text


def rename(field, name):
  field.clear()
  field.send_keys(name)


def no_complaints(browser):
  logs = browser.get_log('browser')
  assert not [log for log in logs if 'favicon' not in log['message']], logs


def choose(field, paths: list[Path]):
  field.send_keys('\n'.join(map(str, paths)))


def draw(browser, canvas, left: bool):
  from selenium.webdriver import ActionChains

  x = -60 if left else 60
  hand = ActionChains(browser).move_to_element_with_offset(canvas, x, -60)
  hand.click_and_hold().move_by_offset(2, 60).move_by_offset(0, 50)
  hand.release().perform()


def test_files_and_drawings_become_labels(browser, exported, drawings):
  learner = load(exported)
  with serving(learner, supports=(2, 3)) as running:
    opened(browser, running)
    _, error = predict(browser)
    assert error == 'Give a query or more.'
    for number, (name, paths) in enumerate(drawings.items()):
      rename(each(browser, 'input.name')[number], name)
      choose(each(browser, '#classes input[type=file]')[number], paths[:1])
    field = each(browser, '#queries input[type=file]')[0]
    choose(field, [drawings['right'][1], drawings['left'][2]])
    labels, error = predict(browser)
    assert (labels, error) == (['right', 'left'], '')
    said = each(browser, '#time')[0].text
    assert 'adapted in' in said
    assert 'predicted in' in said
    bars = [bar.text for bar in each(browser, '#results .bar span')]
    assert sum(text.endswith('%') for text in bars) == 4
    # What is drawn is a query, too; the same adapter answers.
    each(browser, '#queries .draw')[0].click()
    draw(browser, each(browser, '#queries canvas')[0], left=True)
    each(browser, '#queries .keep')[0].click()
    until(browser, lambda: len(each(browser, '#queries img')) == 3)
    draw(browser, each(browser, '#queries canvas')[0], left=False)
    labels, error = predict(browser)
    assert (labels, error) == (['right', 'left', 'left', 'right'], '')
    assert 'adapted in' not in each(browser, '#time')[0].text
    # An adapter that is gone is made again.
    running.service.adapters._kept.clear()
    assert predict(browser) == (labels, '')
    # A message of the server is shown, and the page goes on.
    choose(field, [Path(__file__)])
    _, error = predict(browser)
    assert 'cannot be read as a PNG or JPEG file' in error
    each(browser, '#queries .image button')[-1].click()
    assert predict(browser) == (labels, '')
    logs = [log['message'] for log in browser.get_log('browser')]
    assert all('422' in log or '404' in log for log in logs), logs


@pytest.mark.parametrize('width', [400, 1400])
@pytest.mark.parametrize('colours', ['light', 'dark'])
def test_nothing_is_cut_off_and_text_can_be_read(browser, width, colours):
  def emulate(command, **options):
    browser.execute_cdp_cmd(f'Emulation.{command}', options)

  size = {'width': width, 'height': 900, 'deviceScaleFactor': 1}
  emulate('setDeviceMetricsOverride', mobile=False, **size)
  feature = {'name': 'prefers-color-scheme', 'value': colours}
  emulate('setEmulatedMedia', features=[feature])
  try:
    with serving(of_texts(), supports=(2,)) as running:
      opened(browser, running)
      areas = each(browser, '#classes textarea')
      areas[0].send_keys('a b')
      areas[1].send_keys('considerable vocabulary')
      each(browser, '#queries textarea')[0].send_keys(
        'b a\nextraordinarily' + 'long' * 40 + ' words'
      )
      labels, error = predict(browser)
      assert (labels, error) == (['class 1', 'class 2'], '')
      script = 'return document.documentElement.'
      wide = browser.execute_script(f'{script}scrollWidth')
      assert wide <= browser.execute_script(f'{script}clientWidth')
      light = [
        sum(map(int, numbers_in(browser.execute_script(
          f'return getComputedStyle(document.body).{name}'
        ))[:3]))
        for name in ('color', 'backgroundColor')
      ]  # fmt: skip
      assert abs(light[0] - light[1]) > 450
      assert (light[0] > light[1]) == (colours == 'dark')
      no_complaints(browser)
  finally:
    emulate('clearDeviceMetricsOverride')
    emulate('setEmulatedMedia', features=[])


def numbers_in(colour):
  return re.findall(r'\d+', colour)


def test_rows_of_numbers_and_refusals(browser):
  limits = Limits(queries=2)
  with serving(of_numbers(), limits, supports=(3,)) as running:
    opened(browser, running)
    area = each(browser, '#classes textarea')[0]
    area.send_keys('1, 2, 1\n0.5 3 2\n2;2;4')
    queries = each(browser, '#queries textarea')[0]
    queries.send_keys('1 1\n0 x')
    _, error = predict(browser)
    assert error == 'Queries, row 2: it has 2 numbers, u, v'
    rename(queries, '1 1\n0 2.5')
    _, error = predict(browser)
    assert error == ''
    cells = [cell.text for cell in each(browser, '#results td')]
    inputs, targets = [[1, 2], [0.5, 3], [2, 2]], [[1], [2], [4]]
    expected = running.learner.adapt((inputs, targets)).predict(
      [[1, 1], [0, 2.5]]
    )
    assert [float(cell) for cell in cells[1::2]] == pytest.approx(
      expected.values[:, 0].tolist(), rel=1e-4
    )
    no_complaints(browser)
    queries.send_keys('\n1 1')
    _, error = predict(browser)
    assert error == 'queries has 2 at most; got 3'

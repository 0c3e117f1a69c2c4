"""Pages as a browser shows them: broad and narrow, light and dark."""

import shutil
import tempfile
from pathlib import Path

import pytest
from made_up import workdir
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from experiments.reports import of_run, of_runs

pytestmark = pytest.mark.in_ci

BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
FLAGS = (
  'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
  'disable-background-networking', 'disable-component-update', 'disable-sync',
)  # fmt: skip


@pytest.fixture(scope='module')
def browser():
  if BROWSER is None or DRIVER is None:
    pytest.skip('there is no chromium with its driver')
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  with tempfile.TemporaryDirectory() as profile:
    for flag in (*FLAGS, f'user-data-dir={profile}'):
      options.add_argument(f'--{flag}')
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def pages(tmp_path_factory) -> dict[str, Path]:
  folder = tmp_path_factory.mktemp('pages')
  one, other = workdir(folder / 'one'), workdir(folder / 'another')
  return {
    'run': of_run.write(one),
    'older': of_run.write(workdir(folder / 'older', data=None)),
    'runs': of_runs.write([one, other], folder / 'both'),
  }


def show(browser, path, width, theme, scripts=True):
  browser.execute_cdp_cmd(
    'Emulation.setEmulatedMedia',
    {'features': [{'name': 'prefers-color-scheme', 'value': theme}]},
  )
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )
  browser.execute_cdp_cmd(
    'Emulation.setScriptExecutionDisabled', {'value': not scripts}
  )
  browser.get(path.as_uri())


@pytest.mark.parametrize('name', ['run', 'older', 'runs'])
@pytest.mark.parametrize('theme', ['light', 'dark'])
@pytest.mark.parametrize('width', [400, 1400])
def test_a_page_fits_and_says_what_is_pointed_at(
  browser, pages, name, theme, width
):

  show(browser, pages[name], width, theme)
  assert browser.get_log('browser') == []
  wide, room = browser.execute_script(
    'return [document.documentElement.scrollWidth, innerWidth]'
  )
  assert wide <= room == width
  paper, ink = browser.execute_script(
    'const s = getComputedStyle(document.body);'
    'return [s.backgroundColor, s.color]'
  )
  assert (brightness(paper) > brightness(ink)) == (theme == 'light')
  chart = browser.find_element(By.CSS_SELECTOR, '.chart > svg')
  tip = browser.find_element(By.ID, 'tip')
  assert not tip.is_displayed()
  ActionChains(browser).scroll_to_element(chart).move_to_element(
    chart
  ).perform()
  assert tip.is_displayed()
  assert any(each.isdigit() for each in tip.text)


def brightness(color):
  """Of `rgb(1, 2, 3)`."""
  return sum(map(float, color[color.index('(') + 1 : -1].split(',')[:3]))


def test_without_scripts_the_curves_are_there(browser, pages):

  show(browser, pages['run'], 1400, 'light', scripts=False)
  try:
    assert browser.find_element(
      By.CSS_SELECTOR, '.chart polyline'
    ).is_displayed()
    assert not browser.find_element(By.CLASS_NAME, 'copy').is_displayed()
  finally:
    browser.execute_cdp_cmd(
      'Emulation.setScriptExecutionDisabled', {'value': False}
    )


def test_a_chart_is_read_by_keys_and_a_command_is_copied(browser, pages):

  show(browser, pages['run'], 1400, 'light')
  chart = browser.find_element(By.CSS_SELECTOR, '.chart > svg')
  browser.execute_script('arguments[0].focus()', chart)
  browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
  tip = browser.find_element(By.ID, 'tip')
  assert tip.text == 'mean, inner steps 0: 50.0% ± 2.0%'
  button = browser.find_element(By.CLASS_NAME, 'copy')
  browser.execute_script(
    "arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})",
    button,
  )
  button.click()
  assert button.text in ('Copy', 'Copied')
  assert browser.get_log('browser') == []


@pytest.mark.parametrize('width', [400, 1400])
def test_the_button_covers_nothing_of_the_command(browser, pages, width):
  show(browser, pages['run'], width, 'light')
  button, command = (
    browser.find_element(By.CSS_SELECTOR, each).rect
    for each in ('.command .copy', '.command pre')
  )
  assert (
    button['y'] + button['height'] <= command['y'] + 1  # as it is rounded
    or command['x'] + command['width'] <= button['x'] + 1
  )

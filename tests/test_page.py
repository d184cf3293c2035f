"""The page of a step in a real browser: headless Chromium does what a reader would."""

import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_worked import FUNCTIONS, numbers_of

import gpubackprop as gb

pytest.importorskip("jinja2")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip

if not (CHROMIUM and DRIVER):
    if os.environ.get("GPUBACKPROP_REQUIRE_CHROMIUM"):
        raise RuntimeError("GPUBACKPROP_REQUIRE_CHROMIUM is set, and there is no chromium")
    pytest.skip("needs chromium and chromedriver in PATH", allow_module_level=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


def size(browser, width, height=900, scheme="light"):
    """Make the window as large as a screen, in CSS pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def four_layers():
    net = gb.Network(
        [4, 2, 2, 1], "sigmoid", "identity", "squared", bias=[True, True, False], backend="numpy",
        dtype="float64", rng=3,
    )  # fmt: skip
    return net.trace([[1.0, 0.5, -1.0, 2.0]], [1.0], gb.SGD(0.5))


def digits(n=3):
    from sklearn.datasets import load_digits

    X, Y = load_digits(return_X_y=True)
    net = gb.Network([64, 32, 10], "sigmoid", backend="numpy", dtype="float64", rng=0)
    return net.trace(X[:n] / 16, Y[:n], gb.SGD(0.1, momentum=0.9))


@pytest.fixture
def show(browser, tmp_path):
    """Open a step's page from a file and return the browser; afterwards nothing may have failed."""

    def opened(step, width=1280, height=900, scheme="light"):
        size(browser, width, height, scheme)
        path = Path(tmp_path / "step.html")
        path.write_text(step.to_html(), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    browser.get_log("browser")
    yield opened
    assert browser.get_log("browser") == []


def js(browser, script, *arguments):
    return browser.execute_script(script, *arguments)


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def click(browser, selector):
    """Click as a finger or a mouse does; SVG groups have no click() of their own."""
    js(browser, "document.querySelector(arguments[0])"
       ".dispatchEvent(new MouseEvent('click', {bubbles: true}))", selector)  # fmt: skip


def equations(browser):
    """Return (name, right side, value) of every equation in the panel."""
    lines = js(browser, "return [...document.querySelectorAll('.num')].map(x => x.textContent)")
    found = []
    for line in lines:
        name, _, rest = line.partition(" = ")
        right, equal, value = rest.rpartition(" = ")
        found.append((name, right if equal else value, float(value)))
    return found


def compute(right):
    return eval(right, {"__builtins__": {}, **FUNCTIONS})


def slack(right):
    """Return how far a right side may be off when each of its numbers was rounded as shown."""
    total, middle = 0.0, compute(right)
    for number in re.finditer(r"\d+(\.\d+)?(e[+-]?\d+)?", right):
        mantissa, _, exponent = number.group().partition("e")
        digits_after = len(mantissa.partition(".")[2])
        half = 0.5 * 10 ** (int(exponent or 0) - digits_after)
        if "." in mantissa:
            moved = f"({number.group()} + {half!r})"
            total += abs(compute(right[: number.start()] + moved + right[number.end() :]) - middle)
    return total


def elements(browser):
    return js(browser, "return [...document.querySelectorAll('[data-id]')].map(x => x.dataset.id)")


# ---- numbers -------------------------------------------------------------------------------------


def test_every_shown_equation_is_true_and_is_the_traces(show):
    step = four_layers()
    browser = show(step)
    seen = set()
    for amount in ("4", "0"):
        js(browser, "const d = document.getElementById('digits'); d.value = arguments[0];"
           "d.dispatchEvent(new Event('change'))", amount)  # fmt: skip
        for element in elements(browser):
            click(browser, f"[data-id={element}]")
            for name, right, value in equations(browser):
                exact = amount == "0"
                tolerance = 1e-12 if exact else slack(right) * 1.01 + 5e-4 * abs(value) + 1e-12
                assert math.isclose(compute(right), value, rel_tol=1e-9, abs_tol=tolerance)
                if re.match(r"(new )?(z|a|delta|dW|db|W|b)\[|loss$", name):
                    seen.add(name)
                    expected = numbers_of(step, name)
                    if exact:
                        assert value == expected
                    else:
                        assert math.isclose(value, expected, rel_tol=6e-4)
            click(browser, f"[data-id={element}]")
    weights = 4 * 2 + 2 * 2 + 2
    # z, a and delta of five units; inputs; dW and new W; db and new b; the loss.
    assert len(seen) == 3 * 5 + 4 + 2 * weights + 2 * 4 + 1


def test_the_equation_of_a_hidden_delta_and_what_it_lights(show):
    step = four_layers()
    browser = show(step)
    click(browser, "#stages li:nth-child(7) button")  # back through layer 1
    click(browser, "[data-id=n2_0]")
    name, right, value = equations(browser)[-1]
    assert name == "delta[1][0]"
    number = r"\(?-?[\d.e-]+\)?"
    assert re.fullmatch(rf"\({number} \* {number}\) \* {number} \* \(1 - {number}\)", right)
    assert math.isclose(value, step.delta[1][0, 0], rel_tol=6e-4)
    lit = js(browser, "return [...document.querySelectorAll('.lit')].map(x => x.dataset.id)")
    assert set(lit) == {"n3_0", "e2_0_0", "n2_0"}
    path = js(browser, "return [...document.querySelectorAll('.path')].map(x => x.dataset.id)")
    assert path == ["loss"]


def test_the_path_of_a_weight_leads_to_the_loss(show):
    browser = show(four_layers())
    click(browser, "#stages li:nth-child(8) button")  # back through layer 0
    click(browser, "[data-id=e0_1_3]")
    lit = js(browser, "return [...document.querySelectorAll('.lit, .path')].map(x => x.dataset.id)")
    assert set(lit) == {"n0_3", "n1_1", "e1_0_1", "e1_1_1", "n2_0", "n2_1", "e2_0_0", "e2_0_1",
                        "n3_0", "loss"}  # fmt: skip


# ---- ways of using it ----------------------------------------------------------------------------


def test_steps_by_keys_and_by_buttons(show):
    from selenium.webdriver.common.keys import Keys

    browser = show(four_layers())
    titles = js(browser, "return [...document.querySelectorAll('#stages button')]"
                ".map(x => x.textContent)")  # fmt: skip
    assert titles == ["Input", "Forward 0", "Forward 1", "Forward 2", "Loss", "Back 2", "Back 1",
                      "Back 0", "Update"]  # fmt: skip
    now = "return document.querySelector('[aria-current=step]').textContent"
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert js(browser, now) == "Forward 1"
    press(browser, Keys.ARROW_LEFT)
    assert js(browser, now) == "Forward 0"
    press(browser, Keys.END)
    assert js(browser, now) == "Update"
    assert js(browser, "return document.getElementById('next').disabled")
    browser.find_element("id", "previous").click()
    assert js(browser, now) == "Back 0"
    assert "Step 8 of 9." in js(browser, "return document.getElementById('stage').textContent")


def test_values_appear_when_they_are_known(show):
    step = four_layers()
    browser = show(step)
    text = "return document.querySelector('[data-id=n2_0]').textContent"
    assert "?" in js(browser, text)
    click(browser, "#stages li:nth-child(3) button")
    assert f"{step.a[2][0, 0]:.3g}" in js(browser, text)
    assert "δ" not in js(browser, text)
    click(browser, "#stages li:nth-child(7) button")
    assert "δ" in js(browser, text)


def test_everything_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    browser = show(four_layers())
    focus = "return document.activeElement.dataset.id || ''"
    order = []
    for _ in range(80):
        press(browser, Keys.TAB)
        found = js(browser, focus)
        if found:
            order.append(found)
        elif order:
            break
    assert sorted(order) == sorted(elements(browser))  # each once
    units = [name for name in order if name[0] == "n"]
    assert units == sorted(units)
    click(browser, "#stages li:nth-child(7) button")
    js(browser, "document.querySelector('[data-id=n2_1]').focus()")
    press(browser, Keys.ENTER)
    assert js(browser, "return document.querySelector('.panel h2').textContent") == (
        "Unit 1 of layer 1 (kept)"
    )
    press(browser, Keys.ESCAPE)
    assert js(browser, "return document.querySelector('.panel h2').textContent") == "Back 1"


def test_hovering_shows_and_leaving_hides(show):
    from selenium.webdriver.common.action_chains import ActionChains

    browser = show(four_layers())
    unit = browser.find_element("css selector", "[data-id=n1_0] circle")
    ActionChains(browser).move_to_element(unit).perform()
    assert js(browser, "return document.querySelector('.panel h2').textContent") == (
        "Unit 0 of layer 0"
    )
    heading = browser.find_element("tag name", "h1")
    ActionChains(browser).move_to_element(heading).perform()
    assert js(browser, "return document.querySelector('.panel h2').textContent") == "Input"


def test_taps_on_a_telephone(show):
    browser = show(four_layers(), 360, 740)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        box = js(browser, "const u = document.querySelector('[data-id=n0_2] circle');"
                 "u.scrollIntoView({block: 'center'}); const b = u.getBoundingClientRect();"
                 "return [b.x + b.width / 2, b.y + b.height / 2]")  # fmt: skip
        touch = {"type": "touchStart", "touchPoints": [{"x": box[0], "y": box[1]}]}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        title = "return document.querySelector('.panel h2').textContent"
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(browser, 5).until(lambda b: "(kept)" in js(b, title))
        assert js(browser, title) == "Unit 2 of the input (kept)"
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_number_leads_to_where_it_comes_from(show):
    browser = show(four_layers())
    click(browser, "#stages li:nth-child(7) button")
    click(browser, "[data-id=n2_0]")
    click(browser, ".eq.now .n[data-ref=e2_0_0]")
    assert js(browser, "return document.querySelector('.panel h2').textContent").startswith(
        "Weight W[2][0, 0]"
    )


# ---- sizes, samples, colours ---------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("make", [four_layers, digits])
def test_no_width_needs_scrolling_sideways(show, make, width):
    browser = show(make(), width)
    assert js(browser, "return document.documentElement.scrollWidth") <= width
    small = js(browser, "return [...document.querySelectorAll('svg text')]"
               ".filter(t => parseFloat(getComputedStyle(t).fontSize) < 10).length")  # fmt: skip
    assert small == 0


def test_units_of_the_small_network_fit_a_telephone(show):
    browser = show(four_layers(), 360)
    inside = js(browser, "const box = document.getElementById('drawing').getBoundingClientRect();"
                "return [...document.querySelectorAll('.unit circle')].every(c => {"
                "const b = c.getBoundingClientRect();"
                "return b.left >= box.left && b.right <= box.right })")  # fmt: skip
    assert inside


def test_large_layers_are_folded_and_the_sample_can_be_chosen(show):
    step = digits()
    browser = show(step)
    assert js(browser, "return document.querySelectorAll('.unit').length") == 8 + 8 + 10
    words = js(browser, "return [...document.querySelectorAll('.more')].map(x => x.textContent)")
    assert words == ["… 56 more", "… 24 more"]
    click(browser, "[data-id=n2_7]")
    for s in range(3):
        js(browser, "const d = document.getElementById('sample'); d.value = arguments[0];"
           "d.dispatchEvent(new Event('change'))", str(s))  # fmt: skip
        shown = {name: value for name, _, value in equations(browser)}
        assert math.isclose(shown[f"a[2][{s}, 7]"], step.a[2][s, 7], rel_tol=6e-4)
        assert math.isclose(shown[f"delta[1][{s}, 7]"], step.delta[1][s, 7], rel_tol=6e-4)


def test_signs_are_seen_without_colours(show):
    step = four_layers()
    browser = show(step)
    dashed = js(browser, "return Object.fromEntries([...document.querySelectorAll('.edge')].map("
                "g => [g.dataset.id, getComputedStyle(g.querySelector('.line')).strokeDasharray]"
                "))")  # fmt: skip
    for l, W in enumerate(step.W):
        for j, i in np.ndindex(W.shape):
            assert (dashed[f"e{l}_{j}_{i}"] != "none") == (W[j, i] < 0)


def contrast(one, other):
    """Return the contrast of two colours "rgb(r, g, b)" as WCAG defines it."""
    light = []
    for color in (one, other):
        parts = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
        parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        light.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_light_and_dark_can_both_be_read(show):
    backs = []
    for scheme in ("light", "dark"):
        browser = show(four_layers(), scheme=scheme)
        style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        back = js(browser, style, "body", "backgroundColor")
        panel = js(browser, style, ".panel", "backgroundColor")
        backs.append(back)
        assert contrast(js(browser, style, "body", "color"), back) > 7
        assert contrast(js(browser, style, ".sym, .help", "color"), back) > 4.5
        assert contrast(js(browser, style, ".help", "color"), panel) > 4.5
        for kind in (".positive", ".negative"):
            assert contrast(js(browser, style, kind, "stroke"), back) > 4.5
    assert backs[0] != backs[1]


def test_labels_say_what_is_where(show):
    step = four_layers()
    browser = show(step)
    labels = js(browser, "return Object.fromEntries([...document.querySelectorAll('[data-id]')]"
                ".map(g => [g.dataset.id, g.getAttribute('aria-label')]))")  # fmt: skip
    assert labels["n0_1"] == "Unit 1 of the input, a 0.5"
    assert labels["e1_1_0"].startswith("Weight W[1][1, 0]: from unit 0 to unit 1 of layer 1, ")
    assert all(labels.values())


def test_two_steps_in_one_notebook(browser, tmp_path):
    size(browser, 1000)
    frames = [four_layers()._repr_html_(), digits()._repr_html_()]
    path = Path(tmp_path / "notebook.html")
    path.write_text("<!doctype html><title>two</title>" + "".join(frames), encoding="utf-8")
    browser.get(path.as_uri())
    units = []
    for k in range(2):
        browser.switch_to.frame(k)
        units.append(js(browser, "return document.querySelectorAll('.unit').length"))
        browser.find_element("id", "next").click()
        assert js(browser, "return document.querySelector('[aria-current=step]').textContent") == (
            "Forward 0"
        )
        browser.switch_to.default_content()
    assert units == [9, 26]

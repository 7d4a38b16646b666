"""The report in a real browser: it loads without an error, and can be used with mouse, fingers and keys.

The browser is Debian's Chromium. Where it is missing these tests are skipped; with J2O_BROWSER=required, as
`.ci/run` has it, they fail.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import j2o
from tools import needs
from tools.snippets import snippets

DEPLOYMENT = Path(__file__).parents[1] / "docs" / "deployment.md"
REQUIRED = os.environ.get("J2O_BROWSER") == "required"
NAMES = ("chromium", "chromium-browser", "google-chrome")
TRANSFORM = re.compile(r"translate\((\S+) (\S+)\) scale\((\S+)\)")
PARTS = "interface usage operations graph weights passes runtimes notes"


def missing(what, how):
    """Skip the test that asks, or fail where a browser must be there."""
    reason = f"needs {what}: {how}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("playwright", "pip install playwright")
    paths = [path for path in map(shutil.which, NAMES) if path]
    if not paths:
        missing("Chromium", "apt-get install chromium")
    # a sandbox of its own is more than a container lets the browser have
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=paths[0], args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """A function that opens a file; when the test ends, nothing may have gone wrong in the page."""
    contexts = []
    problems = []

    def open_file(path, **options):
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url))
        address = path.as_uri()
        page.goto(address)
        assert problems == [address]  # the page, and nothing else
        problems.clear()
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert problems == []


# ------------------------------------------------------------------------------------- the models


class Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x):
        size = x.shape[-1]
        y = nn.LayerNorm(name="n1")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="att")(y, y)
        y = nn.Dense(4 * size, name="up")(nn.LayerNorm(name="n2")(x))
        return x + nn.Dense(size, name="down")(nn.gelu(y))


class ViT(nn.Module):
    """A vision transformer; the default sizes are those of ViT-B/16."""

    size: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16

    @nn.compact
    def __call__(self, x):
        window = (self.patch, self.patch)
        x = nn.Conv(self.size, window, window, padding="VALID", name="patch")(x)
        x = x.reshape(x.shape[0], -1, self.size)
        ones = nn.initializers.ones
        token = self.param("token", ones, (1, 1, self.size))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.size))
        x = jnp.concatenate([token, x], 1)
        x = x + self.param("position", ones, (1, x.shape[1], self.size))
        for i in range(self.depth):
            x = Block(self.heads, name=f"blocks_{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(1000, name="head")(x[:, 0])


def frozen(module, image):
    """The function of a module with weights that are only read where they are small, and its specs."""
    shape = (1, image, image, 3)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones(shape))
    weights = jax.tree.map(weight, variables)
    return module.apply, [j2o.weights(weights), f"f32[B,{image},{image},3]"]


def weight(leaf):
    values = np.linspace(0.5, 1.5, leaf.size, dtype=leaf.dtype)
    return j2o.lazy(leaf.shape, leaf.dtype, lambda: values.reshape(leaf.shape))


def scan(xs, w):
    def step(carry, x):
        carry = jnp.tanh(carry @ w + x)
        carry = lax.cond(carry.sum() > 0, jnp.sin, lambda c: c + x, carry)
        return carry, carry.mean()

    return lax.scan(step, xs[0], xs)


@j2o.function
def scaled(x):
    return jnp.tanh(x) * 2 + x


def saved(folder, fn, specs, **options):
    path = folder / "report.html"
    j2o.compile(fn, specs, **options).report.save(path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    module = ViT(size=16, depth=5, heads=2, patch=4)
    return saved(tmp_path_factory.mktemp("vit"), *frozen(module, 8))


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("loop"), scan, ["f32[T,4]", "f32[4,4]"])


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    def fn(x):
        return scaled(scaled(x) + 1)

    return saved(tmp_path_factory.mktemp("calls"), fn, ["f32[B,4]"])


# ------------------------------------------------------------------------------------- what is on the page


def picture(page):
    """The picture, once it is drawn: that happens when it comes near to what is seen."""
    place = page.locator("#picture")
    place.scroll_into_view_if_needed()
    place.locator(".box").first.wait_for()
    return place


def box(place, title, count=0):
    """One of the boxes with this title, the outermost first."""
    return place.get_by_role("button", name=re.compile(rf"^{title}(,|$)")).nth(count)


def view(place):
    """Where the picture is moved to, and how large it is."""
    found = TRANSFORM.match(place.locator("svg > g").get_attribute("transform"))
    return tuple(map(float, found.groups()))


def press(element, key):
    """Press a key on a box; the keys bring it into view."""
    element.focus()
    element.page.keyboard.press(key)


def middle(element):
    bounds = element.bounding_box()
    return bounds["x"] + bounds["width"] / 2, bounds["y"] + bounds["height"] / 2


def expects(locator):
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # ms, on a machine with much else to do
    return expect(locator)


# ------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("model", ["vit", "loop", "calls"])
def test_a_report_loads_without_an_error(opened, request, model):
    page = opened(request.getfixturevalue(model))
    sections = page.locator("main > section")
    ids = [section.get_attribute("id") for section in sections.all()]
    assert "graph" in ids
    assert "passes" in ids
    assert len(set(ids)) == len(ids)
    picture(page)


def test_a_pass_is_chosen_and_shows_its_difference(opened, loop):
    page = opened(loop)
    details = page.locator(".pass-details", has_text="lower").first
    assert details.locator("table").count() == 0
    details.locator("summary").click()
    table = details.locator("table.diff").first
    expects(table).to_be_visible()
    expects(table.locator("td.removed", has_text="lax.tanh")).to_have_count(1)
    expects(table.locator("td.added", has_text="onnx.Tanh")).to_have_count(1)
    source = table.locator("td.source", has_text="test_browser.py").first
    expects(source).to_contain_text("lax.scan(step, xs[0], xs)")  # the program's line


# ------------------------------------------------------------------------------------- modules


def test_a_module_opens_and_closes(opened, vit):
    place = picture(opened(vit))
    assert place.locator(".box").count() < 60
    block = box(place, "blocks_3")
    att = box(place, "att")
    expects(block).to_have_attribute("aria-expanded", "false")
    expects(att).to_have_count(0)
    before = place.locator(".box").count()
    place.get_by_role("button", name="Show all of it").click()
    block.click()
    expects(block).to_have_attribute("aria-expanded", "true")
    expects(att).to_be_visible()
    block.locator(".sign-button").first.click()
    expects(block).to_have_attribute("aria-expanded", "false")
    expects(att).to_have_count(0)
    assert place.locator(".box").count() == before
    block.press("Enter")
    expects(att).to_be_visible()
    block.press("Space")
    expects(att).to_have_count(0)


def test_an_opened_module_stays_where_it_is(opened, vit):
    place = picture(opened(vit))
    block = box(place, "blocks_2")
    frame = block.locator(".frame")
    block.focus()
    x, _ = middle(frame)
    top = frame.bounding_box()["y"]
    block.press("Enter")
    expects(block).to_have_attribute("aria-expanded", "true")
    assert middle(frame)[0] == pytest.approx(x, abs=2)
    assert frame.bounding_box()["y"] == pytest.approx(top, abs=2)


def test_all_modules_close(opened, vit):
    place = picture(opened(vit))
    box(place, "blocks_1").press("Enter")
    place.get_by_role("button", name="Close all modules").click()
    expects(place.locator("[aria-expanded=true]")).to_have_count(0)
    expects(box(place, "blocks_1")).to_have_count(1)


def test_a_name_is_found_in_closed_modules(opened, vit):
    place = picture(opened(vit))
    search = place.get_by_role("searchbox")
    search.fill("blocks_2/att")
    search.press("Enter")
    expects(place.get_by_role("status")).to_contain_text("1 of ")
    details = place.locator(".picture-details")
    expects(details).to_contain_text("blocks_2/att")
    expects(place.locator(".box.chosen")).to_have_count(1)
    search.fill("no such name")
    search.press("Enter")
    expects(place.get_by_role("status")).to_have_text("nothing found")


def test_the_bodies_of_a_scan_and_of_its_branches_are_boxes(opened, loop):
    place = picture(opened(loop))
    body = box(place, "Scan")
    expects(body).to_have_attribute("aria-expanded", "true")
    for title in ("MatMul", "If", "then branch", "else branch", "Sin"):
        expects(box(place, title)).to_be_visible()
    body.focus()
    body.press("Space")
    expects(box(place, "MatMul")).to_have_count(0)


def test_each_call_of_a_function_opens_alone(opened, calls):
    place = picture(opened(calls))
    first, second = box(place, "scaled", 0), box(place, "scaled", 1)
    expects(first).to_have_attribute("aria-expanded", "true")
    expects(box(place, "Tanh", 1)).to_be_visible()
    first.focus()
    first.press("Space")
    expects(first).to_have_attribute("aria-expanded", "false")
    expects(second).to_have_attribute("aria-expanded", "true")
    expects(box(place, "Tanh")).to_be_visible()
    expects(box(place, "Tanh", 1)).to_have_count(0)


def test_many_inputs_of_one_node_are_one_box(opened, tmp_path):
    @j2o.function
    def joined(*rows):
        return jnp.concatenate(rows)

    def fn(*rows):
        return joined(*rows)

    path = saved(tmp_path, fn, [f"f32[{i}]" for i in range(1, 11)])
    place = picture(opened(path))
    expects(box(place, "joined")).to_have_attribute("aria-expanded", "true")
    gathered = box(place, "9 inputs")  # the first has its line
    expects(gathered).to_be_visible()
    press(gathered, "Enter")
    expects(place.locator(".picture-details li")).to_have_count(9)


# ------------------------------------------------------------------------------------- details


def test_a_node_shows_its_types_attributes_and_source(opened, loop):
    place = picture(opened(loop))
    box(place, "MatMul").click()
    details = place.locator(".picture-details")
    line = scan.__code__.co_firstlineno + 2
    for text in (
        "Source",
        f"tests/test_browser.py:{line}",
        "f32[1,4]",
        "%w",
        "f32[4,4]",
    ):
        expects(details).to_contain_text(text)
    details.get_by_role("button", name="to Squeeze").click()
    expects(details.locator("h3")).to_have_text("Squeeze")
    box(place, "Scan").locator(
        ".title"
    ).click()  # a node with a body: the details first
    expects(details.locator("h4", has_text="Attributes")).to_be_visible()
    expects(details).to_contain_text("num_scan_inputs")
    place.page.keyboard.press("Escape")
    expects(details).to_be_hidden()


def test_names_are_text_and_never_html(opened, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    path = saved(tmp_path, lambda x: jnp.tanh(x) * 2, ["f32[B]"], input_names=[name])
    page = opened(path)
    place = picture(page)
    expects(place.locator(".input", has_text="<img")).to_have_count(1)
    place.locator(".input").click()
    expects(place.locator(".picture-details h3")).to_contain_text("<img")
    assert page.locator("img").count() == 0


# ------------------------------------------------------------------------------------- moving and zooming


def test_keys_move_and_zoom(opened, loop):
    place = picture(opened(loop))
    canvas = place.locator("svg")
    canvas.focus()
    x, y, scale = view(place)
    canvas.press("ArrowRight")
    canvas.press("ArrowDown")
    assert view(place) == (x - 60, y - 60, scale)
    canvas.press("+")
    assert view(place)[2] > scale
    canvas.press("-")
    assert view(place)[2] == pytest.approx(scale)
    canvas.press("0")
    frame = canvas.bounding_box()
    for bounds in (
        box(place, "Slice").bounding_box(),
        place.locator(".output").last.bounding_box(),
    ):
        assert frame["y"] <= bounds["y"]
        assert bounds["y"] + bounds["height"] <= frame["y"] + frame["height"]


def test_boxes_are_reached_by_the_tab_key(opened, loop):
    page = opened(loop)
    place = picture(page)
    place.locator("svg").focus()
    titles = []
    for _ in range(4):
        page.keyboard.press("Tab")
        titles.append(page.locator(":focus").get_attribute("aria-label"))
    assert any(title.startswith("Slice") for title in titles)
    page.keyboard.press("Enter")
    expects(place.locator(".picture-details")).to_be_visible()


def test_the_mouse_moves_and_zooms(opened, loop):
    page = opened(loop)
    place = picture(page)
    canvas = place.locator("svg")
    before = view(place)
    corner = canvas.bounding_box()
    page.mouse.move(corner["x"] + 20, corner["y"] + 20)
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, -100)
    page.wait_for_function("top => scrollY < top", arg=top)
    assert view(place) == before  # the wheel scrolls the page first
    picture(page)
    corner = canvas.bounding_box()
    x, y = corner["x"] + 20, corner["y"] + 20
    page.mouse.click(x, y)
    unmoved = canvas.locator("> g").get_attribute("transform")
    page.mouse.wheel(0, -100)
    expects(canvas.locator("> g")).not_to_have_attribute("transform", unmoved)
    zoomed = view(place)
    assert zoomed[2] > before[2]
    page.mouse.down()
    page.mouse.move(x + 30, y + 40, steps=5)
    page.mouse.up()
    moved = view(place)
    assert moved[2] == zoomed[2]
    assert moved[0] > zoomed[0]
    assert moved[1] > zoomed[1]
    assert place.locator(".chosen").count() == 0


def test_two_fingers_zoom(opened, loop):
    page = opened(loop, has_touch=True)
    place = picture(page)
    x, y = middle(place.locator("svg"))
    scale = view(place)[2]
    touch = page.context.new_cdp_session(page)

    def fingers(kind, apart):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": points if apart else []},
        )

    fingers("touchStart", 50)
    fingers("touchMove", 75)
    fingers("touchMove", 100)
    fingers("touchEnd", 0)
    assert view(place)[2] == pytest.approx(2 * scale, rel=0.2)


def test_the_picture_fills_the_window_and_comes_back(opened, loop):
    page = opened(loop)
    place = picture(page)
    place.get_by_role("button", name="Fill the window").click()
    bounds = place.bounding_box()
    assert (bounds["width"], bounds["height"]) == (1280, 900)
    place.locator("svg").focus()
    page.keyboard.press("Escape")
    assert place.bounding_box()["height"] < 900


# ------------------------------------------------------------------------------------- light and dark


def brightness(place, selector, property):
    """The mean of red, green and blue of a colour, from 0 to 255."""
    script = "(element, name) => getComputedStyle(element)[name]"
    colour = place.locator(selector).first.evaluate(script, property)
    numbers = re.findall(r"[\d.]+", colour)[:3]
    return sum(map(float, numbers)) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(opened, loop, scheme):
    page = opened(loop, color_scheme=scheme)
    place = picture(page)
    ground = brightness(page, "body", "backgroundColor")
    assert ground > 200 if scheme == "light" else ground < 60
    pairs = [
        (brightness(page, "body", "color"), ground),
        (brightness(place, "text.title", "fill"), brightness(place, ".frame", "fill")),
        (brightness(place, "text.type", "fill"), brightness(place, ".frame", "fill")),
    ]
    assert min(abs(text - behind) for text, behind in pairs) > 90
    frame = brightness(place, ".node .frame", "fill")
    assert abs(frame - ground) < 60


# ------------------------------------------------------------------------------------- large models


def test_a_graph_of_thousands_of_nodes_opens_in_parts(opened, tmp_path):
    def fn(x):
        y = x
        for i in range(2500):
            y = jnp.sin(y) * (1.5 + i)
        return y

    place = picture(opened(saved(tmp_path, fn, ["f32[B,8]"])))
    assert place.locator(".box").count() < 60
    search = place.get_by_role("searchbox")
    search.fill("sin_2000")
    search.press("Enter")
    expects(place.locator(".box.chosen")).to_have_count(1)
    expects(place.locator(".picture-details h3")).to_have_text("Sin")


def test_the_report_of_vit_b16_is_small(opened, tmp_path):
    path = saved(tmp_path, *frozen(ViT(), 224))
    assert path.stat().st_size < 2_000_000
    place = picture(opened(path))
    assert 10 < place.locator(".box").count() < 60


# ------------------------------------------------------------------------------- a model in a page


@pytest.fixture
def served(tmp_path):
    """The address at which the files of the folder are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing."""

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_page_on_deployment_runs_a_model_in_the_browser(
    browser, served, tmp_path, monkeypatch
):
    """Its program in HTML shows the same numbers as the one in Python."""
    if not needs.is_here("onnxruntime-web"):
        missing("onnxruntime-web", "tools/node_packages")
    monkeypatch.chdir(tmp_path)
    blocks = snippets(DEPLOYMENT.read_text())
    by_file = {block.marks.get("file"): block for block in blocks}
    exec(blocks[0].code, {})
    (tmp_path / "index.html").write_text(by_file["index.html"].code)
    (tmp_path / "node_modules").symlink_to(needs.MODULES)
    [in_python] = [block for block in blocks if block.code == "python run.py\n"]
    page = browser.new_page()
    page.goto(f"{served}/index.html")
    page.wait_for_function("document.body.innerText.split('\\n').length > 1")
    assert page.inner_text("#scores").strip() == in_python.output.text.strip()
    page.close()

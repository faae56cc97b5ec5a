"""The report in a browser: it draws itself without errors, plays, and shows what is chosen."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from chromium import NAMES, Page, find_chromium
from PIL import Image
from scene_report import NASTY, recorded, section, truth

from psg4d_ros.evaluation.report.page import write_report

CHOSEN = "document.querySelector('#graph .node[aria-pressed=true]')"


def pixels(page: Page) -> np.ndarray:
    """int[H, W, 3] of the 3D view."""
    with Image.open(io.BytesIO(page.picture("#view"))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def chroma(picture: np.ndarray) -> np.ndarray:
    """int[H, W]: how far from gray."""
    return np.ptp(picture, axis=2)


def seen_of(page: Page, picture: np.ndarray, number: int) -> np.ndarray:
    """bool[H, W]: what has about the colour that an object has in the graph, lighter or darker."""
    style = page.value(f"document.querySelector('#graph .node[data-object=\"{number}\"] circle').style.fill")
    color = np.array(re.findall(r"\d+", style), int)
    own, named = (v - v.min(axis=-1, keepdims=True) for v in (picture, color))
    shades = own / np.maximum(own.max(axis=-1, keepdims=True), 1)
    return (chroma(picture) > 60) & (np.abs(shades - named / named.max()).max(axis=-1) < 0.1)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    sections = [
        section(recorded(6, truth=truth(6)), "Table", "A cup on a table."),
        section(recorded(2, label=NASTY, predicate=NASTY), NASTY),
        section(recorded(2, colors=False), "Gray"),
        section(recorded(2, objects=False), "Nothing found"),
        section(recorded(1), "One graph", timings=False),
        section(recorded(0), "No graph"),
    ]
    write_report(path, sections)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no {', '.join(NAMES)} is installed (Debian: apt-get install chromium)")
    with Page(executable, tmp_path_factory.mktemp("profile")) as page:
        page.resize(1100, 800)
        yield page
        assert page.problems == []


@pytest.fixture
def opened(page, report):
    """The page as it is at first: the first tab, nothing chosen."""
    page.resize(1100, 800)
    if page.value("location.href") != report.as_uri():
        page.open(report)
    page.click("#tab-5")
    page.click("#tab-0")
    page.click("#reset-view")
    page.settle()
    return page


def test_it_loads_without_a_word_on_the_console(opened):
    assert opened.value("document.querySelectorAll('#graph .node').length") == 2
    assert opened.value("report.shown().points") == 300
    assert opened.value("document.querySelector('#labels .mark').textContent") in ("cup 3", "table 8")
    assert opened.problems == []


def test_it_plays_and_pauses(opened):
    assert opened.value("report.state.frame") == 0
    opened.click("#play")
    opened.wait_for("report.state.frame >= 2")
    opened.click("#play")
    frame = opened.value("report.state.frame")
    assert opened.value("document.querySelector('#play').getAttribute('aria-label')") == "Play"
    assert opened.value("new Promise((done) => setTimeout(() => done(report.state.frame), 400))") == frame
    assert opened.value("document.querySelector('#clock').textContent").startswith(f"{0.25 * frame:.2f} s")


def test_choosing_an_object_highlights_its_points_and_relations(opened):
    plain = opened.picture("#view")
    opened.click("#graph .node[data-object='0']")
    opened.point_away()
    assert opened.value(f"{CHOSEN}.textContent") == "cup 3"
    assert opened.value("report.shown().emphasis") == [255, 150], "the table is related to the cup"
    assert opened.value("document.querySelector('#labels .mark.focused').textContent") == "cup 3"
    assert opened.value("document.querySelectorAll('#graph .edge.focused').length") == 1
    assert opened.value("document.querySelector('#selection').textContent").startswith("cup 3")
    assert opened.picture("#view") != plain
    opened.key("Escape")
    opened.settle()
    assert opened.value(CHOSEN) is None
    assert opened.value("report.shown().emphasis") == [255, 255]


def test_pointing_at_an_object_highlights_its_points(opened):
    opened.point_at("#graph .node[data-object='0']")  # it scrolls there
    opened.point_away()
    plain = pixels(opened)
    cup, table = (seen_of(opened, plain, object_number) for object_number in (0, 1))
    assert cup.sum() > 500 and table.sum() > 500, "both are seen"
    opened.point_at("#graph .node[data-object='0']")
    assert opened.value("[report.state.hovered, report.state.selected]") == [0, -1]
    assert opened.value("report.shown().emphasis") == [255, 150]
    assert opened.value("document.querySelector('#graph .node.focused').textContent") == "cup 3"
    assert opened.value(CHOSEN) is None
    pointed = pixels(opened)
    kept = [float(np.median(chroma(pointed)[seen] / chroma(plain)[seen])) for seen in (cup, table)]
    assert kept[0] > 0.95, "the cup keeps its colour"
    assert kept[1] < 0.8, "the table pales"
    opened.point_away()
    assert opened.value("report.shown().emphasis") == [255, 255]
    # A few pixels at the edges of points may be drawn one level lighter or darker.
    np.testing.assert_allclose(pixels(opened).astype(int), plain.astype(int), atol=2)


def test_a_point_of_the_cloud_chooses_its_object(opened):
    at = opened.value(
        "(() => { const l = [...document.querySelectorAll('#labels .mark')].find((m) => m.textContent === 'table 8')"
        ".getBoundingClientRect(); return {x: l.x + l.width / 2, y: l.bottom + 22} })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        opened.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
    assert opened.value(f"{CHOSEN}?.textContent") in ("table 8", "cup 3")


def test_keys_turn_the_view_and_step_through_time(opened):
    before = opened.picture("#view")
    opened.value("document.querySelector('#view').focus()")
    opened.key("ArrowLeft")
    opened.settle()
    assert opened.picture("#view") != before
    opened.key(".")
    assert opened.value("report.state.frame") == 1


def test_ground_truth_and_camera_colours_can_be_shown(opened):
    picture = opened.picture("#view")
    opened.click("#coloring input[value=sensor]")
    opened.settle()
    assert opened.picture("#view") != picture
    opened.click("#layers input[value=true]")
    opened.settle()
    names = opened.value("[...document.querySelectorAll('#graph .node')].map((n) => n.textContent).sort()")
    assert names == ["cup 1", "table 2"]
    bars = opened.value("[...document.querySelectorAll('#timeline .said, #timeline .real')].map((b) => b.className)")
    assert sorted(bars) == ["real", "real", "said"]


def test_every_control_has_a_name(opened):
    nameless = opened.value(
        "[...document.querySelectorAll('button, input, select, [tabindex=\"0\"], [role=button]')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || "
        "e.closest('label')?.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("tab", range(1, 6))
def test_every_tab_opens(opened, tab):
    opened.click(f"#tab-{tab}")
    opened.settle()
    assert opened.value(f"document.querySelector('#tab-{tab}').getAttribute('aria-selected')") == "true"
    nodes = opened.value("[...document.querySelectorAll('#graph .node text')].map((n) => n.textContent)")
    assert len(nodes) == (0 if tab in (3, 5) else 2)
    if tab == 1:
        assert any(n.startswith("</script><img") for n in nodes)
        assert opened.value("document.querySelectorAll('img').length") == 0
    if tab == 5:
        assert "No graphs" in opened.value("document.querySelector('#notice').textContent")
    assert opened.problems == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(opened, dark):
    page = opened
    page.resize(390, 844, dark=dark, touch=True)
    page.settle()
    assert page.value("document.documentElement.scrollWidth") == 390
    assert page.value("document.querySelector('#view canvas').clientWidth") > 300
    color = page.value("getComputedStyle(document.body).backgroundColor")
    assert (int(color.split("(")[1].split(",")[0]) < 40) == dark


class TestDemo:
    """The report that `psg4d demo` writes."""

    @pytest.fixture
    def shown(self, page, demo):
        page.resize(1100, 800)
        page.open(demo.folder / demo.result["report"])
        return page

    @pytest.mark.parametrize("tab, title", [(0, "Kinect"), (1, "Simulated room")])
    def test_its_scenes_have_points_and_a_graph(self, shown, tab, title):
        shown.click(f"#tab-{tab}")
        shown.settle()
        assert shown.value("document.querySelector('[role=tab][aria-selected=true]').textContent") == title
        assert shown.value("report.shown().points") > 1000
        assert shown.value("document.querySelectorAll('#graph .node').length") > 0
        assert np.unique(pixels(shown).reshape(-1, 3), axis=0).shape[0] > 100, "the points are drawn"
        assert shown.value("document.querySelector('#metrics-card').hidden") == (tab == 0)

        shown.value("document.activeElement.blur()")
        shown.key(" ")
        assert shown.value("report.state.playing") is True
        shown.wait_for("report.state.frame >= 1")
        shown.key(" ")
        assert shown.value("report.state.playing") is False

        shown.point_away()
        plain, number = shown.picture("#view"), shown.value("document.querySelector('#graph .node').dataset.object")
        node = f"#graph .node[data-object='{number}']"
        for act in (shown.point_at, shown.click):
            act(node)
            assert shown.value(f"report.shown().emphasis[{number}]") == 255
            assert shown.value(f"report.shown().emphasis.every((v, i) => i === {number} || v < 255)")
            assert shown.picture("#view") != plain
        shown.point_away()
        assert shown.value(f"{CHOSEN}.dataset.object") == number
        assert shown.problems == []

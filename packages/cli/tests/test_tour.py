"""The whole tour as a newcomer takes it, and its page in a real browser."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def open_page(page):
    """Return the headings of a page that a browser opens, and whatever it complains of."""
    from playwright.sync_api import sync_playwright

    complaints, requests = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        headings = tab.locator("h2").all_text_contents()
        pictures = tab.locator("svg, table.grid").count()
        browser.close()
    loaded = [url for url in requests if not url.startswith(("file:", "data:"))]
    return headings, pictures, [*complaints, *loaded]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")
def test_a_page_of_two_stages_renders(command, tmp_path):
    done = command("demo", "--only", "optimize", "--only", "inspect", "--out", tmp_path / "tour")
    assert done.code == 0, done.err
    headings, pictures, complaints = open_page(tmp_path / "tour" / "report.html")
    assert headings == ["1. Words that change an answer", "2. Where inside the model it changes"]
    # A curve, what is said after each block without and with the trigger, a head's attention.
    assert pictures == 4
    assert complaints == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")
def test_the_whole_tour(command, tmp_path):
    """Two minutes of processor time: all stages in earnest."""
    done = command("demo", "--out", tmp_path / "tour")
    assert done.code == 0, done.err
    assert "It solves" in done.err
    headings, pictures, complaints = open_page(tmp_path / "tour" / "report.html")
    assert len(headings) == 4
    assert pictures >= 8
    assert complaints == []
    assert {path.name for path in (tmp_path / "tour").iterdir()} == {
        "inspect", "linear", "optimize", "report.html", "train",
    }  # fmt: skip

"""`pellucid inspect`: what it says, and its page in a real browser."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PROMPT = "What is the colour of Alma's bicycle?"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from pellucid.cli import run

    path = tmp_path_factory.mktemp("pages") / "deep" / "page.html"
    assert run(["inspect", "zoo:tiny-chat", PROMPT, "--report", str(path)]) == 0
    return path


def read_data(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found[1])


def test_the_page_holds_what_the_model_computes(page):
    from pellucid import zoo
    from pellucid.bridge import TransformerBridge

    data = read_data(page)
    model, tokenizer = zoo.load("tiny-chat")
    bridge = TransformerBridge(model, tokenizer=tokenizer)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
    )
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(torch.tensor([ids]))
    assert len(data["tokens"]) == len(ids)
    for layer, held in enumerate(data["layers"]):
        bytes_ = bytearray(base64.b64decode(held["patterns"]))
        found = torch.frombuffer(bytes_, dtype=torch.uint8).view(4, len(ids), len(ids)) / 255
        torch.testing.assert_close(found, cache["pattern", layer][0], atol=1 / 500, rtol=0)
    last = torch.tensor([place[0] for place in data["lens"]["probabilities"][-1]])
    torch.testing.assert_close(last, logits[0].softmax(-1).amax(-1), atol=1e-4, rtol=0)
    best = logits[0, -1].topk(2).values
    scores = [part["score"] for part in data["attribution"]["parts"]]
    assert scores == sorted(scores, key=abs, reverse=True)
    # Without biases, all parts together are the difference: here all fit on the page.
    assert sum(scores) == pytest.approx(float(best[0] - best[1]), abs=0.05)


def test_what_it_says_without_a_page(command):
    done = command(
        "inspect", "zoo:tiny-chat", "Who are you?", "--token", " Alma", "--against", " a"
    )
    assert done.code == 0
    assert "block 3" in done.out
    assert "what speaks for ·Alma over ·a" in done.out
    assert "MLP" in done.out
    assert "page:" not in done.out


def test_a_raw_prompt_is_taken_as_it_is(command, tmp_path):
    path = tmp_path / "p.html"
    text = "<script>alert(1)</script> & more"
    assert command("inspect", "zoo:tiny-chat", text, "--raw", "--report", path).code == 0
    whole = path.read_text(encoding="utf-8")
    assert "<script>alert" not in whole
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in whole
    assert "<|user|>" not in "".join(read_data(path)["tokens"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("zoo:tiny-chatt", "x"), "tiny-chat"),
        (("./nowhere", "x"), r"'\./nowhere'.*Name a directory"),
        (("zoo:tiny-chat", "word " * 600), "tokens; from 1 to 512"),
        (("zoo:tiny-chat", "x", "--token", "several words at once"), "is 10 tokens"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(command, tmp_path, arguments, complaint):
    path = tmp_path / "p.html"
    done = command("inspect", *arguments, "--report", path)
    assert done.code == 2
    assert re.search(complaint, done.err)
    assert len(done.err.strip().splitlines()) == 1
    assert not path.exists()


def test_a_directory_is_no_page(command, tmp_path):
    done = command("inspect", "zoo:tiny-chat", "x", "--report", tmp_path)
    assert done.code == 2
    assert "is a directory" in done.err


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")
def test_the_page_works_in_a_browser_that_loads_nothing(page):
    from playwright.sync_api import sync_playwright

    complaints, requests = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        assert tab.locator("#heads button").count() == 16
        before = tab.evaluate("document.getElementById('pattern').toDataURL()")
        # Of the squares, of the menus, and of the bars: all choose.
        tab.locator("#heads button[data-layer='2'][data-head='3']").click()
        assert (tab.input_value("#layer"), tab.input_value("#head")) == ("2", "3")
        assert tab.evaluate("document.getElementById('pattern').toDataURL()") != before
        tab.select_option("#layer", "1")
        pressed = tab.locator("#heads button[aria-pressed=true]")
        assert (pressed.count(), pressed.get_attribute("data-layer")) == (1, "1")
        bar = tab.locator("#bars button").first
        label = bar.text_content()
        bar.click()
        assert f"L{tab.input_value('#layer')}H{tab.input_value('#head')}" == label
        tab.locator("#tokens button").nth(3).click()
        assert "(3) attends to" in tab.text_content("#readout")
        tab.locator("#pattern").hover(position={"x": 3, "y": 3})
        assert "(0) attends to" in tab.text_content("#readout")
        rows = tab.locator("#lens-table tbody tr")
        assert rows.count() == 5
        rows.nth(2).locator("td").nth(4).hover()
        assert tab.text_content("#lens-readout").startswith("After block 1, following “")
        browser.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)

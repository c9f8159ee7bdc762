"""The page in a real browser: headless Chromium, driven through the pipe of its DevTools protocol."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.main import main
from meditron.config import Recipe

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
WIDTHS = (1280, 390)


class Browser:
    """A headless Chromium with one tab; messages are JSON objects, each ended by a zero byte."""

    def __init__(self, executable: str, profile: str) -> None:
        from_us, self._out = os.pipe()
        self._in, to_us = os.pipe()
        command = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
        arguments = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, *arguments], pass_fds=(from_us, to_us), stderr=subprocess.DEVNULL
        )
        os.close(from_us)
        os.close(to_us)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(10)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._in, 65536)
            assert piece, "Chromium ended"
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        content: dict[str, Any] = json.loads(message)
        return content

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply["error"]
                return dict(reply["result"])
            self.events.append(reply)

    def open(self, url: str, width: int, scheme: str = "light") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def value(self, expression: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def errors(self) -> list[str]:
        self.value("0")  # whatever was reported before this reply is in `events` now
        found = []
        for event in self.events:
            params = event.get("params", {})
            is_error = (
                event.get("method") == "Runtime.exceptionThrown"
                or (
                    event.get("method") == "Runtime.consoleAPICalled"
                    and params["type"] in ("error", "assert")
                )
                or (event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error")
            )
            if is_error:
                found.append(json.dumps(params)[:500])
        return found

    def overflow(self) -> int:
        return int(self.value("document.documentElement.scrollWidth - window.innerWidth"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip("no Chromium found (apt-get install chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(executable, profile)
        yield started
        started.close()


@pytest.fixture
def url(work: Path, recipe_of: Callable[[Path], Recipe]) -> str:
    main(recipe_of(work))
    return (work / "report.html").as_uri()


def test_the_checks_notice_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<div style='width:3000px'>x</div><script>console.error('1'); nothing()</script>")
    browser.open(page.as_uri(), 390)
    assert len(browser.errors()) == 2
    assert browser.overflow() > 2000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_error_and_no_sideways_scrolling(browser: Browser, url: str, width: int, scheme: str) -> None:
    browser.open(url, width, scheme)
    browser.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.value("document.querySelectorAll('svg polyline').length") >= 8
    assert browser.value("document.querySelectorAll('.question table').length") == 20
    assert browser.overflow() <= 0
    assert browser.errors() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_an_empty_run_has_no_error_either(
    browser: Browser, tmp_path: Path, recipe_of: Callable[[Path], Recipe], width: int
) -> None:
    main(recipe_of(tmp_path / "a-folder-with-quite-a-long-name-in-which-nothing-has-been-run-so-far-at-all"))
    browser.open(next(tmp_path.glob("*/report.html")).as_uri(), width)
    assert browser.overflow() <= 0
    assert browser.errors() == []


def test_text_of_documents_does_not_run(browser: Browser, url: str) -> None:
    browser.open(url, 1280)
    browser.value("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.value("window.hacked") is None
    assert "<script>window.hacked = 1</script>" in browser.value(
        "document.querySelector('.question').innerText"
    )
    assert "<script>window.hacked" in browser.value("document.querySelector('blockquote').innerText")


def choose(browser: Browser, control: str, value: str) -> None:
    browser.value(
        f"{{const c = document.getElementById({control!r}); c.value = {value!r};"
        " c.dispatchEvent(new Event(c.tagName === 'INPUT' ? 'input' : 'change'))}"
    )


def place(browser: Browser) -> str:
    return str(browser.value("document.getElementById('q-place').textContent"))


def test_questions_can_be_filtered(browser: Browser, url: str, work: Path) -> None:
    browser.open(url, 1280)
    samples = {
        label: [json.loads(line) for line in (work / f"results/{label}/samples-medqa-letter.jsonl").open()]
        for label in ("base", "pretrained")
    }
    assert place(browser) == "1–20 of 60"
    choose(browser, "q-model", "base")
    choose(browser, "q-outcome", "right")
    assert place(browser).endswith(f" of {sum(sample['correct'] for sample in samples['base'])}")
    choose(browser, "q-model", "pretrained")
    choose(browser, "q-outcome", "changed")
    pairs = zip(samples["base"], samples["pretrained"], strict=True)
    assert place(browser).endswith(f" of {sum(a['prediction'] != b['prediction'] for a, b in pairs)}")
    choose(browser, "q-outcome", "all")
    choose(browser, "q-subject", "anatomy")
    assert place(browser) == "1–20 of 30"
    choose(browser, "q-outcome", "found")
    assert place(browser) == "1–6 of 6"
    choose(browser, "q-subject", "")
    assert place(browser) == "1–12 of 12"
    choose(browser, "q-outcome", "all")
    choose(browser, "q-text", "question 41:")
    assert place(browser) == "1–1 of 1"
    choose(browser, "q-text", "no such words")
    assert place(browser) == "none"
    choose(browser, "q-text", "")
    choose(browser, "q-set", "2")
    assert place(browser) == "1–20 of 30"
    browser.value("document.getElementById('q-next').click()")
    assert place(browser) == "21–30 of 30"
    assert browser.errors() == []


def test_an_open_question_shows_its_probabilities(browser: Browser, url: str, work: Path) -> None:
    browser.open(url, 1280)
    browser.value("document.querySelector('.question').open = true")
    browser.value("document.querySelectorAll('.question details').forEach((inner) => { inner.open = true; })")
    sample = json.loads((work / "results/base/samples-medqa-letter.jsonl").open().readline())
    text = browser.value("document.querySelector('.question').innerText")
    assert f"{100 * sample['probabilities'][1]:.1f} %" in text
    assert "A. Amoxicillin (correct)" in " ".join(text.split())
    assert "The answer is:" in text


def test_an_open_question_shows_what_was_written(browser: Browser, url: str) -> None:
    browser.open(url, 390)
    browser.value("document.querySelector('.question').open = true")
    browser.value("document.querySelectorAll('.question details').forEach((inner) => { inner.open = true; })")
    text = browser.value("document.querySelector('.question').innerText")
    assert "Written by base, 2 of 2" in text
    assert "The answer is B <script>window.hacked = 1</script>" in text
    assert browser.overflow() <= 0


def test_the_pointer_shows_the_values_of_a_step(browser: Browser, url: str) -> None:
    browser.open(url, 1280)
    browser.value(
        "{const area = document.querySelector('#pretraining .area');"
        " const box = area.getBoundingClientRect();"
        " area.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2}))}"
    )
    tip = browser.value("document.querySelector('#pretraining .tip').innerText")
    assert tip.startswith(("step 60", "step 61"))
    assert "each step" in tip
    browser.value(
        "document.querySelector('#pretraining .area').dispatchEvent(new PointerEvent('pointerleave'))"
    )
    assert browser.value("document.querySelector('#pretraining .tip').style.display") == "none"

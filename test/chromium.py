"""Headless Chromium, driven over the DevTools protocol through its pipe: no port, no client library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless=new", "--no-first-run", "--no-sandbox", "--disable-dev-shm-usage", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--mute-audio", "--hide-scrollbars",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """Path of an installed Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a new browser. problems: errors and warnings of its console, exceptions, network requests."""

    def __init__(self, executable: str, profile: Path) -> None:
        self._read, theirs_out = os.pipe()
        theirs_in, self._write = os.pipe()
        command = (
            f"exec '{executable}' {' '.join(_ARGUMENTS)} --user-data-dir='{profile}' 3<&{theirs_in} 4>&{theirs_out}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        try:
            self.call("Browser.close", timeout_s=10)
        except (OSError, TimeoutError):
            self._process.terminate()
        for end in (self._read, self._write):
            os.close(end)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, *, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Result of a DevTools command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout_s
        while True:
            answer = self._next(until - time.monotonic(), method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer)

    def open(self, path: Path) -> None:
        """Open a file and wait until the page says that it is ready."""
        url = path.resolve().as_uri()
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.documentElement?.dataset.ready === 'true'")

    def value(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + timeout_s
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < until, f"not within {timeout_s} s: {condition}; {self.problems}"
            time.sleep(0.05)

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def resize(self, width: int, height: int, *, dark: bool = False, ratio: float = 1, touch: bool = False) -> None:
        """Size of the window in CSS pixels, and the system's choice of light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=touch
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def picture(self, selector: str | None = None) -> bytes:
        """PNG of what is seen, or of one element."""
        options: dict[str, Any] = {}
        if selector is not None:
            box = self.value(
                f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                " return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1} })()"
            )
            options = {"clip": box, "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"])

    def point_at(self, selector: str) -> dict[str, float]:
        """Move the mouse to the middle of an element, once it has come to rest and nothing covers it; where that is.

        A control that only its label shows, as a radio button in a bar, is pointed at through the label.
        """
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        place = (
            f"(() => {{ const e = {element}, b = e.getBoundingClientRect();"
            " const at = {x: b.x + b.width / 2, y: b.y + b.height / 2}, top = document.elementFromPoint(at.x, at.y);"
            " const on = top && (e.contains(top) || top.contains(e) || top.closest('label')?.control === e);"
            " return {...at, free: Boolean(on)} })()"
        )
        box, until = self.value(place), time.monotonic() + 20
        while True:
            self.settle()
            before, box = box, self.value(place)
            if box == before and box["free"]:
                break
            assert time.monotonic() < until, f"{selector} does not come to rest, or is covered: {box}"
        at = {"x": box["x"], "y": box["y"]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
        self.settle()  # what is pointed at may be drawn anew
        return at

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        at = self.point_at(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def point_away(self) -> None:
        """Move the mouse into the corner of the window, where nothing is."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
        self.settle()

    def key(self, key: str) -> None:
        """Press and release a key, e.g. ArrowLeft."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def _next(self, timeout_s: float, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(timeout_s, 0))
            if not ready:
                raise TimeoutError(f"no answer of Chromium to {waiting_for}")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise OSError(f"Chromium ended during {waiting_for}")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        name, values = event.get("method", ""), event.get("params", {})
        if name == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.problems.append(f"{values['type']}: {[a.get('value', a.get('description')) for a in values['args']]}")
        elif name == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {values['exceptionDetails']}")
        elif name == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{values['entry']['source']}: {values['entry']['text']}")
        elif name == "Network.requestWillBeSent" and not values["request"]["url"].startswith(
            ("file:", "data:", "blob:")
        ):
            self.problems.append(f"request: {values['request']['url']}")

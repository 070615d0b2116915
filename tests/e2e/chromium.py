"""A real, headless Chromium that a test drives: it opens, touches, types, prints, and measures."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser itself must not reach anything either
    "--remote-debugging-pipe",
)
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), "Space": (32, " ")}

_FAINT_WORDS = """
(() => {
  const parse = c => { const v = c.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v; };
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const ground = e => {
    if (!e) return [255, 255, 255, 1];
    const own = parse(getComputedStyle(e).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(e.parentElement));
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || !e.checkVisibility({visibilityProperty: true}) || e.closest('.skip')) continue;
    const under = ground(e), alpha = parse(style.color);
    alpha[3] *= Number(style.opacity);
    const [a, b] = [light(over(alpha, under)), light(under)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) found.push([node.data.trim(), style.color, under]);
  }
  return found;
})()
"""


class Page:
    """One tab, over the DevTools protocol on a pipe: commands are answered in turn, events are kept."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "result" in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, path: Path, *, width: int = 1280, height: int = 800, phone: bool = False) -> None:
        """Open a file in a window (CSS px) or on a phone of that size with a touch screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def js(self, expression: str) -> Any:
        """Evaluate an expression of the test's (the page has no script) and return its value."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the first match, in CSS px of the window."""
        read = "(r => [r.left, r.top, r.right, r.bottom])"
        return tuple(
            self.js(f"{read}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        )

    def visible(self, selector: str) -> list[str]:
        """List the class names of the matches that can be seen."""
        seen = "e => e.checkVisibility({visibilityProperty: true})"
        return list(
            self.js(
                f"[...document.querySelectorAll({json.dumps(selector)})].filter({seen}).map(e => e.className)"
            )
        )

    def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        code, text = KEYS[key]
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                typed = {"text": text} if text and kind == "keyDown" else {}
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key=text if text == " " else key,
                    code=key, windowsVirtualKeyCode=code, **typed,
                )  # fmt: skip

    def point(self, selector: str) -> None:
        """Bring the first match into view and move the mouse onto it."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click the first match."""
        x, y = self._middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector: str) -> None:
        """Touch the first match."""
        x, y = self._middle(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def focused(self) -> str:
        """Return the id, or else the class, of what has the focus."""
        return str(self.js("document.activeElement.id || document.activeElement.className"))

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def pixels(self) -> NDArray[np.uint8]:
        """Return the window as uint8[h, w, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.screenshot())).convert("RGB"))

    def pdf(self, width_in: float, height_in: float) -> bytes:
        """Print on paper of that size, as a person does who changes nothing in the dialogue."""
        answer = self.call(
            "Page.printToPDF", paperWidth=width_in, paperHeight=height_in, preferCSSPageSize=False,
            printBackground=False, displayHeaderFooter=False,
        )  # fmt: skip
        return base64.b64decode(answer["data"])

    def faint(self) -> list[Any]:
        """List text with too little contrast (WCAG AA): the words, their colour, and what is under them."""
        return list(self.js(_FAINT_WORDS))

    def complaints(self) -> list[str]:
        """List what the page itself caused: console messages, errors, loads that failed or left the file."""
        kinds = (
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Network.loadingFailed",
        )
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]

    def _middle(self, selector: str) -> tuple[float, float]:
        how = "{block: 'center', behavior: 'instant'}"
        self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView({how})")
        left, top, right, bottom = self.box(selector)
        return (left + right) / 2, (top + bottom) / 2

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start Chromium and open a tab; pytest's own time limit ends a browser that hangs."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is missing: `make setup` installs it"
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    where_it_expects_them = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
    process = subprocess.Popen(
        ["bash", "-c", where_it_expects_them, "bash", found, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(commands_out, answers_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands_out)
    os.close(answers_in)
    try:
        yield Page(commands_in, answers_out)
    finally:
        process.terminate()
        process.wait(60)
        os.close(commands_in)
        os.close(answers_out)

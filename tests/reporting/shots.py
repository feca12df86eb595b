"""Pictures and paper of a page: headless Chromium, told what to do through its debugging pipe."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import CHROMIUM

_SECONDS = 120
_LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
# the browser reads its descriptor 3 and writes to 4


class Tab:
    """One page in a window of a given width; see `opened`."""

    def __init__(self, to_browser: int, from_browser: int):
        self._write, self._read = to_browser, os.fdopen(from_browser, "rb", buffering=0)
        self._count, self._session, self._rest = 0, "", b""

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command of the DevTools protocol."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._read.read(1 << 20)
            assert more, "the browser is gone"
            self._rest += more
        found, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(found))

    def attach(self, page: Path, width: int, *, is_dark: bool) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.enable")
        self.send("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        self.ask("new Promise(r=>requestAnimationFrame(()=>setTimeout(r,300)))")

    def close(self) -> None:
        self._read.close()

    def ask(self, code: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write all of the page as a PNG."""
        width, height = self.ask("[innerWidth,Math.ceil(document.documentElement.getBoundingClientRect().height)]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        made = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(made["data"]))

    def paper(self, path: Path) -> None:
        """Write the page as a PDF on A4, as a user prints it."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        made = self.send("Page.printToPDF", printBackground=False, preferCSSPageSize=True, **size)
        path.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def opened(page: Path, width: int, *, is_dark: bool = False) -> Iterator[Tab]:
    """Lend a page that has loaded, in a window so many pixels wide; below 600 it is a phone's."""
    assert CHROMIUM is not None
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={folder}",
        ]  # fmt: skip
        browser = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(in_read), str(out_write), *command],
            pass_fds=(in_read, out_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(in_read)
        os.close(out_write)
        tab = Tab(in_write, out_read)
        try:
            tab.attach(page, width, is_dark=is_dark)
            yield tab
        finally:
            browser.terminate()
            browser.wait(_SECONDS)
            tab.close()
            os.close(in_write)

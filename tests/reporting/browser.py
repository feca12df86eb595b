"""A page in headless Chromium: run code in it, return what it says."""

import base64
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")

_HEAD = "<script>window.problems=[];addEventListener('error',e=>problems.push(e.message));"
_HEAD += "addEventListener('securitypolicyviolation',e=>problems.push('blocked '+e.blockedURI));</script>"
_TAIL = """<script>addEventListener("load",()=>{const say={};try{%s}catch(e){problems.push(String(e))}
const probe=document.createElement("pre");probe.id="probe";say.problems=problems;
probe.textContent=btoa(unescape(encodeURIComponent(JSON.stringify(say))));document.body.append(probe);});</script>"""


def ask(page: Path, code: str) -> dict[str, Any]:
    """Return what `code` put into `say` when the page had loaded; `problems` are errors and blocked requests."""
    assert CHROMIUM is not None
    html = page.read_text(encoding="utf-8")
    html = html.replace("<head>", "<head>" + _HEAD, 1).replace("</body>", _TAIL % code + "</body>")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(html, encoding="utf-8")
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
            "--window-size=1280,1000", "--timeout=60000", "--virtual-time-budget=20000", "--dump-dom", copy.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    _, found, rest = done.stdout.rpartition('<pre id="probe">')
    assert found, done.stderr[-2000:]
    return dict(json.loads(base64.b64decode(rest.partition("<")[0])))

"""Drive a notebook as a reader does: with a JupyterLab server of its own, headless Chromium and a real mouse."""

import ast
import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import nbformat
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
SPEC = {"display_name": "Python 3", "language": "python"}  # the kernel; without it, a dialog asks
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
SETTINGS = {  # the temporary JupyterLab has every cell in the page, saves nothing and fetches no news
    "notebook-extension/tracker": {"windowingMode": "none", "kernelShutdown": True},
    "docmanager-extension/plugin": {"autosave": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
}

# what reaches over its output, labels that are cut off, broken widgets
UNTIDY = """() => {
    const all = (selector) => [...document.querySelectorAll(".jp-OutputArea-output " + selector)];
    const cut = (element) => element.offsetParent && element.scrollWidth > element.clientWidth + 1;
    return [
        ...all(":is(.widget-label, .widget-checkbox span, button, .widget-readout)")
            .filter(cut).map((e) => e.textContent),
        ...all(".lm-Widget").filter(cut).map((e) => e.className),
        ...all(".jupyter-widgets-error-widget").map((e) => "a widget is broken"),
    ]; }"""


def write_notebook(path, *cells):
    """A notebook file with these code cells."""
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": SPEC | {"name": "python3"}}), path)
    return path


def find_browser() -> str | None:
    """Path of Chromium or Chrome; the environment variable CHROME comes first."""
    return os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)


needs_browser = pytest.mark.skipif(find_browser() is None, reason="Chromium is missing: apt-get install chromium")
NO_SUBSHELLS = {"apputils-extension/kernels-settings": {"commsOverSubshells": "disabled"}}
MODELS = "[*(lambda w: getattr(w, '_instances', None) or w.Widget.widgets)(__import__('ipywidgets').widgets.widget)]"


class CellError(AssertionError):
    """A cell of the notebook, or an expression in its kernel, failed."""


class Lab:
    """A notebook open in JupyterLab; ``errors`` are the JavaScript errors so far.

    The environment variable KERNEL_PYTHON names another interpreter for the kernel, e.g. one with Colab's packages;
    SUBSHELLS=off has comm messages wait for the cell that runs, as on Colab.
    """

    def __init__(self, notebook, *, height=1000, timeout=300):
        self.notebook, self.kernel_python = Path(notebook).resolve(), os.environ.get("KERNEL_PYTHON", sys.executable)
        self.viewport, self.timeout = {"width": 1280, "height": height}, timeout  # timeout: seconds
        self.errors: list[str] = []
        self.sent: list[str] = []  # what the page sent to the kernel
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.callback(self.stack.close)
            self._open(self._start_server(Path(self.stack.enter_context(tempfile.TemporaryDirectory()))))
            undo.pop_all()
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def _start_server(self, folder: Path) -> str:
        """Start JupyterLab with settings, kernel and history in a folder of its own; the address of the notebook."""
        settings = SETTINGS | (NO_SUBSHELLS if os.environ.get("SUBSHELLS") == "off" else {})
        files = {f"SETTINGS_DIR/@jupyterlab/{name}.jupyterlab-settings": values for name, values in settings.items()}
        command = [self.kernel_python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        files["JUPYTER_PATH/kernels/python3/kernel.json"] = SPEC | {"argv": command}
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content))
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | {name: str(folder / name) for name in places}
        environment |= {f"JUPYTERLAB_{name}": str(folder / name) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
        if self.kernel_python != sys.executable:  # its widgets need the browser's part of the same version
            environment["JUPYTER_PATH"] += os.pathsep + str(Path(self.kernel_python).parents[1] / "share" / "jupyter")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        token = secrets.token_hex(16)
        options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1"]
        options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
        options += [f"--ServerApp.root_dir={self.notebook.parent}", "--LabApp.extension_manager=readonly"]
        with open(folder / "server.log", "w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.stack.callback(self._stop_server, port, token)
        until(lambda: self._answers(port, token), "JupyterLab did not start")
        return f"http://127.0.0.1:{port}/lab/workspaces/test/tree/{self.notebook.name}?reset&token={token}"

    def _answers(self, port: int, token: str) -> bool:
        assert self.server.poll() is None, "JupyterLab ended while it started"
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5).status == 200
        return False

    def _stop_server(self, port: int, token: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/shutdown?token={token}", method="POST")
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # this way the kernel ends too
            urllib.request.urlopen(request, timeout=10)
            self.server.wait(30)
        if self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()

    def _open(self, address: str) -> None:
        playwright = self.stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        self.stack.callback(browser.close)
        self.page = browser.new_page(viewport=self.viewport, has_touch=True)
        self.page.set_default_timeout(1000 * self.timeout)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))
        self.page.on("websocket", lambda socket: socket.on("framesent", self._keep))
        self.page.goto(address)
        self._wait_until_ready()

    def _keep(self, frame: str | bytes) -> None:
        self.sent.append(frame if isinstance(frame, str) else frame.decode(errors="replace"))

    def _wait_until_ready(self) -> None:
        self.page.wait_for_function(
            """() => { const panel = window.jupyterapp?.shell?.currentWidget;
                return panel?.sessionContext?.isReady && panel.context.isReady
                    && panel.sessionContext.session?.kernel?.status === "idle"; }"""
        )

    def reload(self) -> None:
        """Save the notebook and reload the page; the kernel lives on."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        self.page.reload()
        self._wait_until_ready()

    def run_all(self) -> None:
        """Run all cells and wait until their widgets are there."""
        failed = self.page.evaluate(
            """async () => {
                await jupyterapp.commands.execute("notebook:run-all-cells").catch(() => {});
                const cells = [...jupyterapp.shell.currentWidget.content.model.cells].map((cell) => cell.toJSON());
                const outputs = cells.flatMap((cell) => cell.outputs ?? []);
                return outputs.filter((o) => o.output_type === "error").map((o) => o.traceback.join("\\n")); }"""
        )
        if failed:
            raise CellError("\n".join(failed))
        alive = set(self.kernel(MODELS))  # a progress bar that was closed leaves an empty output behind
        shown = self.page.evaluate(
            """() => [...jupyterapp.shell.currentWidget.content.model.cells]
                .flatMap((cell) => cell.toJSON().outputs ?? [])
                .map((output) => output.data?.["application/vnd.jupyter.widget-view+json"]?.model_id)"""
        )
        self.page.wait_for_function(
            "count => document.querySelectorAll('.jp-OutputArea-output.lm-Panel:not(:empty)').length >= count",
            arg=sum(model in alive for model in shown),
        )

    def kernel(self, expression: str):
        """Value of an expression in the kernel, through JSON."""
        options = {"code": "", "store_history": False}
        options["user_expressions"] = {"value": f"__import__('json').dumps({expression})"}
        code = f"async (options) => (await {KERNEL}.requestExecute(options).done).content.user_expressions.value"
        reply = self.page.evaluate(code, options)
        if reply["status"] == "error":
            raise CellError(f"{expression}: {reply['ename']}: {reply['evalue']}")
        return json.loads(ast.literal_eval(reply["data"]["text/plain"]))

    @contextlib.contextmanager
    def busy(self):
        """The kernel computes meanwhile and hears nothing."""
        flag = Path(self.notebook.parent, "busy")
        flag.touch()
        code = f"import os, time\nwhile os.path.exists({str(flag)!r}): time.sleep(0.05)"
        self.page.evaluate(f"code => {{ {KERNEL}.requestExecute({{code}}); }}", code)
        try:
            yield
        finally:
            flag.unlink()

    def control(self, description: str):
        """The widget with this label."""
        return self.page.locator(f"div:has(> .widget-label:text-is({json.dumps(description)}))").first

    def press(self, text: str) -> None:
        """Click the button with this text."""
        self.page.locator(f"button:text-is({json.dumps(text)})").first.click()

    def tab(self, title: str) -> None:
        """Open the page with this title of a Tab."""
        bars = ", ".join(f".{kind}-TabBar-tab:has-text({json.dumps(title)})" for kind in ("lm", "p"))
        self.page.locator(f".jp-OutputArea-output :is({bars})").first.click()

    def drag(self, description: str, fraction: float) -> None:
        """Drag the handle of a slider to a fraction of its range, in many small moves."""
        slider = self.control(description)
        slider.scroll_into_view_if_needed()
        parts = (".noUi-handle, .ui-slider-handle", ".noUi-base, .ui-slider")  # ipywidgets 8 and 7
        handle, base = (slider.locator(part).first.bounding_box() for part in parts)
        y = handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(base["x"] + fraction * base["width"], y, steps=10)
        self.page.mouse.up()

    def _on(self, selector: str, points) -> list[tuple[float, float]]:
        """Points of the page at fractions (x, y) of an element."""
        self.page.locator(selector).first.scroll_into_view_if_needed()
        box = self.page.locator(selector).first.bounding_box()
        return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]

    def stroke(self, points, selector: str, *, moves: int = 10, release: bool = True) -> None:
        """Press the mouse, draw through points, fractions (x, y) of an element, and let go."""
        (x, y), *others = self._on(selector, points)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for x, y in others:
            self.page.mouse.move(x, y, steps=moves)
        if release:
            self.page.mouse.up()

    def touch(self, *fingers, selector: str) -> None:
        """Touch with one or more fingers and lift them together; each is a list of points as in ``stroke``."""
        session = self.page.context.new_cdp_session(self.page)
        paths = [_in_small_steps(self._on(selector, points)) for points in fingers]

        def send(kind: str, spots=()) -> None:
            spots = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(spots)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

        for last in range(1, len(paths) + 1):  # one finger comes after the other
            send("touchStart", [path[0] for path in paths[:last]])
        for spots in zip(*paths, strict=True):
            send("touchMove", spots)
        send("touchEnd")
        session.detach()

    def pen(self, points, selector: str) -> None:
        """Draw through points with a pen, as ``stroke`` does with the mouse."""
        session, path = self.page.context.new_cdp_session(self.page), _in_small_steps(self._on(selector, points))
        kinds = ["mousePressed", *["mouseMoved"] * (len(path) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*path, path[-1]], strict=True):
            state = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1, "pointerType": "pen"}
            session.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **state})

    def choose_file(self, text: str, path, root: str = "body") -> None:
        """Press an upload button and choose a file in the browser's dialog."""
        with self.page.expect_file_chooser() as dialog:
            self.page.locator(f"{root} button:has-text({json.dumps(text)})").first.click()
        dialog.value.set_files(path)

    def screenshot(self, path, selector: str = "body") -> None:
        """Write a PNG of the first element that fits, without the empty paper around it."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(io.BytesIO(self.page.locator(selector).first.screenshot())).convert("RGB")
        image = image.crop(ImageOps.invert(image).getbbox())
        ImageOps.expand(image, 8, "white").save(path, optimize=True)


def _in_small_steps(points, moves: int = 10) -> list[tuple[float, float]]:
    """Points along a path, evenly between its corners, which are among them."""
    path = list(points[:1])
    for (x, y), (u, v) in zip(points, points[1:], strict=False):
        path += [(x + (u - x) * i / moves, y + (v - y) * i / moves) for i in range(1, moves + 1)]
    return path

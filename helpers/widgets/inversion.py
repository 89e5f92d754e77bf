"""The panel of the inversion lesson: controls and a live view over a plain ``Inversion``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import ipywidgets as widgets
from torch import Tensor

from helpers.generators import Generator
from helpers.images import resize
from helpers.inversion import Inversion, InversionResult
from helpers.losses import LAYERS, WEIGHTS
from helpers.metrics import psnr

from .job import ALIVE, Job
from .live import live_view
from .pictures import error_html, error_sentence, figure_html, jpeg_url, loss_curve, row_html, status_html

WIDTH, PAGE = 192, 400  # pixels of each picture and of both on the screen
SHARE = 0.1  # of the time may go into frames: the inversion keeps 90 % of its speed
STYLE = {"description_width": "90px"}


def log_options(low: int, high: int, zero: bool = True) -> list[tuple[str, float]]:
    """Stops of a logarithmic slider: 0, then 1, 2, 5 times every power of ten from ``low`` to ``high``."""
    values = [float(f"{digit}e{power}") for power in range(low, high) for digit in (1, 2, 5)] + [float(f"1e{high}")]
    return [("0", 0.0)] * zero + [(f"{value:g}", value) for value in values]


def _slider(name: str, options: list[tuple[str, float]], value: float) -> widgets.SelectionSlider:
    layout = widgets.Layout(width="auto")
    slider = widgets.SelectionSlider(options=options, description=name, style=STYLE, layout=layout)
    _choose(slider, value)
    return slider


def _dropdown(name: str, options) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=name, style=STYLE, layout=widgets.Layout(width="auto"))


def _choose(control: widgets.Widget, value) -> None:
    """Set a control from code; a slider gets a stop there where it has none."""
    if isinstance(control, widgets.SelectionSlider) and value not in dict(control.options).values():
        control.options = sorted([*control.options, (f"{value:g}", value)], key=lambda option: option[1])
    control.value = value


def starts_of(space: str) -> tuple[str, ...]:
    """Where an inversion in this space can start, its default first; the mean of z, 0, has no direction."""
    return ("best", "sample") if space == "z" else ("mean", "best", "sample")


class InversionPanel(widgets.VBox):
    """Controls of an inversion beside its live view; see ``inversion_panel``.

    Attributes:
        controls: name to widget, to set and read them from code.
        settings: what the controls say, as options of ``project``.
        generator, target: what they say to invert, and the photo at the generator's resolution, (1, 3, R, R).
        result: InversionResult of the last run, the best so far while it runs, None before.
        job: the last run, None before.
    """

    def __init__(self, generators: dict[str, Generator], features, targets: dict[str, Tensor], **values):
        self.generators, self.features, self.targets = dict(generators), features, dict(targets)
        self.job: Job | None = None
        self._inverted: Tensor | None = None
        self._drawn, self._wait = None, 0.0
        self.controls, self.buttons = self._make_controls(), self._make_buttons()
        self.view, self.message = live_view(self._frame), widgets.HTML()
        left = widgets.VBox([*self.controls.values(), widgets.HBox(list(self.buttons.values())), self.message])
        left.layout.width, left.layout.margin = "340px", "0 24px 8px 0"
        wrap = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        super().__init__([widgets.HBox([left, self.view], layout=wrap)])
        self._connect()
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"the controls are {', '.join(self.controls)}, but {', '.join(unknown)} came.")
        for name in [name for name in self.controls if name in values]:  # in their order: the model limits the spaces
            _choose(self.controls[name], values[name])
        self._enable()
        self._show_target()

    def _connect(self) -> None:
        for name, button in self.buttons.items():
            button.on_click(functools.partial(self._guard, getattr(self, name)))
        self.controls["model"].observe(functools.partial(self._guard, self._limit_spaces), "value")
        self.controls["space"].observe(functools.partial(self._guard, self._limit_starts), "value")
        for name in ("model", "target"):
            self.controls[name].observe(functools.partial(self._guard, self._show_target), "value")
        for name in self.weight_names:
            self.controls[name].observe(functools.partial(self._guard, self._change_weights), "value")

    def _guard(self, function: Callable[[], None], _) -> None:
        """Call it from a callback, where what it raises would vanish: show that instead."""
        self.message.value = ""
        try:
            function()
        except Exception as error:
            self.message.value = error_html(error_sentence(error))

    # --- controls ---------------------------------------------------------------------------------------------------

    def _make_controls(self) -> dict[str, widgets.Widget]:
        spaces = next(iter(self.generators.values())).spaces
        controls = {
            "model": _dropdown("model", list(self.generators)),
            "space": _dropdown("space", spaces[::-1]),
            "target": _dropdown("target", list(self.targets)),
            "l1": _slider("l1", log_options(-2, 2), WEIGHTS["l1"]),
        }
        if self.features is not None:
            layers = [(" + ".join(map(str, LAYERS)), LAYERS), *((str(name), (name,)) for name in self.features.layers)]
            controls["perceptual"] = _slider("perceptual", log_options(-2, 2), WEIGHTS["perceptual"])
            controls["layers"] = _dropdown("layer", layers)
        wide, narrow = widgets.Layout(width="auto"), widgets.Layout(width="180px")
        controls |= {
            "delta": _slider("delta", log_options(-6, 0), 0.0),
            "start": _dropdown("start", starts_of(spaces[-1])),
            "steps": widgets.IntSlider(300, min=10, max=1000, step=10, description="steps", style=STYLE, layout=wide),
            "lr": _slider("learning rate", log_options(-2, 0, zero=False), 0.1),
            "seed": widgets.BoundedIntText(0, min=0, max=2**31 - 1, description="seed", style=STYLE, layout=narrow),
        }
        return controls

    @property
    def weight_names(self) -> list[str]:
        return [name for name in ("l1", "perceptual", "delta") if name in self.controls]

    def _make_buttons(self) -> dict[str, widgets.Button]:
        layout = widgets.Layout(width="auto", flex="1 1 0")
        texts = {"start": "Start", "pause": "Pause", "stop": "Stop"}
        buttons = {name: widgets.Button(description=text, layout=layout) for name, text in texts.items()}
        buttons["start"].button_style = "primary"
        return buttons

    def _limit_spaces(self) -> None:
        control, spaces = self.controls["space"], self.generator.spaces[::-1]
        if tuple(control.options) != spaces:
            space = control.value
            control.options = spaces
            control.value = space if space in spaces else spaces[0]

    def _limit_starts(self) -> None:
        self.controls["start"].options = starts_of(self.controls["space"].value)  # and chooses the first

    def _enable(self) -> None:
        """Only the weights may change while a job runs."""
        state = self.job.state if self.job else "ready"
        alive = state in ALIVE
        for name, control in self.controls.items():
            control.disabled = alive and name not in self.weight_names
        self.buttons["start"].disabled = state == "running"
        self.buttons["start"].description = "Continue" if state == "paused" else "Start"
        self.buttons["pause"].disabled = state != "running"
        self.buttons["stop"].disabled = not alive

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def generator(self) -> Generator:
        return self.generators[self.controls["model"].value]

    @property
    def target(self) -> Tensor:
        target = self.targets[self.controls["target"].value]
        return resize(target, self.generator.resolution).to(self.generator.device)

    @property
    def settings(self) -> dict:
        """Options for ``project(panel.generator, panel.target, **panel.settings)``."""
        values = {name: control.value for name, control in self.controls.items() if name not in ("model", "target")}
        weights = {name: values.pop(name) for name in self.weight_names}
        return {**values, "weights": weights, "features": self.features}

    @property
    def result(self) -> InversionResult | None:
        if self.job is None or self.job.latest() is None:
            return None
        return self.job.call(self.job.iterator.result).result()

    def add_target(self, name: str, image: Tensor) -> None:
        """Offer one more photo (1, 3, H, W) in [0, 1] and choose it."""
        self.targets[name] = image
        self.controls["target"].options = list(self.targets)
        self.controls["target"].value = name
        self._show_target()

    # --- runs -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start an inversion, or go on after a pause."""
        if self.job is None or not self.job.alive:
            generator, target, settings = self.generator, self.target, self.settings
            self._inverted = target
            self.job = Job(lambda: Inversion(generator, target, **settings))
        self.job.start()
        self._enable()
        self.view.running = True

    def pause(self) -> None:
        """Halt after the step under way."""
        if self.job is not None:
            self.job.pause()
            self._enable()

    def stop(self) -> None:
        """End after the step under way; the best so far is kept."""
        if self.job is not None:
            self.job.stop()
            self._frame()

    def close(self) -> None:
        if self.job is not None:
            self.job.stop()
        super().close()

    def _change_weights(self) -> None:
        weights = self.settings["weights"]
        if not any(weights[name] for name in weights if name != "delta"):
            raise ValueError("Every image loss has weight 0, so nothing ties the result to the photo; raise one.")
        if self.job is not None and self.job.alive:
            self.job.call(functools.partial(_set_weights, self.job, weights))

    # --- pictures ---------------------------------------------------------------------------------------------------

    def _show_target(self) -> None:
        if self.job is None or not self.job.alive:
            self.view.html = _page("inversion", None, self.target, status_html("Press Start.", 0))

    def _frame(self) -> tuple[str, float]:
        """The next frame, and the seconds after which it makes sense to ask for another."""
        if self.job is None:
            return self.view.html, 1.0
        job, state = self.job, self.job.state
        if self._drawn != (job, state, len(job.history)):
            started = time.perf_counter()
            self._drawn = job, state, len(job.history)
            try:
                self._html = self._draw(job, state)
            except Exception as error:  # would vanish, as in any callback
                self._html = error_html(error_sentence(error))
            self._wait = min(1.0, max(0.1, (time.perf_counter() - started) * (1 - SHARE) / SHARE))
            if state not in ALIVE:
                self.view.html, self.view.running = self._html, False
                self._enable()
        return self._html, self._wait

    def _draw(self, job: Job, state: str) -> str:
        error, step, ended = error_html(error_sentence(job.error)), job.latest(), state not in ALIVE
        if step is None:
            text = state if ended else "preparing the start …"
            return _page("inversion", None, self._inverted, status_html(text, 0) + error)
        images = self.result.images if ended else step.images()
        status = _status(job, state, step.number, psnr(images, self._inverted).item())
        below = status_html(status, step.number / len(job.iterator)) + error + loss_curve(job.history, PAGE)
        return _page("best result" if ended else f"step {step.number}", images, self._inverted, below)


def _page(title: str, images: Tensor | None, target: Tensor, below: str) -> str:
    url = None if images is None else jpeg_url(images)
    pictures = row_html(figure_html(title, url, WIDTH), figure_html("target", jpeg_url(target), WIDTH))
    return f'<div style="width:{PAGE}px;max-width:100%">{pictures}{below}</div>'


def _set_weights(job: Job, weights: dict[str, float]) -> None:
    """Change the weights of a running inversion; the best under the old ones means nothing now."""
    job.iterator.criterion.weights.update(weights)
    job.iterator.forget_best()


def _status(job: Job, state: str, number: int, decibel: float) -> str:
    total, pace = len(job.iterator), job.seconds / len(job.history)
    texts = {
        "running": f"{1000 * pace:.0f} ms a step, {pace * (total - number):.0f} s left",
        "paused": "paused",
        "stopped": f"stopped after {job.seconds:.1f} s, the best is kept",
        "finished": f"finished in {job.seconds:.1f} s",
        "failed": "failed, the best so far is kept",
    }
    return f"step {number} of {total} · PSNR {decibel:.1f} dB · {texts[state]}"


def inversion_panel(generators: dict[str, Generator], features, targets: dict[str, Tensor], **values) -> InversionPanel:
    """A panel that inverts a photo and shows how: controls, start / pause / stop, live picture, loss curve.

    Args:
        generators: name to generator.
        features: network of ``load_features`` for the perceptual loss; None leaves that loss out.
        targets: name to photo (1, 3, H, W) in [0, 1], resized to the generator.
        values: first values of controls by name, e.g. ``space="w", steps=200``.

    The same run without widgets: ``project(panel.generator, panel.target, **panel.settings)``.
    """
    return InversionPanel(generators, features, targets, **values)

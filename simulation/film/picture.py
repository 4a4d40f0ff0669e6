"""The picture of a simulated film: a pure function of seed, film and frame index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cinecube.simulation.film.script import Event, Script
from cinecube.simulation.setup.seeding import generator

# The texture is larger than the picture so that the camera can travel over it.
_TRAVEL_PX = 64


@dataclass(frozen=True)
class _Shape:
    """One thing that moves in a scene: its form, colour, size and path."""

    form: str
    colour: np.ndarray
    radius_px: float
    centre_px: np.ndarray
    speed_px_s: np.ndarray
    swing_px: np.ndarray
    swing_hz: float
    phase: float


@dataclass(frozen=True)
class _Scene:
    """Properties that a scene's frames share: texture, camera path, light and shapes."""

    start_s: float
    texture: np.ndarray
    camera_px: np.ndarray
    camera_px_s: np.ndarray
    shake_px: float
    shake_hz: float
    light: tuple[float, float, float, float]
    shapes: tuple[_Shape, ...]


class DrawnPicture:
    """Frames of one film.

    Parameters
    ----------
    script : Script
        What happens and when.
    width, height : int
        Pixels of a frame.
    """

    def __init__(self, script: Script, width: int, height: int) -> None:
        self._script, self._width, self._height = script, width, height
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        self._rows, self._columns = rows, columns
        self._scene = lru_cache(maxsize=4)(self._make_scene)
        self._starts = np.array([event.start_s for event in script.events])

    def draw(self, time_s: float) -> np.ndarray:
        """The picture at `time_s` of the film, (height, width, 3) uint8 RGB, without a frame number."""
        script = self._script
        scene = self._scene(int(np.searchsorted(script.cuts_s, time_s, side="right")) - 1)
        since = time_s - scene.start_s
        canvas = self._background(scene, since)
        for shape in scene.shapes:
            centre = shape.centre_px + shape.speed_px_s * since
            centre = centre + shape.swing_px * np.sin(2 * np.pi * shape.swing_hz * since + shape.phase)
            self._stamp(canvas, shape.form, centre, shape.radius_px, shape.colour)
        level, ramp, depth, rate_hz = scene.light
        gain = level + ramp * since + depth * np.sin(2 * np.pi * rate_hz * since)
        canvas *= np.float32(np.clip(gain, 0.35, 1.6))
        first = int(np.searchsorted(self._starts, time_s - 1.0))
        last = int(np.searchsorted(self._starts, time_s, side="right"))
        for event in script.events[first:last]:
            if event.seen and time_s < event.start_s + event.length_s:
                self._show(canvas, event, time_s - event.start_s)
        np.clip(canvas, 0, 255, out=canvas)
        return canvas.astype(np.uint8)

    def _background(self, scene: _Scene, since_s: float) -> np.ndarray:
        """The stretch of texture that the camera sees, float32."""
        shake = scene.shake_px * np.sin(2 * np.pi * scene.shake_hz * since_s + np.array([0.0, 1.0]))
        place = scene.camera_px + scene.camera_px_s * since_s + shake
        # A camera that reaches the texture's border turns back.
        top, left = (int(_TRAVEL_PX - abs(_TRAVEL_PX - value % (2 * _TRAVEL_PX))) for value in place)
        return scene.texture[top : top + self._height, left : left + self._width].copy()

    def _show(self, canvas: np.ndarray, event: Event, since_s: float) -> None:
        """An event: a flash that fades, or a shape that pops up."""
        rng = generator(self._script.seed, self._script.film, "event", event.index)
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if rng.random() < 0.35:
            canvas += np.float32(0.6 * np.exp(-since_s / 0.25)) * colour
            return
        centre = rng.uniform([0, 0], [self._height, self._width])
        form = str(rng.choice(["disc", "box", "ring", "bars"]))
        self._stamp(canvas, form, centre, float(rng.uniform(12, 40)), colour)

    def _stamp(self, canvas: np.ndarray, form: str, centre: np.ndarray, radius_px: float, colour: np.ndarray) -> None:
        """Paint a shape; only the pixels of its bounding box are touched."""
        low = np.maximum(np.floor(centre - radius_px), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius_px) + 1, [self._height, self._width]).astype(int)
        if (high <= low).any():
            return
        box = (slice(low[0], high[0]), slice(low[1], high[1]))
        down, right = self._rows[box] - np.float32(centre[0]), self._columns[box] - np.float32(centre[1])
        mask = _form(form, down / np.float32(radius_px), right / np.float32(radius_px))
        canvas[box] += mask[..., None] * (colour - canvas[box])

    def _make_scene(self, index: int) -> _Scene:
        """Scene `index` of the film."""
        rng = generator(self._script.seed, self._script.film, "scene", index)
        size = np.array([self._height, self._width])
        return _Scene(
            start_s=float(self._script.cuts_s[index]),
            texture=_texture(rng, self._height + _TRAVEL_PX, self._width + _TRAVEL_PX),
            camera_px=rng.uniform(0, 2 * _TRAVEL_PX, 2),
            camera_px_s=rng.normal(0, 18, 2),
            shake_px=float(rng.uniform(0, 4)),
            shake_hz=float(rng.uniform(0.3, 1.5)),
            light=(
                float(rng.uniform(0.6, 1.2)),
                float(rng.normal(0, 0.06)),
                float(rng.uniform(0, 0.2)),
                float(rng.uniform(0.1, 0.8)),
            ),
            shapes=tuple(_shape(rng, size) for _ in range(int(rng.integers(1, 5)))),
        )


def _form(form: str, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cover in [0, 1] of a shape on coordinates in units of its radius, its border softened."""
    if form == "box":
        edge = 1 - np.maximum(np.abs(down), np.abs(right)) * 1.25
    elif form == "ring":
        edge = 0.25 - np.abs(np.hypot(down, right) - 0.7)
    elif form == "bars":
        edge = np.minimum(np.sin(right * 7) * 0.3, 1 - np.maximum(np.abs(down), np.abs(right)))
    else:
        edge = 1 - np.hypot(down, right)
    cover: np.ndarray = np.clip(edge * 12, 0, 1)
    return cover


def _shape(rng: np.random.Generator, size: np.ndarray) -> _Shape:
    """A moving shape of a scene whose frames measure `size`."""
    return _Shape(
        form=str(rng.choice(["disc", "box", "ring", "bars"])),
        colour=rng.uniform(0, 255, 3).astype(np.float32),
        radius_px=float(rng.uniform(10, 36)),
        centre_px=rng.uniform(0, 1, 2) * size,
        speed_px_s=rng.normal(0, 14, 2),
        swing_px=rng.uniform(0, 24, 2),
        swing_hz=float(rng.uniform(0.1, 0.9)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A still texture, (height, width, 3) float32: a colour, smooth noise at two scales, and a grating."""
    canvas = np.broadcast_to(rng.uniform(40, 215, 3), (height, width, 3)).astype(np.float32)
    for cell_px, size in ((48, 45.0), (16, 25.0)):
        canvas += _smooth_noise(rng, height, width, cell_px) * np.float32(size * rng.uniform(0.3, 1.3))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle, period_px = rng.uniform(0, np.pi), rng.uniform(10, 50)
    wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * (2 * np.pi / period_px))
    canvas += wave[..., None] * rng.normal(0, 30, 3).astype(np.float32)
    return canvas.astype(np.float32)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell_px: int) -> np.ndarray:
    """Noise of unit variance at its nodes, `cell_px` apart, bilinear between them, (height, width, 3)."""
    nodes = rng.normal(0, 1, (height // cell_px + 2, width // cell_px + 2, 3)).astype(np.float32)
    for axis, length in ((0, height), (1, width)):
        place = np.arange(length, dtype=np.float32) / cell_px
        whole = place.astype(int)
        part = (place - whole).reshape([-1 if axis == k else 1 for k in range(3)])
        nodes = np.take(nodes, whole, axis) * (1 - part) + np.take(nodes, whole + 1, axis) * part
    return nodes

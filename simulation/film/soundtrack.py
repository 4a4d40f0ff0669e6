"""The sound of a simulated film: tones, noise, speech-like sound and silence, by scenes of its script."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import signal

from cinecube.simulation.film.script import Event, Script
from cinecube.simulation.setup.seeding import generator

_KINDS = ("tones", "noise", "speech", "speech and tones", "quiet")
_CHANCES = (0.24, 0.2, 0.26, 0.22, 0.08)
# Formants of vowels in Hz, after common textbook averages: a, e, i, o, u, schwa.
_VOWELS_HZ = np.array(
    [[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240], [500, 1500, 2500]]
)
_QUIET_S = 1.2


class DrawnSound:
    """Sound of one film.

    Parameters
    ----------
    script : Script
        What happens and when.
    rate_hz : int
        Samples per second and channel.
    """

    def __init__(self, script: Script, rate_hz: int) -> None:
        self._script, self._rate_hz = script, rate_hz

    def draw(self, first: int, count: int) -> np.ndarray:
        """Samples `first` on of the film, (2, count) float32 in [-1, 1].

        A sample's value depends on its place in the film alone, not on the stretch that is asked for.

        Parameters
        ----------
        first : int
        count : int
            Samples.

        Returns
        -------
        array of float32, shape (2, sample)
        """
        out = np.zeros((2, count))
        cuts = np.round(self._script.sound_cuts_s * self._rate_hz).astype(int)
        for index, (start, end) in enumerate(pairwise(cuts)):
            if start < first + count and end > first:
                _add(out, self._scene(index, int(end - start)), int(start) - first)
        for event in self._script.events:
            start = round(event.start_s * self._rate_hz)
            if event.heard and start < first + count and start + self._rate_hz > first:
                _add(out, self._event(event), start - first)
        return np.tanh(out).astype(np.float32)

    def _scene(self, index: int, count: int) -> np.ndarray:
        """Sound scene `index`, (2, count)."""
        rng = generator(self._script.seed, self._script.film, "sound", index)
        kind = "tones" if index == 0 else str(rng.choice(_KINDS, p=_CHANCES))
        mono = np.zeros(count)
        if "tones" in kind:
            mono += 0.22 * _tones(rng, count, self._rate_hz)
        if "speech" in kind:
            mono += 0.35 * _speech(rng, count, self._rate_hz)
        if kind == "noise":
            mono += 0.25 * _noise(rng, count, self._rate_hz)
        if kind == "quiet":
            # Networks that scale by loudness make much of long silence, so it stays shorter than a window.
            tail = int(_QUIET_S * self._rate_hz)
            mono[tail:] += 0.25 * _noise(rng, max(count - tail, 0), self._rate_hz)
        fade = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.01 * self._rate_hz))
        pan = rng.uniform(0.35, 0.65)
        return np.stack([2 * pan * mono * fade, 2 * (1 - pan) * mono * fade])

    def _event(self, event: Event) -> np.ndarray:
        """A tone or a burst of noise that fades, (2, samples)."""
        rng = generator(self._script.seed, self._script.film, "heard", event.index)
        time = np.arange(int(event.length_s * self._rate_hz)) / self._rate_hz
        if rng.random() < 0.6:
            wave = np.sin(2 * np.pi * 220 * 2 ** rng.uniform(0, 4) * time)
        else:
            wave = _noise(rng, len(time), self._rate_hz)
        envelope = np.minimum(time / 0.005, 1) * np.exp(-time / (0.4 * event.length_s))
        return np.broadcast_to(0.4 * wave * envelope, (2, len(time)))


def _add(out: np.ndarray, part: np.ndarray, at: int) -> None:
    """Add `part` to `out` from sample `at` on, leaving off what is outside."""
    low, high = max(at, 0), min(at + part.shape[1], out.shape[1])
    if low < high:
        out[:, low:high] += part[:, low - at : high - at]


def _tones(rng: np.random.Generator, count: int, rate_hz: int) -> np.ndarray:
    """A melody of chords: notes of 0.2 to 0.8 s, each of three gliding partials, about unit amplitude."""
    out = np.zeros(count)
    start = 0
    while start < count:
        length = min(int(rng.uniform(0.2, 0.8) * rate_hz), count - start)
        time = np.arange(length) / rate_hz
        base_hz, glide = 110 * 2 ** rng.uniform(0, 4), rng.normal(0, 0.3)
        for multiple in (1.0, rng.choice([1.25, 1.5, 2.0]), rng.choice([2.5, 3.0, 4.0])):
            phase = 2 * np.pi * base_hz * multiple * (time + glide * time**2 / 2)
            out[start : start + length] += np.sin(phase) * rng.uniform(0.3, 1) / multiple
        envelope = np.minimum(time / 0.02, 1) * np.exp(-time * rng.uniform(0.3, 4))
        out[start : start + length] *= envelope * rng.uniform(0.4, 1.2)
        start += length
    return out


def _noise(rng: np.random.Generator, count: int, rate_hz: int) -> np.ndarray:
    """Band-passed noise that swells at 1 to 6 Hz, about unit variance."""
    if count == 0:
        return np.zeros(0)
    low_hz = 150 * 2 ** rng.uniform(0, 4)
    band = signal.butter(2, [low_hz, low_hz * rng.uniform(1.6, 3)], "bandpass", fs=rate_hz, output="sos")
    wave = signal.sosfilt(band, rng.normal(0, 1, count))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(1, 6) * np.arange(count) / rate_hz + rng.uniform(0, 6))
    scaled: np.ndarray = wave / (wave.std() + 1e-9) * swell
    return scaled


def _speech(rng: np.random.Generator, count: int, rate_hz: int) -> np.ndarray:
    """Syllables: a pulse train through three formants, now and then a hiss before it, about unit amplitude."""
    out = np.zeros(count)
    voice_hz = rng.uniform(90, 230)
    start = 0
    while start < count:
        length = min(int(rng.uniform(0.12, 0.32) * rate_hz), count - start)
        if rng.random() > 0.15:
            out[start : start + length] = _syllable(rng, length, rate_hz, voice_hz)
        start += length
    return out


def _syllable(rng: np.random.Generator, count: int, rate_hz: int, voice_hz: float) -> np.ndarray:
    """One syllable, its vowel drawn at random."""
    time = np.arange(count) / rate_hz
    pitch_hz = voice_hz * 2 ** rng.normal(0, 0.15) * (1 + 0.3 * rng.normal() * time)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / rate_hz), prepend=0.0)
    formants_hz = _VOWELS_HZ[rng.integers(len(_VOWELS_HZ))] * rng.uniform(0.9, 1.15)
    wave = np.zeros(count)
    for formant_hz, bandwidth_hz, gain in zip(formants_hz, (80, 110, 160), (1.0, 0.6, 0.3), strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / rate_hz)
        poles = [1, -2 * radius * np.cos(2 * np.pi * formant_hz / rate_hz), radius**2]
        part = signal.lfilter([1.0], poles, pulses)
        wave += gain * part / (np.abs(part).max() + 1e-9)
    hiss = rng.random() < 0.4
    if hiss:
        onset = min(int(0.06 * rate_hz), count)
        wave[:onset] = 0.4 * np.diff(rng.normal(0, 0.7, onset), prepend=0.0)
    envelope = np.sin(np.pi * np.minimum(time / (time[-1] + 1e-9), 1)) ** 0.5
    syllable: np.ndarray = wave * envelope * rng.uniform(0.5, 1.2)
    return syllable

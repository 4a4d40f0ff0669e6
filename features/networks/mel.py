"""Mel features of sound as AST and ImageBind were trained on them: Kaldi's filter banks, for many windows at once."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np

_FRAME, _STEP, _FFT = 400, 160, 512
_LOW_HZ = 20.0
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
RATE_HZ = 16_000
"""The rate at which a frame of 25 ms is 400 samples."""
FRAMES_PER_S = RATE_HZ // _STEP
"""Frames of `kaldi_log_mel`."""


def kaldi_log_mel(sound: np.ndarray, n_bands: int = 128) -> np.ndarray:
    """Logarithms of mel filter banks of frames of 25 ms every 10 ms, as Kaldi computes them.

    Frames are centred, pre-emphasised and Hann-windowed; frequencies from 20 Hz to 8 kHz; nothing is dithered and
    no frame reaches past the end.

    Parameters
    ----------
    sound : ndarray
        (row, sample) at 16 kHz.
    n_bands : int
        Mel bands.

    Returns
    -------
    ndarray
        (row, frame, band) float32; sound shorter than a frame has none.

    References
    ----------
    Povey et al. 2011, "The Kaldi speech recognition toolkit"; `compute-fbank-feats` with a Hann window, no energy,
    no dither.
    """
    if sound.shape[1] < _FRAME:
        return np.zeros((len(sound), 0, n_bands), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(sound, _FRAME, axis=1)[:, ::_STEP].astype(float)
    frames = frames - frames.mean(axis=-1, keepdims=True)
    before = np.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    frames = (frames - _PREEMPHASIS * before) * np.hanning(_FRAME)
    power = np.abs(np.fft.rfft(frames, _FFT, axis=-1)) ** 2
    logs: np.ndarray = np.log(np.maximum(power @ _kaldi_filters(n_bands), _FLOOR))
    return logs.astype(np.float32)


@lru_cache(maxsize=4)
def _kaldi_filters(n_bands: int) -> np.ndarray:
    """Triangles on Kaldi's mel scale, (frequency, band); their sides are straight in mel, not in Hz."""
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        # The lowest are narrower than the distance of two frequencies.
        warnings.filterwarnings("ignore", message="At least one mel filter")
        return mel_filter_bank(
            _FFT // 2 + 1, n_bands, _LOW_HZ, RATE_HZ / 2, RATE_HZ, mel_scale="kaldi", triangularize_in_mel_space=True
        )


def fitted(frames: np.ndarray, n_frames: int) -> np.ndarray:
    """Exactly `n_frames` frames (row, frame, band): the first ones, or zeros after the last.

    Parameters
    ----------
    frames : ndarray (row, frame, band)
    n_frames : int

    Returns
    -------
    array, shape (row, n_frames, band)
    """
    kept = frames[:, :n_frames]
    return np.pad(kept, ((0, 0), (0, n_frames - kept.shape[1]), (0, 0)))


_TVLT_FFT, _TVLT_STEP, _TVLT_RATE_HZ = 2048, 512, 44_100


def tvlt_log_mel(sound: np.ndarray, n_bands: int = 128, multiple: int = 16) -> np.ndarray:
    """Log-mel features as TVLT takes them.

    Decibels no further than 80 below the loudest, of frames of 2,048 samples centred every 512; from -60 to 20 dB they
    become -1 to 1. What pads them to whole patches is 0.

    Parameters
    ----------
    sound : ndarray
        (row, sample) at 44.1 kHz.
    n_bands : int
        Mel bands.
    multiple : int
        The number of frames is rounded up to a multiple of this.

    Returns
    -------
    ndarray
        (row, frame, band) float32.

    References
    ----------
    Tang et al. 2022, "TVLT: Textless Vision-Language Transformer"; the extractor in transformers 4.57.
    """
    half = _TVLT_FFT // 2
    short = max(0, half + 1 - sound.shape[1])  # a reflection needs that many samples
    padded = np.pad(np.pad(sound, ((0, 0), (0, short))), ((0, 0), (half, half)), mode="reflect").astype(float)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _TVLT_FFT, axis=1)[:, ::_TVLT_STEP]
    hann = np.hanning(_TVLT_FFT + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * hann, axis=-1)) ** 2
    decibels = 10 * np.log10(np.maximum(power @ _slaney_filters(n_bands), 1e-10))
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - 80)[:, :-1]
    scaled = np.clip((decibels - 20) / 40, -2, 0) + 1
    missing = -scaled.shape[1] % multiple
    return np.pad(scaled.astype(np.float32), ((0, 0), (0, missing), (0, 0)))


@lru_cache(maxsize=4)
def _slaney_filters(n_bands: int) -> np.ndarray:
    """Triangles of one area on Slaney's mel scale, straight below 1 kHz and logarithmic above, (frequency, band)."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        _TVLT_FFT // 2 + 1, n_bands, 0.0, _TVLT_RATE_HZ / 2, _TVLT_RATE_HZ, norm="slaney", mel_scale="slaney"
    )

"""Spectrograms of sound as ImageBind and TVLT take them, by the functions of transformers."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np

from cinecube.simulation.features.small_networks import BANDS, FULL_RATE_HZ, IMAGEBIND_FRAMES, SPEECH_RATE_HZ

# Of ImageBind's training data.
_MEAN, _STD = -4.268, 9.138
_TVLT_FFT, _TVLT_STEP = 2048, 512


def imagebind_spectrogram(sound: np.ndarray) -> np.ndarray:
    """Kaldi's log mel features of (sample,) at 16 kHz with zeros up to the length it takes, scaled, (frame, band)."""
    from transformers.audio_utils import spectrogram, window_function

    found = spectrogram(
        sound,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_kaldi_filters(),
        log_mel="log",
        mel_floor=float(np.finfo(np.float32).eps),
        remove_dc_offset=True,
    ).T
    whole = np.zeros((IMAGEBIND_FRAMES, BANDS), np.float32)
    whole[: len(found)] = found
    return (whole - np.float32(_MEAN)) / np.float32(_STD)


def tvlt_spectrogram(sound: np.ndarray, patch: int) -> np.ndarray:
    """Decibels of mel bands of (sample,) at 44.1 kHz, in [-1, 1], zeros up to whole patches, (frame, band).

    Parameters
    ----------
    sound : ndarray (sample,)
        At 44.1 kHz.
    patch : int
        Frames of a patch.

    Returns
    -------
    ndarray (frame, band)
    """
    from transformers.audio_utils import spectrogram, window_function

    found = spectrogram(
        sound,
        window_function(_TVLT_FFT, "hann"),
        frame_length=_TVLT_FFT,
        hop_length=_TVLT_STEP,
        power=2.0,
        mel_filters=_slaney_filters(),
        log_mel="dB",
        db_range=80.0,
    ).T[:-1]
    whole = np.zeros((-(-len(found) // patch) * patch, BANDS), np.float32)
    whole[: len(found)] = np.clip((found - 20) / 40, -2, 0) + 1
    return whole


@lru_cache(maxsize=1)
def _kaldi_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        # So many bands are narrower than the spacing of the lowest frequencies.
        warnings.filterwarnings("ignore", message="At least one mel filter")
        filters: np.ndarray = mel_filter_bank(
            257,
            BANDS,
            min_frequency=20,
            max_frequency=SPEECH_RATE_HZ // 2,
            sampling_rate=SPEECH_RATE_HZ,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return filters


@lru_cache(maxsize=1)
def _slaney_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    filters: np.ndarray = mel_filter_bank(
        _TVLT_FFT // 2 + 1,
        BANDS,
        min_frequency=0.0,
        max_frequency=FULL_RATE_HZ / 2,
        sampling_rate=FULL_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters

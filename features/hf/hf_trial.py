"""A made-up window through a network of transformers before anything is extracted: is it read as transformers does?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinecube.features.hf.hf import HfEncoder, describe
from cinecube.features.hf.hooks import in_line
from cinecube.features.hf.loading import unfit
from cinecube.features.networks.network import ALL_FRAMES, Batch, Checkpoint, Network, Reading, read_checkpoint
from cinecube.store.base.errors import StudyError, first_line
from cinecube.store.base.labels import layer_label

_ROWS = 3
_STILLS = 2
# Height and width of the frames that are read, and of others that processors must make one picture of.
_FRAME, _FRAMES = (72, 96), ((360, 640), (1080, 1920), (640, 360))
# Of the largest value of a layer: kernels of other batch sizes round otherwise.
_SAME = 1e-4
# Seconds of look-back and of window in which tokens are looked for; convolutions of positions reach over more than one.
_PROBED_S, _REACH_S = 6.0, 2.0
# Change of the window's own tokens against that of the look-back's, when only the look-back changes.
_LEAK = 0.1


def try_out(path: Path, reading: Reading) -> None:
    """Read made-up windows, and compare every layer with transformers' own hidden states.

    Parameters
    ----------
    path : Path
        The checkpoint's folder.
    reading : Reading
        How the study reads it.

    Raises
    ------
    StudyError
        If the network cannot be run as an encoder; gives other numbers from run to run or beside other windows; if its
        layers, or the norm that is asked for, are not what transformers gives; or if look-back is asked for and its
        tokens are not in order of time.
    """
    checkpoint = read_checkpoint(path, str(path))
    reading = replace(reading, streams=describe(checkpoint).streams, precision="float32", device="cpu")
    try:
        encoder = HfEncoder(path, reading)
        batch = _made_up(encoder, reading)
        _check_layers(encoder, batch, reading, checkpoint)
        _check_rows(encoder, batch, checkpoint)
        if encoder.kind == "sound" and (reading.context_s or encoder.padded_s):
            _check_time(encoder, reading.rate_hz, checkpoint)
    except StudyError:
        raise
    except Exception as error:  # foreign networks may raise anything
        found = f"an encoder that does not run ({type(error).__name__}: {first_line(error)})"
        raise unfit(checkpoint, found, "one that takes pictures, clips or sound alone") from error


def _made_up(encoder: HfEncoder, reading: Reading) -> Batch:
    rng = np.random.default_rng(0)
    if encoder.kind == "sound":
        n_samples = round((reading.context_s + reading.window_s) * reading.rate_hz)
        return Batch(sound=rng.normal(0, 0.1, (_ROWS, n_samples)).astype(np.float32))
    for size in _FRAMES:
        encoder.prepare_frame(np.zeros((*size, 3), np.uint8))
    n = _STILLS if reading.frames_per_window == ALL_FRAMES else int(reading.frames_per_window)
    frames = rng.integers(0, 256, (_ROWS, n, *_FRAME, 3)).astype(np.uint8)
    return Batch(frames=np.stack([[encoder.prepare_frame(rgb) for rgb in row] for row in frames]))


def _check_layers(encoder: HfEncoder, batch: Batch, reading: Reading, checkpoint: Checkpoint) -> None:
    """Refuse layers that are not what transformers calls its hidden states."""
    inputs, stream = encoder.inputs(batch), reading.streams[0]
    tokens = encoder.tokens(inputs)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        answer = encoder.tapped.call(tensors, output_hidden_states=True)
    states = list(getattr(answer, "hidden_states", None) or [])
    if len(states) != len(stream.layers):
        found = f"{len(states)} hidden states of transformers"
        raise unfit(checkpoint, found, f"{len(stream.layers)}, to compare layers with")
    if any(len(values) != len(inputs[encoder.input]) for values in tokens.values()):
        raise _beside_others(checkpoint)
    *before, last = stream.layers
    for label, state in zip(before, states, strict=False):
        if not _same(tokens[label], state):
            raise _other(label, checkpoint)
    if reading.final_norm:
        _check_norm(tokens[last], answer, checkpoint)
    elif not _is_last(encoder, tokens[last], states[-1]):
        raise _other(last, checkpoint)
    for label, width in zip(stream.layers, stream.widths, strict=True):
        if tokens[label].shape[-1] != width:
            raise unfit(checkpoint, f"{tokens[label].shape[-1]} dims in {label}", f"{width}, as its configuration says")


def _check_norm(normed: Tensor, answer: Any, checkpoint: Checkpoint) -> None:
    """Refuse a norm whose result is neither the network's last state nor, of the first token, its summary."""
    if _same(normed, getattr(answer, "last_hidden_state", None)) or _same(
        normed[:, 0], getattr(answer, "pooler_output", None)
    ):
        return
    raise unfit(checkpoint, "no norm after the last block", "one, as final_norm: true says")


def _is_last(encoder: HfEncoder, tokens: Tensor, state: Tensor) -> bool:
    """True if tokens are the output of the last block.

    The last of transformers' hidden states may be after what follows: a norm, or a pooling that leaves fewer tokens.
    The block is then the last one if it is of the kind of those before it, whose outputs are hidden states.
    """
    blocks, norm = encoder.tapped.blocks, encoder.tapped.norm
    normed = () if norm is None else (norm(tokens),)
    if any(_same(values, state) for values in (tokens, *normed)):
        return True
    return len(blocks) > 1 and type(blocks[-1]) is type(blocks[-2])


def _other(label: str, checkpoint: Checkpoint) -> StudyError:
    return unfit(checkpoint, f"other numbers in {label} than transformers' hidden state", "the same")


def _check_rows(encoder: HfEncoder, batch: Batch, checkpoint: Checkpoint) -> None:
    """Refuse numbers that depend on the run, or on which windows are read together."""
    together, again = encoder(batch), encoder(batch)
    alone = [encoder(_row(batch, row)) for row in range(_ROWS)]
    for key, values in together.items():
        if not np.isfinite(values).all():
            raise unfit(checkpoint, f"NaN or infinity in {key[1]} of a made-up window", "finite numbers")
        if not np.array_equal(values, again[key]):
            raise unfit(checkpoint, "other numbers in a second run over the same window", "an encoder without chance")
        if not _same(torch.from_numpy(values), torch.from_numpy(np.concatenate([own[key] for own in alone]))):
            raise _beside_others(checkpoint)


def _beside_others(checkpoint: Checkpoint) -> StudyError:
    return unfit(checkpoint, "other numbers for a window that is read beside others", "windows read apart")


def _row(batch: Batch, row: int) -> Batch:
    frames, sound = batch.frames, batch.sound
    return Batch(None if frames is None else frames[row : row + 1], None if sound is None else sound[row : row + 1])


def _check_time(encoder: HfEncoder, rate_hz: int, checkpoint: Checkpoint) -> None:
    """Refuse a network whose tokens of the window's own sound are not where they are looked for."""
    probed_s = min(_PROBED_S, (encoder.padded_s or np.inf) / 2)
    n_samples = round(probed_s * rate_hz)
    sound = np.random.default_rng(1).normal(0, 0.1, (3, n_samples)).astype(np.float32)
    embeds = [
        encoder.tokens(encoder.inputs(Batch(sound=np.concatenate([look_back, sound[2]])[None])))[layer_label(0)][0]
        for look_back in sound[:2]
    ]
    change = ((embeds[1] - embeds[0]).abs().mean(dim=1) / embeds[0].abs().mean(dim=1)).numpy()
    own = encoder.own(len(change), 2 * probed_s, probed_s)
    n_own = own.stop - own.start
    reach = round(min(_REACH_S, probed_s / 3) / probed_s * n_own)
    before, inside = change[max(0, own.start - n_own) : own.start - reach], change[own.start + reach : own.stop]
    if not before.size or not inside.size or inside.mean() > _LEAK * before.mean():
        raise unfit(checkpoint, "tokens that are not in order of time", "those that are, which look-back needs")


def _same(values: Tensor, expected: Tensor | None) -> bool:
    if not isinstance(expected, Tensor) or expected.ndim < values.ndim:
        return False
    wanted = in_line(expected) if values.ndim == 3 else expected
    if wanted.shape != values.shape:
        return False
    return float((values - wanted).abs().max()) <= _SAME * max(float(wanted.abs().max()), 1e-12)


NETWORK = Network(2, describe, HfEncoder, check=try_out)

"""Golden values of TVLT: what transformers 4.57.6, the last release that has it, computes from drawn weights.

transformers 5 has no TVLT. An environment that can run this script, and the script itself (half a minute):

    python3.11 -m venv tvltenv
    tvltenv/bin/pip install torch==2.13.0 transformers==4.57.6 numpy==2.4.6 pillow==13.0.0
    tvltenv/bin/python tests/features/golden/make_tvlt.py

It writes two files beside itself. `tvlt_keys.json` maps each key of the state dict of `TvltForPreTraining`, which is
what the published checkpoint holds, to its shape; the encoder's keys begin with `tvlt.`. `tvlt.npz` holds the arrays
below, of two configs: `full`, the defaults of `TvltConfig` (those of tvlt-base), and `small`, where pictures have 64
pixels and three blocks are 32 wide. Weights come from `drawing.draw` under the keys of `TvltModel`, without `tvlt.`,
with a standard deviation of 0.02 (full) and 0.2 (small). The input is `frames(8, 120, 160)` and
`sound(round(1.49 * 44100))`, 65709 samples; `d` is the width, 768 or 32, and `s` the number of hidden states, 13 or 4.

=============================  ================  ======================================================================
`<config>_video`               (s, d)            mean over pixel tokens of the embeddings and of each block's output
`<config>_audio`               (s, d)            the same over audio tokens
`<config>_joint`               (s, d)            the same over all tokens, CLS and both kinds
`<config>_cls`                 (s, d)            the CLS token
`<config>_video_normed`        (d,)              mean of `last_pixel_hidden_state`, that is after the final layer norm
`<config>_audio_normed`        (d,)              mean of `last_audio_hidden_state`
`<config>_pixel_values`        (8, 3, r, r)      `pixel_values[0, :, :, ::k, ::k]`; full: k 7, r 32; small: k 4, r 16
`<config>_pixel_values_shape`  (5,)              shape of all of them: (1, 8, 3, 224, 224) and (1, 8, 3, 64, 64)
`<config>_pixel_mask_shape`    (2,)              shape of `pixel_mask`, which is all ones: (1, 1568) and (1, 128)
`small_states`                 (4, 193, 32)      hidden states of every token: means cannot see the order of embeddings
`audio_values`                 (1, 1, 128, 128)  spectrogram (batch, channel, time, mel band); the same for both configs
`audio_mask`                   (1, 64)           all ones
`short_audio_values`           (1, 1, 96, 128)   of `sound(44100)`: 86 rows of sound, 10 of padding
`short_audio_mask`             (1, 48)           all ones: padding within a patch is not masked
`batch_audio_mask`             (2, 64)           of both sounds in one batch: 64 ones; 48 ones and 16 zeros
=============================  ================  ======================================================================

All is float32 but shapes. Facts that these numbers rest on, read from the code of that release:

Pictures
    Each frame alone: resized with PIL's bilinear filter (antialiased when shrinking) so that the shorter edge is 224
    and the longer `int(224 * long / short)` — truncated, not rounded; 120 x 160 becomes 224 x 298. PIL works on
    uint8, so the result is rounded to whole levels. Then a centre crop of 224 x 224 from `(height - 224) // 2` and
    `(width - 224) // 2`; `level / 255` in float64, cast to float32; `(x - 0.5) / 0.5` per channel. Channels come
    first. More than `num_frames` (8) frames are an error, fewer are not. `pixel_mask` has one for each of the
    `(shortest_edge // 16) ** 2` patches of a frame; zeros only stand for frames that a shorter video of a batch lacks.
    Here, `small` passes `size={"shortest_edge": 64}` and `crop_size={"height": 64, "width": 64}`.

Sound
    Mono float32 at 44100 Hz, not scaled or centred. `n_fft` 2048, periodic Hann window of 2048, hop
    `44100 // 86 = 512`, no dither, no preemphasis. The waveform is padded by 1024 samples on both sides with
    numpy's "reflect", so frame i is centred on sample 512 i and there are `1 + n_samples // 512`. The FFT runs in
    float64, is stored as complex64, and its squared magnitude taken in float64.
    128 mel filters from 0 to 22050 Hz on Slaney's scale, triangles in Hz over `linspace(0, 22050, 1025)`, each times
    `2 / (right edge - left edge)`; power below 1e-10 is raised to it. Decibels are `10 log10(power)` (reference 1),
    and raised to 80 below the largest value of the whole spectrogram, then cast to float32. Only after that the last
    frame is dropped, which leaves `n_samples // 512`. Then `clip((dB - 20) / 40, -2, 0) + 1`: -60 dB and less become
    -1, 20 dB and more 1. Transposed to (time, band), cut to the first `spectrogram_length` (2048) rows, padded below
    to a multiple of 16 rows (in a batch: to the longest) with `padding_value` 0.0, which is -20 dB, not silence.
    `audio_mask` has 8 entries for each 16 rows, patches in part of padding included, and zeros only for whole patches
    that a shorter sound of a batch lacks. 1.49 s are 128 rows, 8 x 8 patches without padding. Fewer than 512 samples
    leave no row, which the model cannot take.

Embeddings
    Sequence: CLS, then pixel tokens, then audio tokens: 1 + 1568 + 64 (full), 1 + 128 + 64 (small).
    Pixels: a convolution 3 -> d of 16 x 16 with stride 16 and bias on each frame; frame-major, within a frame row by
    row, within a row left to right: token `(frame * 14 + row) * 14 + column`. To it are added `pos_embed_v` (1, 196,
    d) by place, `temporal_embed[:, :n_frames]` (1, 8, d) by frame, and `type_embed_v` (1, 1, d).
    Audio: a convolution 1 -> d of 16 (time) x 16 (bands) with stride 16 and bias; time-major, within a time from low
    to high bands: token `time * 8 + band`. To it are added `freq_embed` (1, 8, d) by band, `pos_embed_a[:, :n_times]`
    (1, 128, d) by time, and `type_embed_a` (1, 1, d).
    CLS is `cls_embedding` (1, 1, d) with nothing added. There is no norm and no dropout before the first block.

Blocks
    Pre-norm: `x += dense(attention(layernorm_before(x)))`, `x += output(gelu(intermediate(layernorm_after(x))))`.
    Layer norms have eps 1e-6, GELU is the exact one (erf), query, key and value have a bias (`qkv_bias`), scores are
    divided by `sqrt(d / heads)`. All tokens attend to all: sound sees pictures and the reverse in every block.

Masks
    Only if both masks are given: their concatenation, with the first entry of `pixel_mask` for CLS, becomes
    `(1 - mask) * finfo(float32).min`, added to the scores of every query. So masked keys get no weight, while masked
    tokens are still computed and returned. With masks of ones, as for any single window, this adds zero, and the model
    gives the same numbers without masks. Nothing is pooled in the model; masks have no effect but this one.

Outputs
    `hidden_states`: the embeddings and the output of each block, all before the final `layernorm`.
    `last_hidden_state` is the last of them after `layernorm` (which `use_mean_pooling=True` leaves out, weights
    included). `last_pixel_hidden_state` and `last_audio_hidden_state` are its tokens from 1 and from 1 + n_pixel on;
    neither has CLS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import draw, frames, sound
from transformers.models.deprecated.tvlt import (
    TvltConfig,
    TvltFeatureExtractor,
    TvltForPreTraining,
    TvltImageProcessor,
    TvltModel,
)

HERE = Path(__file__).resolve().parent
RATE_HZ = 44100
# name: config beyond the defaults, standard deviation of the weights, stride of the pixels that are kept
CONFIGS: dict[str, tuple[dict[str, int], float, int]] = {
    "full": ({}, 0.02, 7),
    "small": (
        {
            "image_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        },
        0.2,
        4,
    ),
}


def drawn_model(config: TvltConfig, std: float) -> TvltModel:
    """A TVLT encoder with drawn weights."""
    model = TvltModel(config).eval()
    drawn = {key: torch.from_numpy(draw(key, tuple(old.shape), std)) for key, old in model.state_dict().items()}
    model.load_state_dict(drawn, strict=True)
    return model


def prepare_pixels(size: int) -> dict[str, Any]:
    """Pixel values and mask of the drawn frames."""
    processor = TvltImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return dict(processor(list(frames(8, 120, 160)), return_tensors="np"))


def prepare_sounds(*lengths: int) -> dict[str, Any]:
    """Spectrograms and mask of drawn sounds in one batch."""
    # A sound alone is given as an array, not as a batch of one, as a user of the processor would.
    sounds = [sound(length) for length in lengths]
    given = sounds if len(sounds) > 1 else sounds[0]
    return dict(TvltFeatureExtractor()(given, sampling_rate=RATE_HZ, return_tensors="np"))


def hidden_states(model: TvltModel, pixels: dict[str, Any], audio: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """All hidden states (state, token, dim) of one window, and the model's output."""
    given = {key: torch.from_numpy(np.asarray(value)) for key, value in {**pixels, **audio}.items()}
    with torch.inference_mode():
        output = model(**given, output_hidden_states=True)
        unmasked = model(given["pixel_values"], given["audio_values"])
        # What the docstring says about masks and about the final norm.
        torch.testing.assert_close(unmasked.last_hidden_state, output.last_hidden_state, rtol=0, atol=0)
        torch.testing.assert_close(model.layernorm(output.hidden_states[-1]), output.last_hidden_state, rtol=0, atol=0)
    return torch.cat(output.hidden_states).numpy(), output


def main() -> None:
    """Write both files."""
    torch.set_num_threads(2)
    audio, short = prepare_sounds(round(1.49 * RATE_HZ)), prepare_sounds(RATE_HZ)
    golden = {
        **audio,
        **{f"short_{key}": value for key, value in short.items()},
        "batch_audio_mask": prepare_sounds(round(1.49 * RATE_HZ), RATE_HZ)["audio_mask"],
    }
    for name, (changes, std, stride) in CONFIGS.items():
        config = TvltConfig(**changes)
        pixels = prepare_pixels(config.image_size)
        states, output = hidden_states(drawn_model(config, std), pixels, audio)
        audio_from = 1 + pixels["pixel_mask"].shape[1]
        made = {
            "video": states[:, 1:audio_from].mean(axis=1),
            "audio": states[:, audio_from:].mean(axis=1),
            "joint": states.mean(axis=1),
            "cls": states[:, 0],
            "video_normed": output.last_pixel_hidden_state[0].mean(dim=0).numpy(),
            "audio_normed": output.last_audio_hidden_state[0].mean(dim=0).numpy(),
            "pixel_values": pixels["pixel_values"][0, :, :, ::stride, ::stride],
            "pixel_values_shape": np.array(pixels["pixel_values"].shape),
            "pixel_mask_shape": np.array(pixels["pixel_mask"].shape),
        }
        golden.update({f"{name}_{key}": value for key, value in made.items()})
        if name == "small":
            golden["small_states"] = states
    np.savez_compressed(HERE / "tvlt.npz", **golden)

    with torch.device("meta"):
        keys = {key: list(weight.shape) for key, weight in TvltForPreTraining(TvltConfig()).state_dict().items()}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(shape)}" for key, shape in keys.items())
    (HERE / "tvlt_keys.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()

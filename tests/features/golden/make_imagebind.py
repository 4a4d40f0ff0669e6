"""Golden values of ImageBind: what Meta's code computes from drawn weights, and the keys of its one checkpoint.

ImageBind is not in transformers. Its code, and the published weights, are under CC-BY-NC-SA 4.0, so none of it stands
here: it is installed into a folder outside the repository, given as the argument (a minute in all):

    pip install --no-deps --target ELSEWHERE imagebind-unofficial==0.1.1 einops==0.8.2
    pip install --no-deps --target ELSEWHERE pytorchvideo==0.1.5 torchaudio==2.11.0
    python tests/features/golden/make_imagebind.py ELSEWHERE

It was run with torch 2.13.0 and numpy 2.4.6; einops is under MIT, pytorchvideo under Apache-2.0 and torchaudio under
BSD-2-Clause. What the modules import and these values do not need (tokenisers, decoders, image libraries) is replaced
by stand-ins.

It writes two files beside itself. `imagebind_keys.json` maps each of the 1311 keys of `imagebind_huge()`, which loads
`imagebind_huge.pth` strictly and so needs just these in it, to its shape. `imagebind.npz` holds the arrays below, of a
model whose vision is 64 wide and sound 48, with 2 blocks and 4 heads each, and whose embedding has 32 dimensions;
kernels and input sizes are those of the checkpoint. Weights are `drawing.draw(key, shape, 0.2)` under the checkpoint's
keys, one more in the scales of layer norms (every `.weight` of one dimension); `log_logit_scale` keeps its value, log
20. The input of the model is
`default_rng(0).standard_normal((1, 3, 3, 2, 224, 224), float32)` for vision (window, crop, rgb, frame, row, column)
and `default_rng(1).standard_normal((1, 1, 1, 128, 204), float32)` for sound (window, clip, channel, band, time).

=====================  =====================  =========================================================================
`vision_states`        (3, 3, 64)             crop, state, dim: mean over all tokens, CLS among them, of what enters
                                              the first block (after `pre_transformer_layer`) and of each block's output
`vision_cls`           (3, 3, 64)             the CLS token of the same states
`vision_head`          (3, 32)                the head's output by crop, not normalised
`vision_post`          (3, 32)                after the postprocessor: normalised
`vision_final`         (1, 32)                what the model returns: the mean of `vision_post` over crops
`audio_states`         (1, 3, 48)             clip, state, dim; the first is what enters the first block
`audio_cls`            (1, 3, 48)             the CLS token of the same states
`audio_head`           (1, 32)                the head's output, not normalised
`audio_post`           (1, 32)                normalised, times 20
`audio_final`          (1, 32)                what the model returns: the mean of `audio_post` over clips
`keys`                 ()                     JSON: each key of the small model, of all modalities, to its shape
`landscape`            (3, 3, 2, 32, 32)      crop, rgb, frame, row, column: `drawing.frames(2, 120, 160)` made into
                                              input; every seventh row and column of 224
`portrait`             (3, 3, 2, 32, 32)      the same of `drawing.frames(2, 160, 120)`
`sound`                (128, 204)             band, time: `drawing.sound(32000, 16000)` made into input; its last 6
                                              columns are padding
`short_sound`          (128, 32)              the first 32 columns of 204 of `sound(4000, 16000)`: 23 of sound, 9 of
                                              padding
=====================  =====================  =========================================================================

All is float32 but `keys`.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from drawing import draw, frames, sound
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
# Packages whose own __init__ would import too much: only the modules asked for are loaded from their folder.
SHELLS = ("imagebind", "torchaudio", "pytorchvideo", "pytorchvideo.transforms")
STAND_INS = (
    *("timm", "timm.layers", "iopath", "iopath.common", "iopath.common.file_io", "ftfy", "regex"),
    *("pkg_resources", "PIL", "torchvision", "pytorchvideo.data"),
    *("pytorchvideo.data.clip_sampling", "pytorchvideo.data.encoded_video"),
)
# name: width, blocks, heads. All but the first two are as small as may be: a checkpoint has them, no value needs them.
TRUNKS = {"vision": (64, 2, 4), "audio": (48, 2, 4), **dict.fromkeys(("text", "depth", "thermal", "imu"), (8, 1, 2))}
SMALL: dict[str, float] = {
    f"{modality}_{field}": value
    for modality, sizes in TRUNKS.items()
    for field, value in zip(("embed_dim", "num_blocks", "num_heads"), sizes, strict=True)
} | {"out_embed_dim": 32, "audio_drop_path": 0.0, "imu_drop_path": 0.0}
NORM_SCALE = re.compile(
    r"(norm[^.]*|pre_transformer_layer\.0|modality_heads\.[^.]+\.0|modality_heads\.text\.proj\.0)\.weight$"
)
# Mean and standard deviation of the log mel spectrogram, as in the package's `load_and_transform_audio_data`.
SOUND_MEAN, SOUND_STD = -4.268, 9.138
RGB_MEAN, RGB_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def open_package(folder: Path) -> None:
    """Make the modules below `folder` importable without what only the rest of them needs."""
    sys.path.append(str(folder))
    for name in STAND_INS:
        sys.modules[name] = mock.MagicMock()
    for name in SHELLS:
        shell = types.ModuleType(name)
        shell.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = shell
    # `import torchaudio` alone has to find this one.
    sys.modules["torchaudio"].compliance = importlib.import_module("torchaudio.compliance")  # type: ignore[attr-defined]


def checkpoint_keys(package: Any) -> dict[str, list[int]]:
    """Keys of the published checkpoint with their shapes."""
    # Numbers that the constructor reads back from a tensor cannot be on "meta", and none of them is a weight.
    linspace = functools.partial(torch.linspace, device="cpu")
    with torch.device("meta"), mock.patch.object(torch, "linspace", linspace):
        return {key: list(weight.shape) for key, weight in package.imagebind_huge().state_dict().items()}


def drawn_model(package: Any) -> nn.Module:
    """The small model with drawn weights of vision and sound."""
    model = package.ImageBindModel(**SMALL).eval()
    weights = model.state_dict()
    for key, old in weights.items():
        if key.split(".")[1] not in ("vision", "audio") or key.endswith("log_logit_scale"):
            continue
        drawn = draw(key, tuple(old.shape), 0.2)
        if old.ndim == 1 and NORM_SCALE.search(key):
            drawn = drawn + np.float32(1)
        weights[key] = torch.from_numpy(drawn)
    model.load_state_dict(weights, strict=True)
    return model


def pass_through(model: Any, modality: str, given: Tensor) -> dict[str, np.ndarray]:
    """States, head and embedding of one window."""
    states: list[Tensor] = []
    blocks = model.modality_trunks[modality].blocks
    found: dict[str, Tensor] = {}
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, given: states.append(given[0])),
        *(block.register_forward_hook(lambda *passed: states.append(passed[2])) for block in blocks),
        model.modality_heads[modality].register_forward_hook(lambda *passed: found.update(head=passed[2])),
        model.modality_postprocessors[modality].register_forward_hook(lambda *passed: found.update(post=passed[2])),
    ]
    with torch.inference_mode():
        found["final"] = model({modality: given})[modality]
    for hook in hooks:
        hook.remove()
    tokens = torch.stack(states, dim=1)  # (token, state, crop, dim)
    found["states"] = tokens.mean(dim=0).transpose(0, 1)
    found["cls"] = tokens[0].transpose(0, 1)
    return {f"{modality}_{name}": value.contiguous().numpy() for name, value in found.items()}


def prepare_pixels(data: Any, shape: tuple[int, int]) -> np.ndarray:
    """Two drawn frames as the package gives them to the model, thinned out."""
    scale = importlib.import_module("pytorchvideo.transforms.functional").short_side_scale
    clip = torch.from_numpy(frames(2, *shape)).permute(3, 0, 1, 2).float() / 255.0
    crops = data.SpatialCrop(224, num_crops=3)([data.NormalizeVideo(RGB_MEAN, RGB_STD)(scale(clip, 224))])
    return torch.stack(crops)[..., ::7, ::7].numpy()


def prepare_sound(data: Any, n_samples: int) -> np.ndarray:
    """Drawn sound as the package gives it to the model."""
    waveform = torch.from_numpy(sound(n_samples, 16000))[None]
    spectrogram = data.waveform2melspec(waveform, 16000, 128, 204)
    return ((spectrogram - SOUND_MEAN) / SOUND_STD)[0].numpy()


def main(folder: Path) -> None:
    """Write both files."""
    torch.set_num_threads(2)
    open_package(folder)
    package, data = (importlib.import_module(f"imagebind.{name}") for name in ("models.imagebind_model", "data"))

    keys = sorted(checkpoint_keys(package).items())
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in keys)
    (HERE / "imagebind_keys.json").write_text(f"{{\n{lines}\n}}\n")

    model = drawn_model(package)
    inputs = {"vision": (1, 3, 3, 2, 224, 224), "audio": (1, 1, 1, 128, 204)}
    golden: dict[str, Any] = {"keys": json.dumps({key: list(old.shape) for key, old in model.state_dict().items()})}
    for seed, (modality, shape) in enumerate(inputs.items()):
        given = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        golden.update(pass_through(model, modality, torch.from_numpy(given)))
    golden["landscape"], golden["portrait"] = prepare_pixels(data, (120, 160)), prepare_pixels(data, (160, 120))
    golden["sound"], golden["short_sound"] = prepare_sound(data, 32000), prepare_sound(data, 4000)[:, :32]
    np.savez_compressed(HERE / "imagebind.npz", **golden)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

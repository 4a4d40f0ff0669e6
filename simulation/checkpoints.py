"""Small networks of the real architectures with random weights, saved as transformers saves them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from cinecube.simulation.seeding import generator
from cinecube.simulation.spec import Network

BLOCKS, WIDTH, HEADS = 12, 48, 4
IMAGE_PX, PATCH_PX = 64, 16
CLIP_FRAMES = 16
LICENCE = "BSD-3-Clause"

# At transformers' own scale (0.02) the blocks of a small network all but copy their input (DESIGN §9).
_WEIGHT_STD = 0.3
_BIAS_STD = 0.1
# ViT and VideoMAE add each block to a stream that is never scaled back, so late blocks of equal size would change
# little of it and be hard to tell apart: what a block adds grows with its depth.
_GROWTH = 1.45
_INTO_STREAM = re.compile(r"layers?\.(\d+)\.(?:attention\.o_proj|mlp\.fc2|attention\.output\.dense|output\.dense)\.")
_CARD = """---
license: bsd-3-clause
library_name: transformers
---
# {network}, random weights

BSD-3-Clause (random weights, made by cinecube simulate).
A {architecture} of {blocks} blocks and {width} dims that was never trained: it serves to test pipelines.
"""


def write_checkpoint(seed: int, network: Network, folder: Path) -> None:
    """Save `network` with its processor and a model card in `folder`; the same seed gives the same bytes."""
    model, processor = _BUILDERS[network]()
    _draw_weights(model, seed, network)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    card = _CARD.format(network=network, architecture=type(model).__name__, blocks=BLOCKS, width=WIDTH)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _draw_weights(model: Any, seed: int, network: str) -> None:
    """Give every parameter of `model` values that follow from its own name, so that no order matters."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rng = generator(seed, "weights", network, name)
            values = rng.normal(0, 1, tuple(parameter.shape)) * _spread(name, tuple(parameter.shape))
            if re.search(r"norm\w*\.weight$", name):
                values += 1
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a parameter's values."""
    if "norm" in name or len(shape) == 1:
        return _BIAS_STD
    if "parametrizations" in name and name.endswith("original0"):
        return 1.0
    if "conv" in name or "patch" in name:
        # A kernel sums hundreds of inputs and has to keep their size.
        return float(np.sqrt(2 / np.prod(shape[1:])))
    block = _INTO_STREAM.search(name)
    return _WEIGHT_STD * (_GROWTH ** int(block[1]) if block else 1.0)


def _vit() -> tuple[Any, Any]:
    """ViT on single frames, and its processor."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    config = ViTConfig(**_width(), image_size=IMAGE_PX, patch_size=PATCH_PX)
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    processor = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ViTModel(config, add_pooling_layer=False), processor


def _videomae() -> tuple[Any, Any]:
    """VideoMAE on clips of 16 frames, and its processor."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessorPil, VideoMAEModel

    config = VideoMAEConfig(
        **_width(), image_size=IMAGE_PX, patch_size=PATCH_PX, num_frames=CLIP_FRAMES, tubelet_size=2
    )
    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": IMAGE_PX}, crop_size={"height": IMAGE_PX, "width": IMAGE_PX}
    )
    return VideoMAEModel(config), processor


def _wav2vec2() -> tuple[Any, Any]:
    """Wav2Vec2 on 16 kHz sound at 50 tokens per second, and its feature extractor."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(**_width(), conv_dim=(32,) * 7, num_conv_pos_embeddings=16)
    processor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16_000, padding_value=0.0, do_normalize=True, return_attention_mask=False
    )
    return Wav2Vec2Model(config), processor


def _width() -> dict[str, Any]:
    """What the three architectures call alike."""
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
    }


_BUILDERS = {"vit": _vit, "videomae": _videomae, "wav2vec2": _wav2vec2}

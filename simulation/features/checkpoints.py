"""Small networks of the real architectures with random weights, in the files that real checkpoints have."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

from cinecube.simulation.features.random_weights import draw_weight
from cinecube.simulation.features.small_networks import (
    AST_FRAMES,
    BANDS,
    BLOCKS,
    BLOCKS_OF,
    FEW_BLOCKS,
    HEAD_WIDTH,
    HEADS,
    IMAGE_PX,
    IMAGEBIND_FRAMES,
    IMAGEBIND_PATCH_PX,
    IMAGEBIND_PX,
    PATCH_PX,
    SPEECH_RATE_HZ,
    VIVIT_SHORT_EDGE_PX,
    WIDTH,
)
from cinecube.simulation.setup.simulate_params import Network

_CARD = """---
license: bsd-3-clause
library_name: {library}
---
# {network}, random weights

BSD-3-Clause (random weights, made by cinecube simulate).
{architecture} of {blocks} blocks and {width} dims that was never trained: it serves to test pipelines.
"""
_SQUARE = {"height": IMAGE_PX, "width": IMAGE_PX}
_IMAGEBIND = {
    "model_type": "imagebind",
    "image": IMAGEBIND_PX,
    "patch": IMAGEBIND_PATCH_PX,
    "frames": IMAGEBIND_FRAMES,
    "video": [WIDTH, FEW_BLOCKS, HEADS],
    "audio": [WIDTH, FEW_BLOCKS, HEADS],
    "head": HEAD_WIDTH,
}
_TVLT = {
    "architectures": ["TvltModel"],
    "model_type": "tvlt",
    "hidden_size": WIDTH,
    "num_hidden_layers": FEW_BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_mean_pooling": False,
    "image_size": IMAGE_PX,
    "image_patch_size": [PATCH_PX, PATCH_PX],
    "num_image_channels": 3,
    "num_frames": 8,
    "audio_patch_size": [PATCH_PX, PATCH_PX],
    "num_audio_channels": 1,
    "frequency_length": BANDS,
    "spectrogram_length": 2048,
}
_TVLT_PROCESSOR = {
    "image_processor_type": "TvltImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": IMAGE_PX},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": _SQUARE,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write_checkpoint(seed: int, network: Network, folder: Path) -> None:
    """Save `network` with its configuration and a model card in `folder`; the same seed gives the same bytes.

    Parameters
    ----------
    seed : int
    network : str
    folder : Path
    """
    if network == "imagebind":
        architecture = _write_imagebind(seed, folder)
    elif network == "tvlt":
        architecture = _write_tvlt(seed, folder)
    else:
        architecture = _write_transformers(seed, network, folder)
    card = _CARD.format(
        library="pytorch" if network == "imagebind" else "transformers",
        network=network,
        architecture=architecture,
        blocks=BLOCKS_OF[network],
        width=WIDTH,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_transformers(seed: int, network: Network, folder: Path) -> str:
    """A network that transformers has, with its processor."""
    import torch

    model, processor = _BUILDERS[network]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw_weight(seed, network, name, tuple(parameter.shape))))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return type(model).__name__


def _write_imagebind(seed: int, folder: Path) -> str:
    """ImageBind, whose official file is a dict of tensors that `torch.save` wrote."""
    import torch

    from cinecube.features.architectures.imagebind import ImageBindNetwork, Sizes, rename

    with torch.device("meta"):
        shapes = ImageBindNetwork(Sizes.model_validate(_IMAGEBIND)).state_dict()
    # Training begins and ends with this scale; all else is drawn.
    state = {rename("log_scale"): torch.tensor(math.log(20.0))}
    for key, shape in ((rename(name), value.shape) for name, value in shapes.items() if value.ndim):
        state[key] = torch.from_numpy(draw_weight(seed, "imagebind", key, tuple(shape)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _IMAGEBIND)
    torch.save(state, folder / "imagebind.pth")
    return "ImageBindModel"


def _write_tvlt(seed: int, folder: Path) -> str:
    """TVLT, as versions of transformers saved it that had it."""
    import torch
    from safetensors.torch import save_file

    from cinecube.features.architectures.tvlt import TvltNetwork, rename
    from cinecube.features.networks.network import Checkpoint

    with torch.device("meta"):
        shapes = TvltNetwork(Checkpoint(folder, _TVLT, _TVLT_PROCESSOR)).state_dict()
    state = {}
    for name, whole in shapes.items():
        keys = rename(name)
        # Queries, keys and values follow each other in one parameter of ours, and are apart in the file.
        parts = [(keys, whole)] if isinstance(keys, str) else zip(keys, whole.chunk(len(keys)), strict=True)
        for key, part in parts:
            state[f"tvlt.{key}"] = torch.from_numpy(draw_weight(seed, "tvlt", key, tuple(part.shape)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _TVLT)
    _write_json(folder / "preprocessor_config.json", _TVLT_PROCESSOR)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return "TvltModel"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _vit() -> tuple[Any, Any]:
    """ViT on single frames, and its processor."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    config = ViTConfig(**_width(), image_size=IMAGE_PX, patch_size=PATCH_PX)
    processor = ViTImageProcessorPil(size=_SQUARE, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ViTModel(config, add_pooling_layer=False), processor


def _videomae() -> tuple[Any, Any]:
    """VideoMAE on clips of 16 frames, and its processor."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessorPil, VideoMAEModel

    config = VideoMAEConfig(**_width(), image_size=IMAGE_PX, patch_size=PATCH_PX, num_frames=16, tubelet_size=2)
    processor = VideoMAEImageProcessorPil(size={"shortest_edge": IMAGE_PX}, crop_size=_SQUARE)
    return VideoMAEModel(config), processor


def _vivit() -> tuple[Any, Any]:
    """ViViT on clips of 32 frames, and its processor."""
    from transformers import VivitConfig, VivitImageProcessor, VivitModel

    config = VivitConfig(**_width(), image_size=IMAGE_PX, num_frames=32, tubelet_size=[2, PATCH_PX, PATCH_PX])
    processor = VivitImageProcessor(size={"shortest_edge": VIVIT_SHORT_EDGE_PX}, crop_size=_SQUARE)
    return VivitModel(config, add_pooling_layer=False), processor


def _wav2vec2() -> tuple[Any, Any]:
    """Wav2Vec2 on 16 kHz sound at 50 tokens per second, and its feature extractor."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(**_width(), conv_dim=(32,) * 7, num_conv_pos_embeddings=16)
    processor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=SPEECH_RATE_HZ, padding_value=0.0, do_normalize=True, return_attention_mask=False
    )
    return Wav2Vec2Model(config), processor


def _ast() -> tuple[Any, Any]:
    """AST on up to 2.56 s of 16 kHz sound, and its feature extractor."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig(**_width(), max_length=AST_FRAMES, num_mel_bins=BANDS)
    with warnings.catch_warnings():
        # So many bands are narrower than the spacing of the lowest frequencies, in the official network too.
        warnings.filterwarnings("ignore", message="At least one mel filter")
        processor = ASTFeatureExtractor(sampling_rate=SPEECH_RATE_HZ, max_length=AST_FRAMES, num_mel_bins=BANDS)
    return ASTModel(config), processor


def _width() -> dict[str, Any]:
    """Settings that the architectures call by the same names."""
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
    }


_BUILDERS = {"vit": _vit, "videomae": _videomae, "vivit": _vivit, "wav2vec2": _wav2vec2, "ast": _ast}

"""Small networks of all of transformers' encoders of pictures, clips and sound, made by one rule."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

# What makes a network small, wherever its configuration has such a key.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "pred_hidden_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "num_layers", "depth"), 3),
    **dict.fromkeys(("decoder_layers", "decoder_num_hidden_layers", "decoder_depth", "pred_num_hidden_layers"), 2),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "num_heads",
            "num_key_value_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "decoder_num_attention_heads",
            "encoder_num_attention_heads",
            "encoder_num_key_value_heads",
            "decoder_num_key_value_heads",
            "pred_num_attention_heads",
        ),
        2,
    ),
    **dict.fromkeys(
        ("intermediate_size", "mlp_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "decoder_intermediate_size"),
        32,
    ),
    **dict.fromkeys(("image_size", "crop_size"), 32),
    **dict.fromkeys(("num_frames", "frames_per_clip"), 4),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    "patch_size": 8,
    "head_dim": 12,
    "decoder_hidden_size": 16,
    "vocab_size": 100,
    "tubelet_size": [2, 8, 8],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "conv_kernel_size": 5,
    "conv_depthwise_kernel_size": 5,
}
_NESTED = ("vision_config", "text_config", "audio_config", "encoder_config")
LARGEST = 30e6


def _words(text: str) -> list[str]:
    return text.split()


PICTURES = _words("""
aimv2 aimv2_vision_model altclip beit bit blip chinese_clip_vision_model clip clip_vision_model clipseg convnext
convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers dinov3_convnext dinov3_vit donut-swin dpt focalnet
gemma3 git glm_image_vision glpn groupvit hgnet_v2 hiera hunyuan_vl_vision idefics3 ijepa inkling2_vision internvl
internvl_vision kosmos-2 levit llava metaclip_2 mgp-str minicpmv4_7_vision mlcd mobilenet_v1 mobilenet_v2 mobilevit
mobilevitv2 muse_glimmer_vision muse_spark_vision owlv2 owlvit paligemma pixio pixtral poolformer pvt pvt_v2
qianfan_ocr_vision radio regnet resnet sam sam2_vision_model sam3_vit_model sam_hq_vision_model sam_vision_model
sapiens2 segformer siglip siglip2 siglip2_vision_model siglip_vision_model smolvlm swiftformer swin swin2sr textnet
tipsv2_vision_model video_llama_3_vision vilt vit vit_mae vit_msn vitdet yolos
""")
CLIPS = _words("timesformer videomae videoprism videoprism_vision_model vivit vjepa2 xclip")
SOUND = _words("""
audio-spectrogram-transformer audioflamingo3_encoder clap cohere_asr dac data2vec-audio encodec gemma3n_audio
gemma4_audio glmasr_encoder hubert lasr_encoder moonshine nemotron_asr_streaming_encoder parakeet_encoder
qwen2_audio_encoder qwen3_asr_encoder sew sew-d speech_to_text speecht5 unispeech unispeech-sat voxtral_encoder
voxtral_realtime_encoder wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper
""")
FAMILIES = PICTURES + CLIPS + SOUND


def make_family(name: str, folder: Path) -> Any:
    """Save a small network of a family, with its processor, in a folder; weights are redrawn at a wide spread.

    Returns
    -------
    PreTrainedModel
    """
    from transformers import CONFIG_MAPPING, AutoModel

    config = _small(CONFIG_MAPPING[name])
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        n_parameters = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if n_parameters > LARGEST:
        raise ValueError(f"{name}: {n_parameters / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    _redraw(model)
    model.save_pretrained(folder)
    _save_processor(name, folder)
    return model


def _small(kind: Any) -> Any:
    """A configuration with small numbers in every key that it has; what follows from them is worked out anew."""
    default = kind()
    changes: dict[str, Any] = {}
    for key, value in _SMALL.items():
        known = getattr(default, key, None)
        if known is None or isinstance(known, bool):
            continue
        if isinstance(known, list | tuple) and not isinstance(value, list):
            if key not in ("image_size", "patch_size"):
                continue
            value = type(known)([value] * len(known))
        if isinstance(known, list | tuple) == isinstance(value, list | tuple):
            changes[key] = value
    if isinstance(getattr(default, "conv_dim", None), list | tuple):
        changes["conv_dim"] = type(default.conv_dim)([16] * len(default.conv_dim))
    for key in _NESTED:
        if hasattr(getattr(default, key, None), "to_dict"):
            changes[key] = _small(type(getattr(default, key)))
    return kind(**changes)


def _redraw(model: Any) -> None:
    """Weights at std 0.3: drawn at transformers' own 0.02, the layers of a small network hardly differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def _save_processor(name: str, folder: Path) -> None:
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    if name in SOUND:
        class_name = _EXTRACTORS.get(name) or FEATURE_EXTRACTOR_MAPPING_NAMES.get(name, "Wav2Vec2FeatureExtractor")
        config = json.loads((folder / "config.json").read_text())
        bins = {"feature_size": config["num_mel_bins"]} if "num_mel_bins" in config and "Whisper" in class_name else {}
        getattr(transformers, class_name)(**bins).save_pretrained(folder)
        return
    if name in CLIPS and name != "vivit":
        (folder / "preprocessor_config.json").write_text(
            json.dumps(_FRAMES | {"image_processor_type": "VideoMAEImageProcessor"})
        )
        return
    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(name) or IMAGE_PROCESSOR_MAPPING_NAMES.get(
        name.removesuffix("_vision_model")
    )
    class_name = (known or {}).get("pil") or (known or {}).get("torchvision") or "CLIPImageProcessorPil"
    values = {"image_processor_type": class_name.removesuffix("Pil"), **_FRAMES}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


_FRAMES = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 2,
    "do_center_crop": False,
    "crop_size": {"height": 32, "width": 32},
    "do_pad": False,
}
# Processors that know no fixed height and width.
_OWN_SIZES = {
    "SamImageProcessor": {"size": {"longest_edge": 32}, "do_pad": True, "pad_size": {"height": 32, "width": 32}},
    "ViltImageProcessor": {"size": {"shortest_edge": 32}},
}
# Encoders whose processor is listed under the name of the whole network.
_EXTRACTORS = {
    "audioflamingo3_encoder": "WhisperFeatureExtractor",
    "fun_asr_nano_encoder": "FunAsrNanoFeatureExtractor",
    "gemma3n_audio": "Gemma3nAudioFeatureExtractor",
    "gemma4_audio": "Gemma4AudioFeatureExtractor",
    "glmasr_encoder": "WhisperFeatureExtractor",
    "granite_speech5_encoder": "GraniteSpeech5FeatureExtractor",
    "lasr_encoder": "LasrFeatureExtractor",
    "nemotron_asr_streaming_encoder": "NemotronAsrStreamingFeatureExtractor",
    "parakeet_encoder": "ParakeetFeatureExtractor",
    "qwen2_audio_encoder": "WhisperFeatureExtractor",
    "qwen3_asr_encoder": "Qwen3ASRFeatureExtractor",
    "voxtral_encoder": "WhisperFeatureExtractor",
    "voxtral_realtime_encoder": "VoxtralRealtimeFeatureExtractor",
    "wav2vec2-bert": "SeamlessM4TFeatureExtractor",
}

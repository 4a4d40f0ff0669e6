"""Mel features and pixels against the processors that networks were trained with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cinecube.features.networks.mel import fitted, kaldi_log_mel, tvlt_log_mel
from cinecube.features.networks.network import Checkpoint
from cinecube.features.networks.pixels import BICUBIC, HALF, IMAGENET, Pixels, cropped, read_pixels
from cinecube.store.base.errors import StudyError


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("samples", [400, 16000, 23840, 64000])
def test_kaldi_features_are_those_of_transformers(samples):
    from transformers import ASTFeatureExtractor

    rng = np.random.default_rng(samples)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / 16000)
    sound = (tone + rng.normal(0, 0.05, samples) + 0.1).astype(np.float32)
    n_frames = 1 + (samples - 400) // 160
    extractor = ASTFeatureExtractor(max_length=n_frames, do_normalize=False)
    expected = np.asarray(extractor(sound, sampling_rate=16000)["input_values"][0])
    found = kaldi_log_mel(np.stack([sound, 2 * sound]))
    assert found.shape == (2, n_frames, 128)
    np.testing.assert_allclose(found[0], expected, atol=2e-4)
    heard = found[0] > np.log(1e-6)
    np.testing.assert_allclose(found[1][heard], found[0][heard] + 2 * np.log(2), atol=2e-4)


def test_silence_and_sound_shorter_than_a_frame():
    silence = kaldi_log_mel(np.zeros((2, 560), np.float32))
    np.testing.assert_allclose(silence, np.log(np.finfo(np.float32).eps), atol=1e-5)
    assert kaldi_log_mel(np.zeros((2, 399), np.float32)).shape == (2, 0, 128)
    padded = fitted(silence, 4)
    assert (padded[:, 2:] == 0).all()
    np.testing.assert_array_equal(fitted(silence, 1), silence[:, :1])


def test_tvlt_features_of_silence_and_of_no_frame():
    assert (tvlt_log_mel(np.zeros((1, 8192), np.float32)) == -1).all()
    assert tvlt_log_mel(np.zeros((1, 100), np.float32)).shape[1] % 16 == 0


SIZES = [(360, 640), (640, 360), (97, 131), (224, 224), (225, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("processor", "options", "pixels", "crops"),
    [
        ("ViTImageProcessorPil", {}, Pixels((224, 224), mean=HALF[0], std=HALF[1]), False),
        ("VideoMAEImageProcessorPil", {}, Pixels(224, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1]), True),
        (
            "VivitImageProcessor",
            {},
            Pixels(256, crop=(224, 224), scale=1 / 127.5, offset=-1.0, mean=HALF[0], std=HALF[1]),
            True,
        ),
        (
            "CLIPImageProcessorPil",
            {"resample": BICUBIC, "size": {"shortest_edge": 100}, "crop_size": {"height": 90, "width": 80}},
            Pixels((224, 224)),
            False,
        ),
        ("ViTImageProcessorPil", {"do_normalize": False, "do_rescale": False}, Pixels((224, 224)), False),
        (
            "ViTImageProcessorPil",
            {"do_resize": False, "image_mean": [0.1, 0.2, 0.3]},
            Pixels((224, 224), std=HALF[1]),
            False,
        ),
    ],
)
def test_pixels_are_those_of_transformers(processor, options, pixels, crops, size):
    """Within one grey level."""
    import transformers

    theirs = getattr(transformers, processor)(**options)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    images = [rgb] if processor.startswith(("VideoMAE", "Vivit")) else rgb
    expected = np.asarray(theirs(images, return_tensors="np", input_data_format="channels_last")["pixel_values"])
    settings = theirs.to_dict() | {"size": dict(theirs.size) if theirs.do_resize else {"height": 1, "width": 1}}
    ours = read_pixels(Checkpoint("", {}, settings), pixels, default_crop=crops)
    found = ours.normalise(torch.from_numpy(ours.prepare(rgb).copy())).numpy()
    assert found.shape == expected.reshape(found.shape).shape
    grey_level = ours.scale / min(ours.std)
    assert np.abs(found - expected.reshape(found.shape)).max() <= 1.01 * grey_level
    assert np.abs(found - expected.reshape(found.shape)).mean() <= 0.01 * grey_level


def test_a_picture_smaller_than_its_crop_has_a_black_border():
    found = cropped(np.full((10, 20, 3), 255, np.uint8), 14, 12)
    assert found.shape == (14, 12, 3)
    assert (found[2:12] == 255).all()
    assert (found[:2] == 0).all()


def test_a_size_of_another_kind_is_refused():
    given = {"size": {"longest_edge": 800, "shortest_edge": 224}}
    with pytest.raises(StudyError, match="found an image size .*, expected {height, width} or {shortest_edge}"):
        read_pixels(Checkpoint("weights/x", {}, given), Pixels(224))

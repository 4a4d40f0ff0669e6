"""Golden values of ViT, VideoMAE, ViViT, wav2vec 2.0 and AST: what modules of our own computed from drawn weights.

Up to commit d72dfa2 this package had these architectures itself, in code that it shared with nobody. It agreed with
transformers 5.23.0 in every token of every layer, and cubes that it extracted keep their fingerprints. So these numbers
say what a version of each network in a fingerprint means, whatever a later transformers computes. In a checkout of that
commit, with its environment (a minute):

    .venv/bin/python tests/features/golden/make_presets.py

It was run with torch 2.13.0, numpy 2.4.6 and pillow 13.0.0, and writes `presets.npz` beside itself. `cases` there is
JSON, all that is needed to make the numbers again: by case the extractor, `config.json`, `preprocessor_config.json`,
each key of the checkpoint with its shape (as official checkpoints of that architecture name them, some under the prefix
of a task), and `std`: a weight is `drawing.draw(key, shape, std)`, one more for scales of norms that `draw` does not
know. `readings` lists how the window is read: changes of `Reading`, whose `window_s` is 0.5 and whose `streams` are all
layers, or those of `layers`. The window is `drawing.frames(n, 120, 160)` of as many frames as the case says, or
`drawing.sound(seconds × 16000, 16000)`; a second window is the first one backwards.

`<case>_<number of the reading>` is (layer, window, dim) float32.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import draw, frames, sound
from safetensors.torch import save_file

from cinecube.features import ast, videomae, vit, vivit, wav2vec2
from cinecube.features.network import Batch, Checkpoint, Reading, read_checkpoint
from cinecube.store.schema import Stream

HERE = Path(__file__).resolve().parent
NETWORKS: dict[str, tuple[Any, Any]] = {
    "vit": (vit, vit.VitNetwork),
    "videomae": (videomae, videomae.VideoMaeNetwork),
    "vivit": (vivit, vivit.VivitNetwork),
    "wav2vec2": (wav2vec2, wav2vec2.Wav2Vec2Network),
    "ast": (ast, ast.AstNetwork),
}
RENAMES = {"vivit": vit.rename}
TINY = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TINY_SOUND = TINY | {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
ALL_WAYS: list[dict[str, Any]] = [{}, {"untrained": 5}]
NORMED = [*ALL_WAYS, {"final_norm": True}]
CASES: dict[str, dict[str, Any]] = {
    "vit": {
        "config": TINY | {"image_size": 32},
        "processor": SQUARE,
        "frames": 3,
        "prefix": "vit.",
        "readings": NORMED,
    },
    "videomae": {
        "config": TINY | {"image_size": 32, "num_frames": 4, "use_mean_pooling": False},
        "processor": CROPPED,
        "frames": 4,
        "prefix": "videomae.",
        "readings": NORMED,
    },
    "vivit": {
        "config": TINY | {"image_size": 32, "num_frames": 4},
        "processor": CROPPED,
        "frames": 4,
        "prefix": "vivit.",
        "readings": [*NORMED, {"pooling": "cls"}],
    },
    "wav2vec2": {
        "config": TINY_SOUND,
        "processor": {},
        "seconds": 2,
        "prefix": "wav2vec2.",
        "readings": [*ALL_WAYS, {"context_s": 1.5}, {"context_s": 1.5, "pooling": "last"}],
    },
    "wav2vec2_large": {
        "config": TINY_SOUND
        | {"num_hidden_layers": 7, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
        "processor": {"do_normalize": False},
        "seconds": 2,
        "prefix": "",
        "readings": NORMED,
    },
    "ast": {
        "config": TINY | {"max_length": 256},
        "processor": {"max_length": 256},
        "seconds": 2,
        "prefix": "audio_spectrogram_transformer.",
        "readings": [*NORMED, {"context_s": 1.5}],
    },
}
FULL = {"vit": 1, "videomae": 16, "vivit": 32, "wav2vec2": 0, "ast": 0}
for name, n in FULL.items():
    CASES[f"{name}_full"] = {
        "config": {},
        "processor": {},
        **({"frames": n} if n else {"seconds": 4}),
        "prefix": "",
        "readings": [{"layers": ["embed", "block06", "block12"]}],
    }


def drawn(key: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    """A weight by its key without a prefix."""
    weight = draw(key, shape, std)
    return weight + np.float32(1) if "layer_norm" in key and key.endswith(".weight") else weight


def main() -> None:
    """Write the file."""
    torch.set_num_threads(2)
    golden: dict[str, Any] = {}
    for name, case in CASES.items():
        extractor = case["extractor"] = name.partition("_")[0]
        module, kind = NETWORKS[extractor]
        model_type = "audio-spectrogram-transformer" if extractor == "ast" else extractor
        case["config"], case["std"] = case["config"] | {"model_type": model_type}, 0.02 if "full" in name else 0.2
        with torch.device("meta"):
            network = kind(Checkpoint(Path(), case["config"], case["processor"]))
        rename, case["keys"] = RENAMES.get(extractor) or module.rename, {}
        for ours, value in network.state_dict().items():
            keys = rename(ours)
            keys = [keys] if isinstance(keys, str) else keys
            for key in keys:
                if key:
                    case["keys"][key] = [value.shape[0] // len(keys), *value.shape[1:]]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for file, values in (("config.json", case["config"]), ("preprocessor_config.json", case["processor"])):
                (folder / file).write_text(json.dumps(values))
            state = {
                key: torch.from_numpy(drawn(key, tuple(shape), case["std"])) for key, shape in case["keys"].items()
            }
            save_file({case["prefix"] + key: value for key, value in state.items()}, folder / "model.safetensors")
            facts = module.NETWORK.describe(read_checkpoint(folder, name))
            for number, changes in enumerate(case["readings"]):
                labels = changes.get("layers", facts.streams[0].layers)
                stream = Stream("", labels, facts.streams[0].widths[: len(labels)])
                given = {key: value for key, value in changes.items() if key != "layers"}
                reading = Reading(
                    (stream,), frames_per_window=case.get("frames", 0), rate_hz=facts.rate_hz, window_s=0.5, **given
                )
                extractor = module.NETWORK.load(folder, reading)
                found = extractor(batch(case, extractor))
                golden[f"{name}_{number}"] = np.stack([found["", label] for label in labels])
    np.savez_compressed(HERE / "presets.npz", cases=np.array(json.dumps(CASES)), **golden)


def batch(case: dict[str, Any], extractor: Any) -> Batch:
    """Two windows."""
    if "seconds" in case:
        heard = sound(16000 * case["seconds"], 16000)
        return Batch(sound=np.stack([heard, heard[::-1]]))
    shown = np.stack([extractor.prepare_frame(rgb) for rgb in frames(case["frames"], 120, 160)])
    return Batch(frames=np.stack([shown, shown[::-1]]))


if __name__ == "__main__":
    main()

"""A checkpoint's files before anything opens them: plain, of plausible sizes, naming no code and no other place."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cinecube.store.base.bounded import file_bytes, parse_json
from cinecube.store.base.errors import StudyError, environment_error

# The first pattern that a folder has files of: what transformers would read.
_WEIGHTS = (
    "model.safetensors",
    "model*.safetensors*",
    "*.safetensors",
    "pytorch_model.bin",
    "pytorch_model*.bin*",
    "*.pth",
    "*.ckpt",
)
# The largest on the hub have 2,000 tensors in 0.3 MB; the library itself would take 100 MB.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_INDEX_BYTES = 16 * 2**20
_MAX_TENSORS = 200_000

_LAYERS = re.compile(r"(layers|blocks|depths?)$")
_USUAL_PATCH = 16
_PICTURES = re.compile(r"(image_size|crop_size|patch_size|tubelet_size|num_frames|frames_per_clip|height|width|edge)$")
_SIZES = re.compile(
    r"(size|dims?|width|d_model|channels|heads|length|positions|embeddings|tokens|bins|kernel|stride|groups|rate)$"
)
_LIMITS = ((_LAYERS, 1000), (_PICTURES, 8192), (_SIZES, 4_000_000))
_MAX_WIDTH = 65_536
# Of blocks: the largest encoders have 2e10. Of a table with a row per patch: 64 frames of 1,024 pixels have 3e8.
_MAX_PARAMETERS, _MAX_PLACES = 10**11, 2**29
KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's weight files; safetensors before pickled ones. A path that is a file is its own."""
    if not folder.is_dir():
        return [folder]
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    return []


def check_weights(path: Path) -> int:
    """Look at a checkpoint's weight files without reading their tensors.

    Parameters
    ----------
    path : Path
        Its folder or weight file.

    Returns
    -------
    int
        Bytes of all of them.

    Raises
    ------
    StudyError
        If one is no plain file, declares more than it holds, unpacks to more, or an index names files elsewhere.
    """
    total = 0
    for file in weight_files(path):
        total += file_bytes(file)
        try:
            if file.name.endswith(".index.json"):
                _check_index(file)
            elif file.suffix == ".safetensors":
                _check_header(file)
            elif zipfile.is_zipfile(file):
                _check_archive(file)
        except (ValueError, OSError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            found = f"weights that cannot be read ({file.name}: {error})"
            raise environment_error(error, str(file)) or _strange(str(path), found, "whole ones") from None
    return total


def _strange(where: str, found: str, expected: str) -> StudyError:
    return StudyError(where=where, found=found, expected=expected, do="copy the checkpoint again, or name another one")


def _check_index(file: Path) -> None:
    file_bytes(file, limit=_MAX_INDEX_BYTES)
    names = set(parse_json(file.read_bytes())["weight_map"].values())
    strange = sorted(str(name) for name in names if not isinstance(name, str) or Path(name).name != name)
    if strange or ".." in names:
        raise ValueError(f"it names {(strange or ['..'])[0][:100]!r}, which is no file beside it")
    for name in names:
        file_bytes(file.with_name(name))


def _check_header(file: Path) -> None:
    """The header gives each tensor's place; the library checks that they neither overlap nor reach past the end."""
    n_bytes = file_bytes(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, n_bytes - 8):
            raise ValueError(f"a header of {length} bytes in a file of {n_bytes}")
        header = parse_json(opened.read(length))
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    if len(tensors) > _MAX_TENSORS:
        raise ValueError(f"{len(tensors)} tensors")
    for name, tensor in tensors.items():
        start, end = tensor["data_offsets"]
        if not 0 <= start <= end <= n_bytes - 8 - length or math.prod(tensor["shape"]) > 8 * (end - start):
            raise ValueError(f"{name[:100]} of shape {tensor['shape']} in bytes {start} to {end}")


def _check_archive(file: Path) -> None:
    """torch packs nothing, so that what an archive unpacks to is as long as the archive."""
    n_bytes = file_bytes(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if len(members) > _MAX_TENSORS:
        raise ValueError(f"{len(members)} members")
    unpacked = sum(member.file_size for member in members)
    if unpacked > n_bytes or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"compressed members that unpack to {unpacked} bytes")


def read_config(path: Path) -> Any:
    """A JSON file of a checkpoint.

    Raises
    ------
    StudyError
        If it is no plain file, or larger than any.
    ValueError
        If it is no JSON.
    """
    file_bytes(path, limit=_MAX_INDEX_BYTES)
    return parse_json(path.read_text(encoding="utf-8"))


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Refuse the configuration of a network that cannot be built, before it is built.

    Parameters
    ----------
    config : Mapping
        `config.json`.
    where : str
        The checkpoint, for messages.

    Raises
    ------
    StudyError
        Naming the key.
    """
    for key, value in _numbers(config):
        limit = next((limit for pattern, limit in _LIMITS if pattern.search(key)), None)
        limit = _MAX_WIDTH if key in ("hidden_size", "d_model", "embed_dim") else limit
        if limit is not None and not 0 <= value <= limit:
            raise _strange(where, f"{key} {value:.10g}", f"a number from 0 to {limit}")
    for part in _parts(config):
        for key in ("hidden_size", "d_model", "embed_dim", "num_hidden_layers", "encoder_layers", "num_layers"):
            if isinstance(part.get(key), str | dict | bool | float):
                raise _strange(where, f"{key} {json.dumps(part[key])[:80]}", "a whole number")
        for key in KERNELS:
            if isinstance(part.get(key), str) and not part[key].isidentifier():
                raise _strange(where, f"{key} {part[key][:80]!r}, a program on the hub", "one of transformers' own")
        width = max((_int(part, key) for key in ("hidden_size", "d_model", "embed_dim")), default=0)
        blocks = max(_int(part, key) for key in ("num_hidden_layers", "encoder_layers", "num_layers"))
        if 4 * blocks * max(width, _int(part, "intermediate_size")) * width > _MAX_PARAMETERS:
            raise _strange(where, f"{blocks} blocks of width {width}", f"at most {_MAX_PARAMETERS:.0e} weights")
        patch = _patch(part)
        places = (_int(part, "image_size") // patch) ** 2 * max(1, _int(part, "num_frames"))
        if places * max(1, width) > _MAX_PLACES:
            raise _strange(where, f"{places} patches of width {width}", f"at most {_MAX_PLACES} numbers in them")


def _patch(part: Mapping[str, Any]) -> int:
    """Edge of a patch in pixels; 16, the usual one, where nothing is said."""
    for key in ("patch_size", "tubelet_size"):
        value = part.get(key)
        edge = value[-1] if isinstance(value, list) and value else value
        if isinstance(edge, int) and not isinstance(edge, bool) and edge > 0:
            return edge
    return _USUAL_PATCH


def _int(part: Mapping[str, Any], key: str) -> int:
    value = part.get(key)
    if isinstance(value, list):
        value = max((one for one in value if isinstance(one, int)), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and those inside it."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _parts(value)


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """All numbers by their keys, those in lists too; labels of classes are left out."""
    for key, value in config.items():
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            yield from _numbers(value)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield key, one

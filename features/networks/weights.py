"""Weights of a checkpoint into a network of our own: read by key, renamed, checked, or drawn afresh."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cinecube.features.networks.checkpoint_files import check_weights, weight_files
from cinecube.features.networks.network import Reading
from cinecube.store.base.errors import StudyError, environment_error, first_line, some_of

Rename = Callable[[str], str | Sequence[str]]
"""Our parameter's name to the checkpoint's, or to several that ours holds one after another."""

_INITIAL_STD = 0.02
_Net = TypeVar("_Net", bound=nn.Module)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(make: Callable[[], _Net], path: Path, rename: Rename, reading: Reading) -> _Net:
    """Make a network, fill it from a checkpoint or by a seed, and put it where it computes.

    Parameters
    ----------
    make : callable
        Makes the network; it is called where tensors have no memory, so that nothing is drawn to be overwritten.
    path : Path
        A checkpoint's folder or weight file.
    rename : callable
        The checkpoint's key of each parameter.
    reading : Reading
        Seed of an untrained twin, precision and device.

    Returns
    -------
    Module
        Of the class that `make` returns, in evaluation mode.

    Raises
    ------
    StudyError
        If weights are missing, unreadable or of another shape.
    """
    torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa would make a GPU's cube differ from a CPU's
    with torch.device("meta"):
        network = make()
    if reading.untrained is None:
        state = match_weights(network, read_weights(path), rename, str(path))
    else:
        state = draw_weights(network, reading.untrained)
    network.load_state_dict(state, assign=True)
    return placed(network, reading)


def placed(network: _Net, reading: Reading) -> _Net:
    """Put a network where it computes, in the precision that is asked for.

    Parameters
    ----------
    network : Module
    reading : Reading
        Precision and device.

    Returns
    -------
    Module
        The same, in evaluation mode and without gradients.
    """
    network = network.eval().requires_grad_(False).to(reading.device, PRECISIONS[reading.precision])
    if reading.precision != "float32" and torch.device(reading.device).type == "cpu":
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups > 1:
                # oneDNN's bfloat16 for Intel's AMX returns other numbers where groups have few channels (torch 2.13).
                vars(module)["_conv_forward"] = partial(_in_float32, module._conv_forward)
    return network


def _in_float32(convolve: Callable[..., Tensor], values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolve(values.float(), weight.float(), None if bias is None else bias.float()).to(values.dtype)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's folder or file by key, mapped rather than loaded where the format allows.

    Raises
    ------
    StudyError
        If there are none, or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    files = weight_files(path)
    if not files:
        raise unreadable_weights(str(path), "no weights")
    check_weights(path)
    for file in files:
        if file.name.endswith(".index.json"):
            continue
        try:
            tensors.update(_read_file(file))
        except Exception as error:  # each way in which a file can be broken raises a class of its own
            refused, found = environment_error(error, str(file)), f"{file.name}: {first_line(error)}"
            raise refused or unreadable_weights(str(path), f"weights that cannot be read ({found})") from error
    index = next((file for file in files if file.name.endswith(".index.json")), None)
    if index is not None:
        absent = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) - set(tensors))
        if absent:
            raise unreadable_weights(str(path), f"no {absent[0]}, which {index.name} names")
    return tensors


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zipped(file))
    for key in ("state_dict", "model"):  # what training scripts wrap weights in
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def _is_zipped(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor], rename: Rename, where: str) -> dict[str, Tensor]:
    """A network's state from a checkpoint's tensors.

    Parameters
    ----------
    network : nn.Module
        Its parameters' names and shapes count.
    tensors : Mapping of str to Tensor
        By the checkpoint's keys, with or without a prefix before all of them (`vit.`, `model.encoder.`, …).
    rename : callable
        The checkpoint's key of each parameter.
    where : str
        The checkpoint, for messages.

    Returns
    -------
    dict of str to Tensor
        By the network's names, float32.

    Raises
    ------
    StudyError
        If a key is missing or a shape differs.
    """
    wanted = {name: _keys(rename(name)) for name in network.state_dict()}
    tensors = without_prefix(tensors, *(key for keys in wanted.values() for key in keys))
    missing = sorted(key for keys in wanted.values() for key in keys if key not in tensors)
    if missing:
        raise unreadable_weights(where, f"no {some_of(missing)}")
    state = {}
    for name, parameter in network.state_dict().items():
        parts = [tensors[key] for key in wanted[name]]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        if value.shape != parameter.shape:
            raise unreadable_weights(
                where,
                f"{wanted[name][0]} of shape {tuple(value.shape)} (config.json says {tuple(parameter.shape)})",
            )
        state[name] = value.float()
    return state


def _keys(keys: str | Sequence[str]) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys)


def without_prefix(tensors: Mapping[str, Tensor], *wanted: str) -> dict[str, Tensor]:
    """Tensors of an encoder by the keys of its own file, out of one of a task's whole network too.

    Parameters
    ----------
    tensors : Mapping of str to Tensor
        By the checkpoint's keys, with or without a prefix before all of them (`vit.`, `model.encoder.`, …).
    *wanted : str
        Keys of the encoder's own file.

    Returns
    -------
    dict of str to Tensor
    """
    if any(key in tensors for key in wanted):
        return dict(tensors)
    found = [name.removesuffix(wanted[0]) for name in tensors if name.endswith("." + wanted[0])]
    prefix = min(found, key=len, default="")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def draw_weights(network: nn.Module, seed: int, order: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Fresh weights: truncated normals of std 0.02, kernels of sound by their fan-in, norms and biases neutral.

    All are drawn one after another from one generator, so that a seed names one network.

    Parameters
    ----------
    network : nn.Module
        Its parameters' names and shapes count.
    seed : int
    order : sequence of str, optional
        Names of all parameters in the order in which they are drawn; by default their own.

    Returns
    -------
    dict of str to Tensor
        By the network's names, float32.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = network.state_dict()
    state = {}
    for name in order or shapes:
        value = torch.empty(shapes[name].shape, dtype=torch.float32)
        if value.ndim < 2:
            value.fill_(1.0 if name.endswith(".weight") else 0.0)  # weights of one axis are those of norms
        elif value.ndim == 3 and "conv_layers" in name:
            # Convolutions over samples have no norm behind each of them: He et al. 2015 keeps the signal's size.
            value.normal_(std=math.sqrt(2 / math.prod(value.shape[1:])), generator=generator)
        else:
            nn.init.trunc_normal_(value, std=_INITIAL_STD, generator=generator)
        state[name] = value
    settle = getattr(network, "settle", None)
    if callable(settle):
        settle(state)
    return state


def unreadable_weights(where: str, found: str) -> StudyError:
    """Error for a checkpoint whose weights cannot be used.

    Parameters
    ----------
    where : str
        The checkpoint.
    found : str
        As in `StudyError`.

    Returns
    -------
    StudyError
    """
    return StudyError(where=where, found=found, expected="all weights of the network", do="copy the checkpoint again")

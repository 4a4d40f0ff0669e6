"""Networks of transformers from a checkpoint's files: by the library's classes, without a connection or other code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from cinecube.features.networks.checkpoint_files import KERNELS
from cinecube.features.networks.network import Checkpoint, Reading
from cinecube.features.networks.weights import (
    draw_weights,
    placed,
    read_weights,
    unreadable_weights,
    without_prefix,
)
from cinecube.store.base.errors import StudyError, environment_error, first_line, some_of

# Modules whose output no layer reads: a checkpoint may lack them. The norm is read where a study asks for it.
_UNREAD, _NORM = ("pooler.", "masked_spec_embed", "fc_norm."), "layernorm."
_LENGTH, _DIRECTION = (f".parametrizations.weight.original{part}" for part in (0, 1))
_PROJECTED = re.compile(r"[qkv](?=_proj\.)")
# The library computes these in ten passes over memory, and the same function by that name in one.
_TANH_GELUS = ("gelu_fast", "gelu_new")
# What a configuration says of its author's machine or wishes, not of the network.
_NOT_OF_THE_NETWORK = (*KERNELS, "output_attentions", "output_hidden_states")


def unfit(checkpoint: Checkpoint, found: str, expected: str) -> StudyError:
    """Error for a checkpoint that the classes of transformers cannot read.

    Parameters
    ----------
    checkpoint : Checkpoint
    found, expected : str
        As in `StudyError`.

    Returns
    -------
    StudyError
    """
    return StudyError(
        where=str(checkpoint.path),
        found=found,
        expected=expected,
        do="register an extractor of your own (docs/reference/networks.md)",
    )


def library_config(checkpoint: Checkpoint) -> Any:
    """A checkpoint's configuration as transformers has it, with what the file leaves out.

    It is made of the values that were looked at: the library itself would follow a file to others beside it.

    Raises
    ------
    StudyError
        If the library has no such network, or not with these values.
    """
    from transformers import CONFIG_MAPPING

    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        found = f"model_type {str(model_type)[:80]!r}" if model_type else "no model_type in config.json"
        raise unfit(checkpoint, found, "a network that the installed transformers has")
    values = {key: value for key, value in checkpoint.config.items() if key not in _NOT_OF_THE_NETWORK}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # a class of its own for each way in which a configuration can be wrong
        found = f"a configuration that cannot be read ({first_line(error)})"
        raise unfit(checkpoint, found, "one of transformers") from error
    if getattr(config, "hidden_act", None) in _TANH_GELUS:
        config.hidden_act = "gelu_pytorch_tanh"
    return config


def load_network(checkpoint: Checkpoint, reading: Reading, anchor: str | None = None) -> Any:
    """Load a network for inference, or make an untrained twin of it.

    Parameters
    ----------
    checkpoint : Checkpoint
        A folder as `save_pretrained` writes it, or a weight file beside its configuration.
    reading : Reading
        Seed of an untrained twin, precision and device, and whether the norm after the last block is read.
    anchor : str, optional
        A key of the encoder's own file. The prefix before it in a file of a larger network is taken from all keys;
        by default the library knows only its own prefixes. Untrained twins of networks with an anchor are drawn by
        `draw_weights`, the others as the library draws weights.

    Returns
    -------
    Module
        Of transformers, placed on the device.

    Raises
    ------
    StudyError
        If the configuration is none of transformers, or weights are missing, unreadable or of another shape.
    """
    torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa would make a GPU's cube differ from a CPU's
    # Construction draws numbers, also of what no layer reads.
    with quiet(), torch.random.fork_rng(devices=[]):
        config = library_config(checkpoint)
        try:
            if reading.untrained is None:
                network = _with_weights(config, checkpoint, reading, anchor)
            elif anchor is None:
                network = _untrained(config, reading.untrained)
            else:
                network = _drawn(config, reading.untrained)
        except StudyError:
            raise
        except Exception as error:  # each way in which numbers may not fit together raises a class of its own
            where = str(checkpoint.path)
            found = f"a network that cannot be made ({first_line(error)})"
            raise environment_error(error, where) or unreadable_weights(where, found) from error
    return placed(network, reading)


def _architecture(config: Any) -> Any:
    """The class of a configuration's encoder, without a head."""
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)]


def _untrained(config: Any, seed: int) -> Any:
    from transformers import AutoModel

    torch.manual_seed(seed)
    return AutoModel.from_config(config, trust_remote_code=False).float()


def _drawn(config: Any, seed: int) -> Any:
    with torch.device("meta"):  # nothing is drawn to be overwritten
        network = _architecture(config)(config)
    state = draw_weights(network, seed, _draw_order(list(network.state_dict())))
    for length in [name for name in state if name.endswith(_LENGTH)]:
        direction = state[length.removesuffix(_LENGTH) + _DIRECTION]
        shared = [axis for axis, size in enumerate(state[length].shape) if size == 1]
        state[length] = direction.norm(dim=shared, keepdim=True)
    network.load_state_dict(state, assign=True)
    return network


def _draw_order(names: Sequence[str]) -> list[str]:
    """Names in the order of versions that had these networks themselves, so that a seed still means the same weights.

    A weight in two parts (Salimans & Kingma 2016) before all others, its direction first; queries, keys, then values.
    """
    together = [_PROJECTED.sub("", name) for name in names]

    def turn(name: str) -> tuple[bool, int, int]:
        place, projected = together.index(_PROJECTED.sub("", name)), _PROJECTED.search(name)
        in_parts = name.endswith((_DIRECTION, _LENGTH))
        return not in_parts, -place if in_parts else place, "qkv".index(projected[0]) if projected else 0

    return sorted(names, key=turn)


def _with_weights(config: Any, checkpoint: Checkpoint, reading: Reading, anchor: str | None) -> Any:
    where, tensors = str(checkpoint.path), read_weights(checkpoint.path)
    network, info = _architecture(config).from_pretrained(
        None,
        config=config,
        state_dict=tensors if anchor is None else without_prefix(tensors, anchor),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # which it would report in several lines
        output_loading_info=True,
    )
    unread = _UNREAD if reading.final_norm else (*_UNREAD, _NORM)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unread))
    if missing:
        # transformers would go on with random numbers there.
        raise unreadable_weights(where, f"no {some_of(missing)}")
    for key, held, wanted in sorted(info["mismatched_keys"]):
        if not key.startswith(unread):
            raise unreadable_weights(where, f"{key} of shape {tuple(held)} (config.json says {tuple(wanted)})")
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal: what matters of them is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

"""Loading transformers networks from a folder, without a network connection and without remote code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cinecube.store.errors import StudyError

# Modules whose output no layer reads: a checkpoint may lack them.
_UNREAD = ("layernorm.", "pooler.", "masked_spec_embed", "fc_norm.")


def load_network(model_class: Any, folder: Path, untrained: int | None, device: str, **options: Any) -> nn.Module:
    """Load a network in float32 for inference, or make an untrained twin of it.

    Parameters
    ----------
    model_class : type
        A transformers model class.
    folder : Path
        As `save_pretrained` writes it.
    untrained : int or None
        Seed of fresh weights instead of the checkpoint's.
    device : str
        Where it computes.
    **options
        Further arguments of the model class.

    Raises
    ------
    StudyError
        If the weights are missing, unreadable or incomplete.
    """
    torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa would tell a GPU's cube from a CPU's
    with _quiet():
        if untrained is None:
            network = _with_weights(model_class, folder, options)
        else:
            config = model_class.config_class.from_pretrained(folder, local_files_only=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(untrained)
                network = model_class(config, **options)
    network = network.float().eval().requires_grad_(False).to(device)
    assert isinstance(network, nn.Module)
    return network


def _with_weights(model_class: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        network, info = model_class.from_pretrained(
            folder,
            local_files_only=True,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # each way in which a file can be broken raises a class of its own
        raise _unreadable(folder, f"weights that cannot be read ({_first_line(error)})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNREAD))
    if missing:
        # transformers would go on with random numbers there.
        raise _unreadable(folder, f"no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    return network


def _unreadable(folder: Path, found: str) -> StudyError:
    return StudyError(
        where=str(folder), found=found, expected="all weights of the network", do="copy the checkpoint again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
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

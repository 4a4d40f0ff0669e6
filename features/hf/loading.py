"""Loading networks of transformers from a folder, without a network connection and without remote code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cinecube.features.networks.checkpoint_files import check_weights
from cinecube.features.networks.network import Reading
from cinecube.features.networks.weights import PRECISIONS, unreadable
from cinecube.store.base.errors import environment_error, first_line

# Modules whose output no layer reads: a checkpoint may lack them.
_UNREAD = ("layernorm.", "pooler.", "masked_spec_embed", "fc_norm.")


def load_network(path: Path, reading: Reading) -> Any:
    """Load a network for inference, or make an untrained twin of it.

    Parameters
    ----------
    path : Path
        A folder as `save_pretrained` writes it.
    reading : Reading
        Seed of an untrained twin, precision and device.

    Raises
    ------
    StudyError
        If the weights are missing, unreadable or incomplete.
    """
    torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa would tell a GPU's cube from a CPU's
    with quiet():
        network = _with_weights(path) if reading.untrained is None else _untrained(path, reading.untrained)
    return network.eval().requires_grad_(False).to(reading.device, PRECISIONS[reading.precision])


def _untrained(path: Path, seed: int) -> Any:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModel.from_config(config, trust_remote_code=False).float()


def _with_weights(path: Path) -> Any:
    from transformers import AutoModel

    check_weights(path)
    try:
        network, info = AutoModel.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # each way in which a file can be broken raises a class of its own
        refused = environment_error(error, str(path))
        raise refused or unreadable(str(path), f"weights that cannot be read ({first_line(error)})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNREAD))
    if missing:
        # transformers would go on with random numbers there.
        raise unreadable(str(path), f"no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
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

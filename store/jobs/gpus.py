"""GPUs of this machine, as CUDA numbers them."""

from __future__ import annotations

import os

from cinecube.store.params.run_params import Gpus


def gpu_names(asked: Gpus) -> list[str]:
    """GPUs as CUDA names them; of all, those that a batch system has left to this process.

    Parameters
    ----------
    asked : Gpus
    """
    if asked.gpus != "all":
        return [str(number) for number in asked.gpus]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]

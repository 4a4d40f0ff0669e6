"""Finding a network by the name that `extractor` has in `params.yaml`."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points

from cinecube.features.networks.network import Network
from cinecube.store.base.errors import StudyError

GROUP = "cinecube.extractors"
BUILT_IN = {
    "vit": "cinecube.features.architectures.vit",
    "videomae": "cinecube.features.architectures.videomae",
    "vivit": "cinecube.features.architectures.vivit",
    "wav2vec2": "cinecube.features.architectures.wav2vec2",
    "ast": "cinecube.features.architectures.ast",
    "imagebind": "cinecube.features.architectures.imagebind",
    "tvlt": "cinecube.features.architectures.tvlt",
    "hf": "cinecube.features.hf.hf",
}


def find_network(extractor: str, where: str) -> Network:
    """The network of that name, built in or registered by an installed package.

    Parameters
    ----------
    extractor : str
        Its name.
    where : str
        Who asks, for messages.

    Raises
    ------
    StudyError
        If there is none.
    """
    if extractor in BUILT_IN:
        network: Network = import_module(BUILT_IN[extractor]).NETWORK
        return network
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if extractor in registered:
        loaded: Network = registered[extractor].load()
        return loaded
    known = sorted({*BUILT_IN, *registered})
    close = difflib.get_close_matches(extractor, known, n=1)
    raise StudyError(
        where=where,
        found=f"an unknown extractor {extractor!r}",
        expected=f"one of {', '.join(known)}",
        do=f"did you mean {close[0]!r}?" if close else "correct it, or install the package that brings it",
    )

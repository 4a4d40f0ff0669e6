"""Finding a network by the name that `extractor` has in `params.yaml`."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from cinecube.features.networks.network import Network
from cinecube.store.base.errors import StudyError

GROUP = "cinecube.extractors"
BUILT_IN = {
    "vit": "cinecube.features.architectures.presets:VIT",
    "videomae": "cinecube.features.architectures.presets:VIDEOMAE",
    "vivit": "cinecube.features.architectures.presets:VIVIT",
    "wav2vec2": "cinecube.features.architectures.presets:WAV2VEC2",
    "ast": "cinecube.features.architectures.presets:AST",
    "imagebind": "cinecube.features.architectures.imagebind:NETWORK",
    "tvlt": "cinecube.features.architectures.tvlt:NETWORK",
    "hf": "cinecube.features.hf.hf_trial:NETWORK",
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
    known = {name: EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    if extractor not in known:
        known |= {entry.name: entry for entry in entry_points(group=GROUP)}
    if extractor in known:
        network: Network = known[extractor].load()
        return network
    close = difflib.get_close_matches(extractor, known, n=1)
    raise StudyError(
        where=where,
        found=f"an unknown extractor {extractor!r}",
        expected=f"one of {', '.join(sorted(known))}",
        do=f"did you mean {close[0]!r}?" if close else "correct it, or install the package that brings it",
    )

"""Finding a network by the name that `extractor` has in `params.yaml`."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import one_of, suggestion

if TYPE_CHECKING:
    from cinecube.features.networks.network import Network

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

    Returns
    -------
    Network

    Raises
    ------
    StudyError
        If there is none.
    """
    network: Network = _find(extractor, where).load()
    return network


def network_version(extractor: str, where: str) -> int:
    """The `version` of the network of that name, read off its file: to import that takes seconds, and torch.

    Parameters
    ----------
    extractor, where
        See `find_network`.

    Returns
    -------
    int

    Raises
    ------
    StudyError
        If there is none.
    """
    entry = _find(extractor, where)
    written = _written_version(entry)
    return find_network(extractor, where).version if written is None else written


def _find(extractor: str, where: str) -> EntryPoint:
    known = {name: EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    if extractor not in known:
        known |= {entry.name: entry for entry in entry_points(group=GROUP)}
    if extractor in known:
        return known[extractor]
    raise StudyError(
        where=where,
        found=f"an unknown extractor {extractor!r}",
        expected=one_of(sorted(known), extractor),
        do=suggestion(extractor, known) or "correct it, or install the package that brings it",
    )


def _written_version(entry: EntryPoint) -> int | None:
    """The first argument of `NETWORK = Network(2, …)`, or `version=2`, or a name that the file gives a number.

    None where a file says it otherwise.
    """
    spec = find_spec(entry.module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    assigned = {
        target.id: node.value
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and node.value is not None
    }
    value = assigned.get(entry.attr)
    if not isinstance(value, ast.Call) or ast.unparse(value.func).split(".")[-1] != "Network":
        return None
    given = [*value.args[:1], *(word.value for word in value.keywords if word.arg == "version")]
    number = given[0] if given else None
    if isinstance(number, ast.Name):
        number = assigned.get(number.id)
    return number.value if isinstance(number, ast.Constant) and type(number.value) is int else None

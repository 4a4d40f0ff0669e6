"""Cubes that the journals of a study belong to: those that it still asks for, or of earlier parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cinecube.status import specs
from cinecube.status.specs import Spec
from cinecube.status.versions import differing
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.fingerprint import differences, file_digest, fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean.leftovers import Claim
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study

# Fields that are named at most of what a study asks for instead.
_NAMED = 3

Compared = tuple[Sequence[str], Mapping[Path, str]]
"""Where a journal's spec and what the study asks for differ, and the cubes it asks for, with their fingerprints."""
Sought = tuple[str, str, Mapping[str, Callable[[], Compared]]]
"""What a journal is of, what the study lacks if it names nothing like it, and by name what it may be of the study's."""


class Claims:
    """Decides whether a study still asks for the cube of a journal's spec.

    What cannot be computed (a film or a cube is missing) counts as asked for.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """

    def __init__(self, study: Study, root: Path) -> None:
        self._study, self._root, self._paths = study, root, StudyPaths(root)

    def __call__(self, spec: Spec) -> Claim:
        """The claim of the study on a journal of this spec."""
        kinds: dict[str, Callable[[Spec], Sought]] = {
            "features": self._features,
            "scores": self._scores,
            "ceiling": self._ceiling,
            "partition": self._partition,
            "residual": self._residual,
        }
        kind = "residual" if "films" in spec and "kind" not in spec else str(spec.get("kind"))
        if kind not in kinds:
            return Claim("an unknown kind of journal", None)
        name, absent, candidates = kinds[kind](spec)
        cubes: dict[Path, str] = {}
        nearest: list[tuple[int, str, str]] = []
        for candidate, compare in candidates.items():
            try:
                changed, asked = compare()
            except (StudyError, OSError):
                return Claim(candidate, None)
            cubes |= {} if changed else asked
            nearest.append((len(changed), candidate, some_of(changed, _NAMED, "; ")))
        _, name, changes = min(nearest, default=(0, name, absent))
        return Claim(name, cubes, "" if cubes else changes)

    def _features(self, spec: Spec) -> Sought:
        names = list(spec.get("segments", []))
        candidates = {
            f"{model} {film}": partial(self._compare_features, spec, model, film)
            for model, params in self._study.models.items()
            for film, segments in self._study.films.items()
            if params.extractor == spec.get("extractor") and set(segments) & set(names)
        }
        return f"{spec.get('extractor')} of {', '.join(names)}", "params.yaml names no such model and film", candidates

    def _compare_features(self, spec: Spec, model: str, film: str) -> Compared:
        from cinecube.features.extraction.record import read_record
        from cinecube.features.extraction.spec import make_spec
        from cinecube.features.films.probed import choices_of
        from cinecube.features.films.stimuli import find_segments

        digests, record = spec.get("stimulus", {}), read_record(self._study, model, self._root)
        stimulus = {segment: str(digests.get(segment)) for segment in self._study.films[film]}
        wanted = make_spec(self._study, model, record, stimulus, spec.get("read", {}))
        changed = differences(spec, wanted)
        if not changed:  # films are large: one is hashed only if all else is as the study asks for
            files = find_segments(self._study, film, self._root).items()
            changed = [f"{name} is another film by now" for name, path in files if file_digest(path) != stimulus[name]]
        if not changed:
            read = {name: choices_of(path, self._root, stimulus[name]) for name, path in files}
            wanted = make_spec(self._study, model, record, stimulus, read)
            changed = differences(spec, wanted)
        return changed, {self._paths.features(model, film): fingerprint(wanted)}

    def _scores(self, spec: Spec) -> Sought:
        streams = [str(stream) for stream in spec.get("models", [])]
        known = [*self._study.known_models, *(pair.name for pair in self._study.residual)]
        candidates = {
            f"scores of {name}": _cube(spec, self._paths.scores(name), specs.of_scores, self._study, self._root, name)
            for name in known
            if any(stream == name or stream.startswith(f"{name}.") for stream in streams)
        }
        return f"scores of {', '.join(streams)}", "params.yaml names no such model", candidates

    def _ceiling(self, spec: Spec) -> Sought:
        return "ceilings", "", {"ceilings": _cube(spec, self._paths.ceiling, specs.of_ceiling, self._study, self._root)}

    def _partition(self, spec: Spec) -> Sought:
        found = _cube(spec, self._paths.partition, specs.of_partition, self._study, self._root)
        return "partition", "params.yaml names no sets", {"partition": found} if self._study.partition else {}

    def _residual(self, spec: Spec) -> Sought:
        one: Spec = next(iter(spec["films"].values()), {})

        def compare(pair: Pair) -> Compared:
            wanted = specs.of_residual(self._study, self._root, pair)
            places = {self._paths.residual(pair.name, film): fingerprint(each) for film, each in wanted.items()}
            return differences(spec["films"], wanted), places

        candidates = {
            f"residual {pair.name}": partial(compare, pair)
            for pair in self._study.residual
            if (pair.keep, pair.remove) == (one.get("keep"), one.get("remove"))
        }
        name = f"residual of {one.get('keep')} and {one.get('remove')}"
        return name, "params.yaml names no such pair", candidates


def _cube(spec: Spec, path: Path, make: Callable[..., Spec], *arguments: object) -> Callable[[], Compared]:
    """Compare a journal's spec with that of one cube, once asked to."""

    def compare() -> Compared:
        wanted = make(*arguments)
        return differing(spec, wanted), {path: fingerprint(wanted)}

    return compare

"""Cubes that the journals of a study belong to: those that it still asks for, or of earlier parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from cinecube.status import specs
from cinecube.status.specs import Spec
from cinecube.status.versions import differing
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences, file_digest, fingerprint
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean.leftovers import Claim
from cinecube.store.params.document import Study

# Fields that are named at most of what a study asks for instead.
_NAMED = 3


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
        if "films" in spec and "kind" not in spec:
            return self._residual(spec)
        judges: dict[str, Callable[[Spec], Claim]] = {
            "features": self._features,
            "scores": self._scores,
            "ceiling": self._ceiling,
            "partition": self._partition,
        }
        judge = judges.get(str(spec.get("kind")))
        return judge(spec) if judge else Claim("an unknown kind of journal", None)

    def _features(self, spec: Spec) -> Claim:
        from cinecube.features.extraction.record import read_record
        from cinecube.features.extraction.spec import make_spec
        from cinecube.features.films.probed import choices_of

        names, digests = list(spec.get("segments", [])), spec.get("stimulus", {})
        candidates = [
            (model, film)
            for model, params in self._study.models.items()
            for film, segments in self._study.films.items()
            if params.extractor == spec.get("extractor") and set(segments) & set(names)
        ]
        asked = _Asked()
        for model, film in candidates:
            stimulus = {segment: str(digests.get(segment)) for segment in self._study.films[film]}
            try:
                record, read = read_record(self._study, model, self._root), spec.get("read", {})
                wanted = make_spec(self._study, model, record, stimulus, read)
                # Films are large: one is hashed only if all else is as the study asks for.
                changed = differences(spec, wanted) or self._changed_segments(film, stimulus)
                if not changed:
                    found = {name: choices_of(path, self._root, stimulus[name]) for name, path in self._files(film)}
                    wanted = make_spec(self._study, model, record, stimulus, found)
                    changed = differences(spec, wanted)
            except (StudyError, OSError):
                return Claim(f"{model} {film}", None)
            asked.add(f"{model} {film}", changed, {self._paths.features(model, film): fingerprint(wanted)})
        unknown = f"{spec.get('extractor')} of {', '.join(names)}"
        return asked.claim(unknown, "params.yaml names no such model and film")

    def _changed_segments(self, film: str, stimulus: Mapping[str, str]) -> list[str]:
        files = self._files(film)
        return [f"{name} is another film by now" for name, path in files if file_digest(path) != stimulus[name]]

    def _files(self, film: str) -> Iterable[tuple[str, Path]]:
        from cinecube.features.films.stimuli import find_segments

        return find_segments(self._study, film, self._root).items()

    def _scores(self, spec: Spec) -> Claim:
        streams = [str(stream) for stream in spec.get("models", [])]
        known = [*self._study.known_models, *(pair.name for pair in self._study.residual)]
        asked = _Asked()
        for name in known:
            if any(stream == name or stream.startswith(f"{name}.") for stream in streams):
                try:
                    wanted = specs.of_scores(self._study, self._root, name)
                except (StudyError, OSError):
                    return Claim(f"scores of {name}", None)
                place = {self._paths.scores(name): fingerprint(wanted)}
                asked.add(f"scores of {name}", differing(spec, wanted), place)
        return asked.claim(f"scores of {', '.join(streams)}", "params.yaml names no such model")

    def _ceiling(self, spec: Spec) -> Claim:
        try:
            wanted = specs.of_ceiling(self._study, self._root)
        except (StudyError, OSError):
            return Claim("ceilings", None)
        asked = _Asked()
        asked.add("ceilings", differing(spec, wanted), {self._paths.ceiling: fingerprint(wanted)})
        return asked.claim("ceilings", "")

    def _partition(self, spec: Spec) -> Claim:
        asked = _Asked()
        if self._study.partition:
            try:
                wanted = specs.of_partition(self._study, self._root)
            except (StudyError, OSError):
                return Claim("partition", None)
            asked.add("partition", differing(spec, wanted), {self._paths.partition: fingerprint(wanted)})
        return asked.claim("partition", "params.yaml names no sets")

    def _residual(self, spec: Spec) -> Claim:
        films = spec["films"]
        one: Spec = next(iter(films.values()), {})
        asked = _Asked()
        for pair in self._study.residual:
            if (pair.keep, pair.remove) == (one.get("keep"), one.get("remove")):
                try:
                    wanted = specs.of_residual(self._study, self._root, pair)
                except (StudyError, OSError):
                    return Claim(f"residual {pair.name}", None)
                places = {self._paths.residual(pair.name, film): fingerprint(each) for film, each in wanted.items()}
                asked.add(f"residual {pair.name}", differences(films, wanted), places)
        return asked.claim(f"residual of {one.get('keep')} and {one.get('remove')}", "params.yaml names no such pair")


class _Asked:
    """The study's own spec that is nearest to a given one."""

    def __init__(self) -> None:
        self._cubes: dict[Path, str] = {}
        self._nearest: tuple[int, str, str] | None = None

    def add(self, name: str, changed: Iterable[str], cubes: Mapping[Path, str]) -> None:
        """One thing that it asks for, and the fields in which that differs from the spec."""
        lines = list(changed)
        if not lines:
            self._cubes |= cubes
        more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        near = (len(lines), name, "; ".join(lines[:_NAMED]) + more)
        self._nearest = near if self._nearest is None else min(self._nearest, near)

    def claim(self, name: str, nothing: str) -> Claim:
        """The claim on the spec; `name` and `nothing` where the study asks for nothing near it."""
        _, name, changed = self._nearest or (0, name, nothing)
        return Claim(name, self._cubes, "" if self._cubes else changed)

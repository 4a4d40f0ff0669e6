"""Paths of a study's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PARAMS_FILE = "params.yaml"
SCHEMA_FILE = "params.schema.json"
"""Beside `params.yaml`, whose first line names it: editors complete keys by it and check their values."""
METRICS_FILE = "results/metrics.json"
VERSIONS_FILE = "data/versions.json"
INPUTS_FOLDER = "data/inputs"
CONTENTS_FILE = "data/contents.json"
LAYERS_FILE = "results/partition_layers.json"


@dataclass(frozen=True)
class StudyPaths:
    """The files of the study in folder `root`."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def films(self) -> Path:
        return self.data / "films.csv"

    @property
    def versions(self) -> Path:
        """Versions of the code that computes, which the stage `inputs` writes for others to depend on."""
        return self.root / VERSIONS_FILE

    @property
    def contents(self) -> Path:
        """Digests of the feature cubes, which the stage `contents` writes for analyses to depend on."""
        return self.root / CONTENTS_FILE

    @property
    def inputs(self) -> Path:
        """Records of the contents of films and scans that the study reads, which the stage `inputs` writes."""
        return self.root / INPUTS_FOLDER

    def film_record(self, film: str) -> Path:
        return self.inputs / "films" / f"{film}.json"

    def scans_record(self, subject: str) -> Path:
        return self.inputs / "scans" / f"{subject}.json"

    @property
    def digests(self) -> Path:
        """Digests of files outside the study, by their size and time."""
        return self.root / ".cinecube" / "digests.json"

    @property
    def ready(self) -> Path:
        """Subjects whose scans were checked before extraction, with what the answer depends on."""
        return self.root / ".cinecube" / "ready.json"

    @property
    def unfetched(self) -> Path:
        """Paths of files that are needed and were not fetched, for `datalad get`."""
        return self.root / ".cinecube" / "unfetched.txt"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def tables(self) -> Path:
        return self.results / "tables"

    @property
    def plots(self) -> Path:
        return self.results / "plots"

    @property
    def metrics(self) -> Path:
        return self.root / METRICS_FILE

    @property
    def report(self) -> Path:
        return self.results / "report" / "index.html"

    @property
    def truth(self) -> Path:
        return self.data / "truth" / "truth.json"

    @property
    def drawn_features(self) -> Path:
        return self.data / "truth" / "drawn_features"

    @property
    def journals(self) -> Path:
        """Journals of unfinished extractions; outside every DVC output, which DVC deletes before a run."""
        return self.root / ".cinecube" / "journal"

    @property
    def locks(self) -> Path:
        """Locks of outputs that are being written; empty files that are never deleted."""
        return self.root / ".cinecube" / "locks"

    @property
    def imports(self) -> Path:
        """Notes by which an import that was interrupted is undone."""
        return self.root / ".cinecube" / "imports"

    @property
    def chunks(self) -> Path:
        """Chunks read from remotes and kept on this disk, by `cache=True`."""
        return self.root / ".cinecube" / "chunks"

    @property
    def timings(self) -> Path:
        """Durations of stages on this machine."""
        return self.root / ".cinecube" / "timings"

    @property
    def standing(self) -> Path:
        """The file of what DVC said of the pipeline last."""
        return self.root / ".cinecube" / "standing.json"

    @property
    def jobs(self) -> Path:
        """Output of the jobs of a batch system."""
        return self.root / ".cinecube" / "jobs"

    @property
    def logs(self) -> Path:
        """Tracebacks of errors that nobody expected."""
        return self.root / ".cinecube" / "log"

    @property
    def probed(self) -> Path:
        """Results of decoding whole films, by the digests of their files."""
        return self.root / ".cinecube" / "probed"

    def checkpoint(self, model: str) -> Path:
        return self.data / "checkpoints" / f"{model}.json"

    @property
    def extracted(self) -> Path:
        return self.data / "extracted.json"

    def imported(self, model: str) -> Path:
        """Record of an imported model's cubes as they were when they were checked."""
        return self.data / "imported" / f"{model}.json"

    def features(self, model: str, film: str) -> Path:
        """The feature cube of one model and film.

        Parameters
        ----------
        model, film : str

        Returns
        -------
        Path
            It need not be there.
        """
        return self.data / "features" / model / f"{film}.zarr"

    def residual(self, pair: str, film: str) -> Path:
        """A feature cube of a pair of the residual analysis.

        Parameters
        ----------
        pair : str
            Its name, `KEEP-REMOVE`.
        film : str

        Returns
        -------
        Path
            It need not be there.
        """
        return self.data / "residual" / pair / f"{film}.zarr"

    def brain(self, subject: str) -> Path:
        return self.data / "brain" / f"{subject}.zarr"

    def brain_qc(self, subject: str) -> Path:
        return self.data / "brain" / f"{subject}.qc.csv"

    def scores(self, model: str) -> Path:
        return self.results / "scores" / f"{model}.zarr"

    def predictions(self, model: str) -> Path:
        """Predicted and measured responses of the test films, mean over each parcel's targets."""
        return self.results / "predictions" / f"{model}.zarr"

    def weights(self, model: str) -> Path:
        """Weights of a model's encoders, where `keep_weights` asks for them."""
        return self.results / "weights" / f"{model}.zarr"

    @property
    def ceiling(self) -> Path:
        return self.data / "ceiling.zarr"

    def residual_check(self, pair: str) -> Path:
        """Table of how well a residual still predicts the removed features."""
        return self.tables / "residual_check" / f"{pair}.csv"

    @property
    def partition_layers(self) -> Path:
        """The layer that the partition takes of each of its streams: all that it reads of scores."""
        return self.root / LAYERS_FILE

    @property
    def partition(self) -> Path:
        return self.results / "partition.zarr"

    @property
    def significance(self) -> Path:
        return self.results / "significance.zarr"

    @property
    def scratch(self) -> Path:
        """Arrays too large for memory, of a stage that is running."""
        return self.root / ".cinecube" / "scratch"

    def relative(self, path: Path) -> str:
        """`path` as messages show it: relative to the study's folder if it is inside."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def is_of_study(path: Path) -> bool:
    """True if a path, there or not, is in a study or in a repository of DVC, or is the folder of one."""
    place = Path(os.path.abspath(path))
    return any((folder / PARAMS_FILE).is_file() or (folder / ".dvc").is_dir() for folder in (place, *place.parents))

"""A paragraph on what a study did, made from its parameters, with the works that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from cinecube.store.params.document import Study

Cite = Callable[..., str]
"""Takes keys of `WORKS`, notes them and returns how they are cited."""


@dataclass(frozen=True)
class Work:
    """A publication: its key in the text, how it is cited there, its reference and its BibTeX entry."""

    key: str
    cited: str
    bibtex: str


def _work(kind: str, key: str, cited: str, **fields: str) -> Work:
    body = ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items())
    return Work(key, cited, f"@{kind}{{{key},\n{body}\n}}")


WORKS = {
    work.key: work
    for work in (
        _work(
            "software",
            "cinecube",
            f"version {version('cinecube')}",
            title="cinecube",
            author="{cinecube developers}",
            version=version("cinecube"),
        ),
        _work(
            "inproceedings",
            "oota2025",
            "Oota et al., 2025",
            title="Multi-modal brain encoding models for multi-modal stimuli",
            author=(
                "Oota, Subba Reddy and Pahwa, Khushbu and Marreddy, Mounika and Singh, Maneesh and Gupta, Manish and"
                " Raju, Bapi S."
            ),
            booktitle="International Conference on Learning Representations",
            year="2025",
        ),
        _work(
            "article",
            "dupre2022",
            "Dupré la Tour et al., 2022",
            title="Feature-space selection with banded ridge regression",
            author="Dupré la Tour, Tom and Eickenberg, Michael and Nunez-Elizalde, Anwar O. and Gallant, Jack L.",
            journal="NeuroImage",
            volume="264",
            pages="119728",
            year="2022",
        ),
        _work(
            "article",
            "esteban2019",
            "Esteban et al., 2019",
            title="fMRIPrep: a robust preprocessing pipeline for functional MRI",
            author="Esteban, Oscar and Markiewicz, Christopher J. and Blair, Ross W. and others",
            journal="Nature Methods",
            volume="16",
            pages="111--116",
            year="2019",
        ),
        _work(
            "misc",
            "nilearn",
            "Nilearn contributors",
            title="nilearn",
            author="{Nilearn contributors}",
            doi="10.5281/zenodo.8397156",
        ),
        _work(
            "article",
            "benjamini1995",
            "Benjamini and Hochberg, 1995",
            title="Controlling the false discovery rate: a practical and powerful approach to multiple testing",
            author="Benjamini, Yoav and Hochberg, Yosef",
            journal="Journal of the Royal Statistical Society B",
            volume="57",
            pages="289--300",
            year="1995",
        ),
        _work(
            "article",
            "wilcoxon1945",
            "Wilcoxon, 1945",
            title="Individual comparisons by ranking methods",
            author="Wilcoxon, Frank",
            journal="Biometrics Bulletin",
            volume="1",
            pages="80--83",
            year="1945",
        ),
        _work(
            "article",
            "schrimpf2021",
            "Schrimpf et al., 2021",
            title="The neural architecture of language: integrative modeling converges on predictive processing",
            author="Schrimpf, Martin and Blank, Idan Asher and Tuckute, Greta and others",
            journal="Proceedings of the National Academy of Sciences",
            volume="118",
            number="45",
            pages="e2105646118",
            year="2021",
        ),
        _work(
            "inproceedings",
            "vit",
            "Dosovitskiy et al., 2021",
            title="An image is worth 16x16 words: transformers for image recognition at scale",
            author="Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and others",
            booktitle="International Conference on Learning Representations",
            year="2021",
        ),
        _work(
            "inproceedings",
            "videomae",
            "Tong et al., 2022",
            title="VideoMAE: masked autoencoders are data-efficient learners for self-supervised video pre-training",
            author="Tong, Zhan and Song, Yibing and Wang, Jue and Wang, Limin",
            booktitle="Advances in Neural Information Processing Systems",
            year="2022",
        ),
        _work(
            "inproceedings",
            "vivit",
            "Arnab et al., 2021",
            title="ViViT: a video vision transformer",
            author="Arnab, Anurag and Dehghani, Mostafa and Heigold, Georg and others",
            booktitle="IEEE/CVF International Conference on Computer Vision",
            year="2021",
        ),
        _work(
            "inproceedings",
            "wav2vec2",
            "Baevski et al., 2020",
            title="wav2vec 2.0: a framework for self-supervised learning of speech representations",
            author="Baevski, Alexei and Zhou, Yuhao and Mohamed, Abdelrahman and Auli, Michael",
            booktitle="Advances in Neural Information Processing Systems",
            year="2020",
        ),
        _work(
            "inproceedings",
            "ast",
            "Gong et al., 2021",
            title="AST: audio spectrogram transformer",
            author="Gong, Yuan and Chung, Yu-An and Glass, James",
            booktitle="Interspeech",
            year="2021",
        ),
        _work(
            "inproceedings",
            "imagebind",
            "Girdhar et al., 2023",
            title="ImageBind: one embedding space to bind them all",
            author="Girdhar, Rohit and El-Nouby, Alaaeldin and Liu, Zhuang and others",
            booktitle="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
            year="2023",
        ),
        _work(
            "inproceedings",
            "tvlt",
            "Tang et al., 2022",
            title="TVLT: textless vision-language transformer",
            author="Tang, Zineng and Cho, Jaemin and Nie, Yixin and Bansal, Mohit",
            booktitle="Advances in Neural Information Processing Systems",
            year="2022",
        ),
    )
}


@dataclass(frozen=True)
class Methods:
    """The methods of a study: paragraphs, and the BibTeX of what they cite."""

    paragraphs: tuple[str, ...]
    bibtex: str


def write_methods(study: Study) -> Methods:
    """Methods in words that a paper may take over.

    Parameters
    ----------
    study : Study
    """
    cited: list[str] = []

    def cite(*keys: str) -> str:
        cited.extend(key for key in keys if key not in cited)
        return f"({'; '.join(WORKS[key].cited for key in keys)})"

    made_up = (
        "Films, responses and networks of this study are simulated, with a known truth: nobody was scanned, and no"
        f" network was trained. {_pretrained(study)}What follows says how they were analysed."
        if study.simulate is not None
        else ""
    )
    paragraphs = (
        made_up,
        _features(study, cite),
        _responses(study, cite),
        _encoding(study, cite),
        _ceilings(study, cite),
        _tests(study, cite),
    )
    return Methods(tuple(text for text in paragraphs if text), "\n\n".join(WORKS[key].bibtex for key in cited))


def _pretrained(study: Study) -> str:
    """Sentence on how a network of a simulated study and its untrained twin differ, which were both never trained."""
    if not any(study.is_untrained(name) for name in study.encoded):
        return ""
    return (
        "“Pretrained” stands for the weights of a network's checkpoint, drawn so that its layers can be told apart;"
        " responses follow such networks. An untrained twin has fresh weights, small and of another seed; no response"
        " follows it. "
    )


def _features(study: Study, cite: Cite) -> str:
    names = []
    for name, params in study.models.items():
        if name not in study.encoded or params.untrained is not None:
            continue
        names.append(f"{name} {cite(params.extractor)}" if params.extractor in WORKS else name)
    twins = [name for name, params in study.models.items() if name in study.encoded and params.untrained is not None]
    read = "networks with random weights and the architectures of " if study.simulate is not None else ""
    other = "other " if study.simulate is not None else ""
    text = (
        f"Features of the films were read from every layer of {read}{_listed(names)}, averaged over the tokens of each "
        "layer and standardised with the training films' mean and standard deviation. A row is the window of "
        f"{study.clock.window_s:g} s that begins with a TR of {study.clock.tr_s:g} s."
    )
    return text + (f" {_listed(twins)} had the same architectures with {other}random weights." if twins else "")


def _responses(study: Study, cite: Cite) -> str:
    brain = study.brain
    if study.simulate is not None:
        source = f"simulated as files of {'fMRIPrep' if brain.source == 'fmriprep' else brain.source}"
    elif brain.source == "fmriprep":
        source = f"preprocessed by fMRIPrep {cite('esteban2019')}"
    else:
        source = f"read from {brain.source}"
    what = (
        "averaged over the parcels of an atlas"
        if brain.targets == "parcels"
        else f"taken at every {brain.targets.removesuffix('s')}"
    )
    text = (
        f"Responses of {len(study.brain.subjects)} subjects, {source} in {brain.space}, were {what}. They were cleaned"
        f" with nilearn {cite('nilearn')}: confounds `{brain.confounds}`, high-pass at {brain.high_pass_hz:g} Hz"
    )
    smoothing = f", smoothing of {brain.fwhm_mm:g} mm" if brain.fwhm_mm else ""
    repeats = "; showings of one film were averaged" if brain.repeats == "average" else ""
    return f"{text}{smoothing}, and standardised run by run{repeats}."


def _encoding(study: Study, cite: Cite) -> str:
    encode = study.encode
    delays = ", ".join(str(delay) for delay in encode.delays)
    n_folds = min(encode.folds, len(study.segments(study.split.train)))  # as `leave_segments_out` cuts them
    text = (
        f"A ridge regression was fitted for each layer and subject on {_listed(study.split.train)}, with the features"
        f" at delays of {delays} TRs, which never cross a run. The penalty of each target was chosen among"
        f" {encode.alphas.n} from {encode.alphas.min:g} to {encode.alphas.max:g} by {n_folds} folds of whole"
        f" segments, of which {study.split.gap_s:g} s were left out at their borders; the solver agrees with himalaya"
        f" {cite('dupre2022')}. Scores are Pearson correlations with the responses to {_listed(study.split.test)}, on"
        " which nothing was fitted or chosen: layers are those that the cross-validated score of the training films"
        " prefers."
    )
    if study.encode.compat:
        text += f" Choices of the published code {cite('oota2025')} were repeated: {_listed(study.encode.compat)}."
    return text


def _ceilings(study: Study, cite: Cite) -> str:
    ceiling = study.ceiling
    if ceiling.use == "none":
        return ""
    how = (
        f"what the other subjects predict, extrapolated to many of them {cite('schrimpf2021')}"
        if ceiling.use == "cross_subject"
        else "the reliability of the responses to films that were shown twice"
    )
    return (
        f"Scores were divided by a noise ceiling, {how}, where it was at least {ceiling.threshold:g}; shares above "
        f"{ceiling.cap:g} were cut."
    )


def _tests(study: Study, cite: Cite) -> str:
    statistics = study.statistics
    null = "circular shifts of the test rows" if statistics.permute == "shifts" else "permuted blocks of test rows"
    return (
        f"Scores were tested against {statistics.permutations} {null} and models against each other over subjects by"
        f" Wilcoxon's signed-rank test {cite('wilcoxon1945')}, at a false discovery rate of {statistics.fdr:g}"
        f" {cite('benjamini1995')}."
        + (
            " What a model shares with another was removed from its features by ridge regression on the training films "
            f"{cite('oota2025')}."
            if study.residual
            else ""
        )
        + f" Analyses were run with cinecube {cite('cinecube')}."
    )


def _listed(names: Sequence[str]) -> str:
    every = list(names)
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}" if every else "no model"

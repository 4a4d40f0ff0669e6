"""
A map of the brain
==================

Scores of each target at the layer that the training films chose for it, average over subjects, on the inflated cortex
of nilearn. ``cinecube export score videomae.nii.gz --model videomae`` writes the same map for other viewers.
"""

import os

import cinecube as cc
from cinecube.analysis.figures.brain_pictures import map_axes
from cinecube.analysis.maps.map_values import map_values

study = cc.open(os.environ["CINECUBE_STUDY"])
values, attrs = map_values(study.params, study.paths.root, "score", "videomae")
axes = map_axes(values, attrs, "VideoMAE", "test r", colours="YlOrRd")

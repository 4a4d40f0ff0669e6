"""
A map of the brain
==================

The depth in the network that each target follows best, average over subjects, on the inflated cortex of nilearn.
``cinecube export depth vit.nii.gz --model vit`` writes the same map for other viewers.
"""

import os

import cinecube as cc
from cinecube.analysis.figures.brain_pictures import map_axes
from cinecube.analysis.maps.map_values import map_values

study = cc.open(os.environ["CINECUBE_STUDY"])
values, attrs = map_values(study.params, study.paths.root, "depth", "videomae")
axes = map_axes(values, attrs, "VideoMAE", "preferred depth", top=1, colours="viridis")

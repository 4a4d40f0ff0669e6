"""
A map of the brain
==================

Scores of each target at the layer that the training films chose for it, average over subjects, on the inflated cortex
of nilearn. ``cinecube export score videomae.nii.gz --model videomae`` writes the same map for other viewers.
"""

import os

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
axes = study.draw("score", "videomae")

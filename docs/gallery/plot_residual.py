"""
What a model loses without another
==================================

Scores of a model before and after what another model explains is removed from its features, by region.
"""

import os

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
axes = study.figure(4)["figure4"][0]

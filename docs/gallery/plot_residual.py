"""
What a model loses without another
==================================

Scores of a model before and after what another model explains is removed from its features, by region.
"""

import os

import cinecube as cc
from cinecube.analysis.figures.drawing import residual_bars
from cinecube.analysis.figures.paper_figures import pair_title

study = cc.open(os.environ["CINECUBE_STUDY"])
titles = {pair.name: pair_title(pair) for pair in study.params.residual}
axes = residual_bars(study.table("residual_roi"), titles)[0]

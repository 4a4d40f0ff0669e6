"""
A ridge of your own
===================

``study.pairs`` gives features and responses as encoders see them. A ridge of himalaya finds the scores of the report.
"""

import os

import matplotlib.pyplot as plt
from himalaya.ridge import RidgeCV

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
pairs = study.pairs("videomae", 6, "sub-01")
ridge = RidgeCV(alphas=pairs.alphas, fit_intercept=False, cv=pairs.folds)
ridge.fit(pairs.X[pairs.train], pairs.Y[pairs.train])
mine = pairs.score(ridge.predict(pairs.X[pairs.test]))
reported = study.scores("videomae")["score"].sel(
    model="videomae", layer=pairs.layer, subject=pairs.subject, target=mine["target"]
)

figure, axes = plt.subplots(layout="constrained")
axes.plot(reported, mine, ".", markersize=4)
axes.axline((0, 0), slope=1, color="0.7", zorder=0)
axes.set(xlabel="test r of the report", ylabel="test r of himalaya's ridge", aspect="equal")

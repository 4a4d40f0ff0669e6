"""
Layers of a model
=================

Scores of every layer over the whole brain: a line for each subject, and their average.
"""

import os

import matplotlib.pyplot as plt

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
scores = study.scores("videomae")["score"].sel(model="videomae").mean("target")

figure, axes = plt.subplots(layout="constrained")
axes.plot(scores["layer"], scores.transpose("layer", "subject"), color="0.75")
axes.plot(scores["layer"], scores.mean("subject"), color="C0", marker="o")
axes.set(xlabel="layer", ylabel="test r")
axes.tick_params("x", rotation=60)

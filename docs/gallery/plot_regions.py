"""
Share of the ceiling by region
==============================

Each dot is a subject, each bar the average of a model over subjects.
"""

import os

import matplotlib.pyplot as plt

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
models = ["videomae", "ast", "imagebind.concat"]
table = study.table("roi").query("model in @models")
share = table.pivot_table("normalised", ["roi", "subject"], "model", sort=False)[models]

means = share.groupby("roi", sort=False).mean()
axes = means.plot.bar(width=0.8, alpha=0.6, ylabel="share of the ceiling", xlabel="", figsize=(8, 4))
for bars, model in zip(axes.containers, models, strict=True):
    for bar, roi in zip(bars, means.index, strict=True):
        dots = share.loc[roi, model]
        axes.plot([bar.get_x() + bar.get_width() / 2] * len(dots), dots, "k.", markersize=4)
axes.legend(frameon=False)
plt.tight_layout()

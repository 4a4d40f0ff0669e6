"""
Variance that two models share
==============================

What each of two models explains alone, and what either could explain, by region and as the average over subjects.
These are differences of explained variance in films that were not fitted, so they may be below 0.
"""

import os

import matplotlib.pyplot as plt

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
table = study.table("partition_roi")
own = table[table["set"] == table["set"].iloc[0]]
parts = own.pivot_table("mean", "roi", "part", sort=False)
axes = parts.plot.bar(stacked=True, ylabel="explained variance", xlabel="", figsize=(9, 4))
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.tight_layout()

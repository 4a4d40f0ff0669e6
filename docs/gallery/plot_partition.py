"""
Variance that two models share
==============================

What each of two models explains alone, and what either could explain, by region and as the average over subjects.
"""

import os

import matplotlib.pyplot as plt

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
table = study.table("partition_roi")
own = table[table["set"] == table["set"].iloc[0]]
parts = own.pivot_table("mean", "roi", "part", sort=False)
parts.plot.bar(stacked=True, ylabel="explained variance", xlabel="", figsize=(8, 4)).legend(title=own["set"].iloc[0])
plt.tight_layout()

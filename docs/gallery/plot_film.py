"""
Predicted and measured along a film
===================================

The parcel that the model predicts best, along the film that no encoder has seen.
"""

import os

import matplotlib.pyplot as plt
import xarray as xr

import cinecube as cc

study = cc.open(os.environ["CINECUBE_STUDY"])
film = study.predictions("videomae").sel(model="videomae").mean("subject")
r = xr.corr(film["predicted"], film["measured"], "time")
best = film.isel(parcel=int(r.argmax()))
onset_min = best["time"] * study.params.clock.tr_s / 60

figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
axes.plot(onset_min, best["measured"], color="0.6", label="measured")
axes.plot(onset_min, best["predicted"], color="C1", label="predicted")
axes.set(title=f"{best['parcel'].item()}, r = {float(r.max()):.2f}", xlabel="minutes", ylabel="standard deviations")
axes.legend(frameon=False, ncols=2)

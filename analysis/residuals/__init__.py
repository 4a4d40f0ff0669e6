"""Residual analyses: how far scores drop without what another model explains."""

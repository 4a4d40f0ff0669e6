"""Encoding models: a model's layers fitted to every subject's responses, and the score cube that comes out."""

"""Inputs: files of others by their contents' digests, those that were not fetched among them."""

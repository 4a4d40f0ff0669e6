"""Any encoder of the transformers library, by its checkpoint."""

"""The cube: its schema, writing, checksums and guarded reading."""

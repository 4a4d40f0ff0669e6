"""The networks of the reference study: five of transformers in one file, two of our own."""

"""The networks of the reference study: five of transformers, two of our own."""

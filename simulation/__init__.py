"""Films, scans and checkpoints with a planted, known truth.

Nothing here is imported by `features` or `analysis`, and nothing of theirs is imported here but the architectures of
two networks, for which there is no other code: what judges the pipeline must not share its code. Importing
this package is cheap; torch, PyAV and nilearn load when a study is made.
"""

VERSION = 1
"""Of films, scans, checkpoints and their truth: raise it when a change of code changes them."""

"""The networks of the reference study, one file each."""

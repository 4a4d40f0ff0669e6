"""From film to feature cube: decoding, windows, networks and the extraction loop."""

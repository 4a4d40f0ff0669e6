"""Ready: whether scans will become brain cubes that can be compared, known before hours of extraction."""

"""Features of other programs: arrays and tables read within bounds and matched to segments."""

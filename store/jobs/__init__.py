"""Jobs: functions of arrays run in threads, processes or on a cluster, one BLAS setting in all."""

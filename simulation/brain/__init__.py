"""Simulated brains: parcels, responses, confounds and scans."""

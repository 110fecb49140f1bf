"""The audit: one run of a real model through every claim, written down as report.json and report.html."""

"""Deltas planned from the fleet: which pairs of releases are worth one, and who builds it when.

census.py decides, pure; server/store/delta_jobs.py keeps the jobs; worker.py runs them. A device
never waits for any of it: it takes the full payload, or an earlier delta, until a better one is there.
"""

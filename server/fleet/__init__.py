"""The shell around the rollout engine: what polls and reports bring is carried to the pure core
(server/rollout/), and what it decides is carried out in the database (server/store/).
"""

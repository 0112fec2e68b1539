"""hawkBit's Direct Device Integration API, for SWUpdate, RAUC and Zephyr: the same rollouts,
through another door.

door.py answers requests; step.py, feedback.py, answers.py and dirty.py are pure and hold what the
protocol means. docs/ddi.md says what differs from hawkBit, and why.
"""

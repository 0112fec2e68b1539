"""Rollouts: who is offered which release, in which phase, and when a phase has proved itself.

Pure: values in, decisions out. No database, no clock, no network; times are whole seconds since
1970 and arguments. server/store/ keeps the values, server/fleet/ carries the decisions out.
"""

"""/api/v1, the operators' door: who may do what, the calls, what is kept of them.

table.py lists every call; door.py answers them: it identifies, authorises, parses, carries out in
one transaction with its row of the audit log, and renders.
"""

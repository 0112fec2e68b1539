"""The fleet's database: the only folder that speaks SQL.

database.py opens it and runs transactions; every other module is about one kind of row, and its
functions take the connection of a transaction that their caller has begun. What must happen
together is put together there: server/fleet/.
"""

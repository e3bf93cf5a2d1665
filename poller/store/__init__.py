"""
The store: what is remembered, durably, on SQLite or PostgreSQL.

`engine` opens the database; each other module is one topic and works on a connection that the caller has begun, so that
the caller decides what is committed together (guarantee 2.3). Rows become `poller.model` objects here and nowhere else.

==============  ==========================================================
``receiving``   a page of a poll, and the checkpoint that moves with it
``due``         what is due now, and when the next thing is
``intents``     what is taken on, and what may be sent
``settling``    what became of it
``leases``      who works on what; takeovers, and how long a doubt lasts
``standing``    routes, remotes, proofs, budgets, holds
``reading``     what the listings show
``lives``       the whole life of one record
``operating``   what operators do
``tokens``      what our own token endpoint has handed out
==============  ==========================================================
"""

from poller.store.engine import Store, first_line, is_broken, open_store

__all__ = ["Store", "first_line", "is_broken", "open_store"]

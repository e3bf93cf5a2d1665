"""
The duplicate guard: which protection is in force for creates, and what each answer proves (guarantee 2.3, 7).

Pure. What is proven is kept per (instance, table, integration user) by the store, and a restart finds it there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from poller.model import Guard, Receipt

#: One create in so many is read back by its correlation_id even when all is proven (guarantee A4).
READ_BACK_EVERY = 1000


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is known of one instance, table and integration user."""

    #: None: not known yet. True: the instance keeps the sys_id we choose. False: it does not, or refuses it.
    sys_id: bool | None = None
    #: True once a create of ours was found again by its correlation_id.
    lookup: bool = False
    #: For ``guard_chosen`` and ``status``.
    why: str = "nothing created yet"


@dataclass(frozen=True, kw_only=True)
class InForce:
    """How creates are sent now."""

    guard: Guard
    #: Send the derived sys_id along.
    with_sys_id: bool
    #: One create at a time, and read back, until look-ups are proven.
    proving: bool
    why: str


def in_force(mode: str, proof: Proof) -> InForce:
    """
    Return how creates are sent.

    Args:
        mode: ``duplicate_guard`` of the settings: ``auto``, ``sys_id`` or ``settle``.
    """
    if mode == "settle":
        return InForce(guard=Guard.SETTLE, with_sys_id=False, proving=not proof.lookup, why="chosen in the settings")
    if proof.sys_id is None:
        return InForce(guard=Guard.SETTLE, with_sys_id=True, proving=True, why=proof.why)
    if proof.sys_id:
        return InForce(guard=Guard.SYS_ID, with_sys_id=True, proving=not proof.lookup, why=proof.why)
    return InForce(guard=Guard.SETTLE, with_sys_id=False, proving=not proof.lookup, why=proof.why)


def learn(proof: Proof, receipt: Receipt) -> Proof:
    """Return *proof* as it stands after a create that is known to be done."""
    looked_up = receipt.read_back is True or receipt.learnt == "lookup"
    if receipt.sys_id_honoured is False:
        why = "the instance gave another sys_id than the one sent"
        return replace(proof, sys_id=False, lookup=proof.lookup or looked_up, why=why)
    if receipt.sys_id_honoured and looked_up and proof.sys_id is None:
        return Proof(sys_id=True, lookup=True, why="a create kept our sys_id and was found by its correlation_id")
    if looked_up and not proof.lookup:
        return replace(proof, lookup=True)
    return proof


def refused(proof: Proof) -> Proof:
    """Return *proof* after a create went through without the sys_id that had been refused with it."""
    return replace(proof, sys_id=False, why="the instance refused a create with our sys_id and took it without")

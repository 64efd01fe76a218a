"""The states of a queued recipient, listed once; what every crash leaves follows from them (after qmail's INTERNALS).

waiting    durable, to be tried at next_attempt
leased     somebody tries it until lease_until; a killed process leaves this, and the row is due again when it ends
held       the operator stopped it; nothing happens until the operator lets it go on
delivered  the next hop has it; kept for a while so that a repeated enqueue is answered, not sent
refused    the sender was told, or wanted no telling; kept likewise
dropped    the operator took it out; kept likewise
"""

WAITING = "waiting"
LEASED = "leased"
HELD = "held"
DELIVERED = "delivered"
REFUSED = "refused"
DROPPED = "dropped"

TRANSITIONS = {
    WAITING: {LEASED, HELD, DROPPED},
    LEASED: {LEASED, WAITING, DELIVERED, REFUSED},
    HELD: {WAITING, DROPPED},
    DELIVERED: set[str](),
    REFUSED: set[str](),
    DROPPED: set[str](),
}
IN_QUEUE = (WAITING, LEASED, HELD)
ENDED = (DELIVERED, REFUSED, DROPPED)

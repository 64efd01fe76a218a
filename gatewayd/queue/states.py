"""The states of a queued recipient, listed once; what every crash leaves follows from them (after qmail's INTERNALS).

waiting    durable, to be tried at next_attempt
leased     somebody tries it until lease_until; a killed process leaves this, and the row is due again when it ends
delivered  the next hop has it; kept for a while so that a repeated enqueue is answered, not sent
refused    the sender was told; kept likewise
"""

WAITING = "waiting"
LEASED = "leased"
DELIVERED = "delivered"
REFUSED = "refused"

TRANSITIONS = {
    WAITING: {LEASED},
    LEASED: {LEASED, WAITING, DELIVERED, REFUSED},
    DELIVERED: set[str](),
    REFUSED: set[str](),
}

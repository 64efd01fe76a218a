"""A bot that answers whoever writes. PARLEY_USER=bot@example.org PARLEY_PASSWORD=... python docs/bot.py"""

import os

from twisted.internet import defer, task

from gatewayd.client import connect


async def main(reactor):
    user, password = os.environ["PARLEY_USER"], os.environ["PARLEY_PASSWORD"]
    async with await connect(reactor, user, password, patient=True) as parley:
        async for message in parley.messages(live=True):
            if message.type == "message" and "\\Answered" not in message.flags:
                await parley.send([message.sender], f"You said: {message.text}", answers=message)
                await parley.mark(message.mailbox, [message.uid], add=["\\Answered"])


if __name__ == "__main__":
    task.react(lambda reactor: defer.Deferred.fromCoroutine(main(reactor)))

"""The milter protocol, the mail server's side, sans-IO (version 6, as Sendmail's libmilter and Postfix speak it)."""


class RemoteProtocolError(Exception):
    """The filter broke the protocol, or wants to do what we do not offer."""

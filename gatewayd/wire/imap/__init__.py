"""The IMAP4rev1 server's engine, sans-IO (RFC 3501, 2177, 4315, 7888, 6851)."""


class RemoteProtocolError(Exception):
    """The client sends what cannot be a command."""

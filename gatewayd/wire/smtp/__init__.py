"""SMTP engines, server and client, sans-IO (RFC 5321, 1870, 2920, 3207, 4954, 6152, 6531, 2034)."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol beyond what a reply can mend."""


class LocalProtocolError(Exception):
    """We asked the engine for something that its state, or the protocol, does not allow."""

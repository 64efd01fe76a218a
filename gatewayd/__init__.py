"""gatewayd: Parley and classic e-mail over one message store. docs/architecture.rst shows the floors."""

"""The POP3 server's engine, sans-IO (RFC 1939, 2449, 2595, 5034)."""
